"""A program: what images micropython.org has for a board, found by the mpflash package, as JSON on standard output.

    python -m lopower_provisioning.stock_index ESP32_GENERIC_S3

It runs as a process of its own, whose home `stock` sets to a folder of the cache: mpflash opens a database and makes
folders in the home directory when it is imported, sets up logging, and waits for a server without end.
"""

from __future__ import annotations

import contextlib
import json
import sys

from lopower_provisioning.downloads import site


def main() -> None:
    """Print a list of {"board", "version", "url"}; `board` has the variant: ESP32_GENERIC-SPIRAM."""
    board = sys.argv[1]
    with contextlib.redirect_stdout(sys.stderr):  # it shows its progress
        from loguru import logger
        from mpflash.download import from_web

        logger.remove()
        from_web.MICROPYTHON_ORG_URL = site()
        found = from_web.get_boards(["esp32"], [board.partition("-")[0]], True)
    images = [
        {"board": entry.board_id, "version": entry.version, "url": entry.source}
        for entry in found
        if entry.board_id == board and entry.source.endswith(".bin") and "preview" not in entry.source
    ]
    json.dump(images, sys.stdout)


if __name__ == "__main__":
    main()
