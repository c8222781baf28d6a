"""`DIRECTORY`: a virtual device for each configuration in it; says "ready" once all have a session; stays."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from lopower_hil.virtual_device import DeviceConfiguration, VirtualDevice


async def main(configurations: list[str]) -> None:
    """See the module."""
    async with AsyncExitStack() as stack:
        for configuration in configurations:
            device = VirtualDevice(DeviceConfiguration.parse(configuration))
            await stack.enter_async_context(device)
            await device.handshake()
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main([path.read_text() for path in sorted(Path(sys.argv[1]).iterdir())]))
