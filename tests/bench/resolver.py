"""The resolver behind lopower: `RESOLV_CONF` is told its port; answers the names of `dns_rows.zone`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

from tests.bench.dns_rows import zone
from tests.support.dns_resolver import LoopbackResolver


async def main(told: Callable[[str], object]) -> None:
    """Serve."""
    async with LoopbackResolver() as running:
        running.add(zone())
        told(f"nameserver [127.0.0.1]:{running.port}\n")
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]).write_text))
