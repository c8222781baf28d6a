"""The demonstration: a daemon, a test tailnet, two virtual devices and a virtual board on loopback, and what they do.

Exit code 0 if every step ended as it should. With `--keep` all of it stays up until Ctrl-C.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

from lopower.control.errors import ControlError
from lopower_hil.demo import screen, tailnet
from lopower_hil.demo.board import BoardSteps
from lopower_hil.demo.processes import PROGRAMS, Demonstration
from lopower_hil.demo.steps import STEPS, Gateway, StepFailedError
from lopower_hil.loopback import HOST, free_port
from lopower_hil.tailnet_world import TailnetWorld, TailnetWorldError
from lopower_hil.virtual_device import DeviceConfiguration, VirtualDevice

# What can go wrong in a step without being a fault of the demonstration itself.
_FAILURES = (StepFailedError, TailnetWorldError, ControlError, OSError, EOFError, TimeoutError)


class Results:
    """What has been shown, and how much of it failed."""

    def __init__(self) -> None:
        self.failed = 0

    async def show(self, name: str, step: Callable[[], Awaitable[str]]) -> bool:
        """Run one step and say how it ended; whether it did as it should."""
        began = time.monotonic()
        try:
            result = await step()
        except _FAILURES as error:
            self.failed += 1
            screen.step(name, time.monotonic() - began, f"{type(error).__name__}: {error}", failed=True)
            return False
        screen.step(name, time.monotonic() - began, result)
        return True


async def demonstrate(demonstration: Demonstration, stack: AsyncExitStack, keep: bool) -> int:
    """Run it all; the exit code."""
    results = Results()
    world = await start_tailnet(stack)
    ports = await demonstration.start_servers()
    driver = ["--tailnet", "host"] if world is None else ["--tailnet", "tsnet", "--control-url", world.control_url]
    await demonstration.start_daemon("--dns-route", f"demo.example={HOST}:{ports['resolver']}", *driver)
    configurations = [await demonstration.add_device(name) for name in ("kitchen", "garden")]
    text, code = configurations[0]
    screen.say(f"\n{text.rstrip()}")
    screen.show_qr(code)
    gateway = await serve_ports(demonstration, ports)
    kitchen, garden = [VirtualDevice(DeviceConfiguration.parse(text)) for text, _ in configurations]

    screen.title("kitchen")
    await stack.enter_async_context(kitchen)
    await show_device(results, kitchen, gateway, len(STEPS))
    screen.title("garden")
    await stack.enter_async_context(garden)
    await show_device(results, garden, gateway, 3)
    if world is not None:
        screen.title("the tailnet")
        page = tailnet.DevicePage(kitchen)
        stack.push_async_callback(page.close)
        await tailnet.TailnetSteps(demonstration, world, kitchen, gateway.ipv4).run(results.show)
    screen.title("a board")
    await BoardSteps(demonstration, world, gateway).run(results.show)
    screen.say()
    await demonstration.type_lopower("device", "list")
    seconds = time.monotonic() - demonstration.began
    verdict = f"{results.failed} steps failed" if results.failed else "all steps ended as they should"
    screen.say(f"\n{verdict}, after {seconds:.1f} s")
    if keep:
        await keep_up(demonstration, stack, world)
    return 1 if results.failed else 0


async def start_tailnet(stack: AsyncExitStack) -> TailnetWorld | None:
    """Start the test tailnet; None where it cannot be, which is said."""
    began = time.monotonic()
    try:
        if missing := tailnet.what_is_missing():
            raise TailnetWorldError(missing)
        world = await stack.enter_async_context(tailnet.running_tailnet())
    except TailnetWorldError as error:
        screen.say(f"Without a tailnet: {error}.")
        screen.say("This is the host driver: devices reach the tailnet that this host is in, if it is in one.\n")
        return None
    nodes = " and ".join(f"{name} ({addresses[0]})" for name, addresses in world.peers.items())
    screen.say(f"A test tailnet on loopback, {world.domain}, with {nodes}, after {time.monotonic() - began:.1f} s\n")
    return world


async def serve_ports(demonstration: Demonstration, ports: dict[str, int]) -> Gateway:
    """Let devices reach what runs on this host; where they find it."""
    closed = free_port(socket.SOCK_STREAM)
    for port in (ports["web"], ports["bulk"], closed):
        await demonstration.type_lopower("serve", str(port))
    server: dict[str, Any] = json.loads(await demonstration.lopower("server", "show", "--json"))
    return Gateway(
        ipv4=server["gateway_ipv4"],
        ipv6=server["gateway_ipv6"],
        web_port=ports["web"],
        bulk_port=ports["bulk"],
        closed_port=closed,
    )


async def show_device(results: Results, device: VirtualDevice, gateway: Gateway, count: int) -> None:
    """The first steps of a device; without the handshake no other can succeed."""
    for name, step in STEPS[:count]:
        if not await results.show(name, partial(step, device, gateway)) and name == "handshake":
            return


async def keep_up(demonstration: Demonstration, stack: AsyncExitStack, world: TailnetWorld | None) -> None:
    """Say how to talk to what is up, and wait for Ctrl-C."""
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    program, here = PROGRAMS / "lopower", Path.cwd()
    program = program.relative_to(here) if program.is_relative_to(here) else program
    screen.say("\nEverything stays up; Ctrl-C ends it. In another terminal, to the daemon:\n")
    screen.say(f"  export LOPOWER_STATE_DIR={demonstration.state}")
    for arguments in ("status", "ping kitchen", "device show kitchen"):
        screen.say(f"  {program} {arguments}")
    if world is not None:
        screen.say("\nand to the tailnet, by proxies that fetch pages as one of its nodes:\n")
        for peer in world.peers:
            proxy = tailnet.PeerProxy(world, peer)
            stack.push_async_callback(proxy.close)
            screen.say(f"  curl --proxy http://{HOST}:{await proxy.start()} http://kitchen/  # as {peer}")
        screen.say(f"  {program} expose kitchen --node  # lets {tailnet.STRANGER} in, too")
    screen.say("")
    await ended.wait()
    screen.say()


async def run(keep: bool) -> int:
    """The demonstration in a directory of its own; whatever happens, its processes end."""
    with tempfile.TemporaryDirectory(prefix="lopower-demo-") as directory:
        os.chmod(directory, 0o700)
        async with AsyncExitStack() as stack:
            demonstration = Demonstration(Path(directory))
            stack.push_async_callback(demonstration.stop)
            return await demonstrate(demonstration, stack, keep)


def main() -> int:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave it all up until Ctrl-C")
    try:
        return asyncio.run(run(parser.parse_args().keep))
    except _FAILURES as error:
        print(f"demo: {error or type(error).__name__}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
