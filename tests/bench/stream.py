"""Bulk through a peer of the test tailnet: `up ADDR SECONDS` or `down ADDR SECONDS`; prints bytes and seconds as JSON.

The peer counts what comes (up) or sends more than can come in time (down); the ports are those of its services.go.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from typing import Final

SOURCE_PORT: Final = 19
COUNT_PORT: Final = 20
_CHUNK: Final = 128 << 10  # as iperf3


def up(host: str, seconds: float) -> tuple[int, float]:
    """Bytes that the peer took, and how long that was."""
    data = bytes(_CHUNK)
    with socket.create_connection((host, COUNT_PORT), timeout=30) as connection:
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        count = b""
        while answer := connection.recv(64):
            count += answer
        return int(count), time.monotonic() - began


def down(host: str, seconds: float) -> tuple[int, float]:
    """Bytes that came from the peer, and how long that was."""
    buffer = bytearray(_CHUNK)
    count = 0
    with socket.create_connection((host, SOURCE_PORT), timeout=30) as connection:
        connection.sendall(b"1000000000000\n")
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            count += connection.recv_into(buffer)
        return count, time.monotonic() - began


if __name__ == "__main__":
    transfer = {"up": up, "down": down}[sys.argv[1]]
    moved, took = transfer(sys.argv[2], float(sys.argv[3]))
    print(json.dumps({"bytes": moved, "seconds": took}))
