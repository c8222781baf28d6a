"""A test tailnet on loopback, and one of its nodes, for tests that are not asynchronous."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import threading
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from lopower_hil.bench.errors import BenchError, LackingError
from lopower_hil.tailnet_world import TailnetWorld, TailnetWorldError, running_world

PEER: Final = "peer"
BUILD_SECONDS: Final = 900.0
_CALL_SECONDS: Final = 120.0
_PROGRAM: Final = "lopower-test-tailnet"
_SIDECAR: Final = "lopower-sidecar"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page:
    """What a peer fetched."""

    status: int
    body: str


class TailnetPeer:
    """A node of the test tailnet that the proxy is a node of, too.

    Attributes:
        addresses: its own, IPv4 first.
        name: its MagicDNS name.
    """

    def __init__(self, tailnet: Tailnet) -> None:
        self._tailnet = tailnet
        self.addresses = tailnet.world.peers[PEER]
        self.name = f"{PEER}.{tailnet.world.domain}"

    def get(self, url: str, timeout: float = 15.0) -> Page:
        """Fetch a page. Raises BenchError: "refused", "timeout", "unreachable", "reset", or what it was."""
        answer = self.do("fetch", url=url, timeout=timeout)
        return Page(answer["status"], answer["body"])

    def send(self, address: str, text: str, timeout: float = 15.0) -> str:
        """Connect to HOST:PORT over TCP, send, and read to the end. Raises BenchError."""
        return str(self.do("tcp", address=address, send=text, timeout=timeout)["received"])

    def do(self, operation: str, **fields: Any) -> dict[str, Any]:
        """One of the operations of hil/tailnet_world/operations.go. Raises BenchError."""
        return self._tailnet.do(operation, peer=PEER, **fields)


class Tailnet:
    """The tailnet, in a thread with a loop of its own; `close` ends it."""

    world: TailnetWorld

    def __init__(self, program: Path) -> None:
        """Raises BenchError if it does not start."""
        self._loop = asyncio.new_event_loop()
        self._stack = AsyncExitStack()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tailnet", daemon=True)
        self._thread.start()
        try:
            self.world = self._call(self._stack.enter_async_context(running_world(program, PEER)))
        except BaseException:
            self._end()
            raise

    @property
    def flags(self) -> tuple[str, ...]:
        """Settings that make a proxy a node of it."""
        return ("--tailnet", "tsnet", "--control-url", self.world.control_url)

    def do(self, operation: str, **fields: Any) -> dict[str, Any]:
        """Raises BenchError."""
        return self._call(self.world.do(operation, **fields))

    def close(self) -> None:
        """End it."""
        try:
            self._call(self._stack.aclose())
        finally:
            self._end()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result(_CALL_SECONDS)
        except (TailnetWorldError, TimeoutError) as error:
            raise BenchError(f"the test tailnet: {error or 'no answer'}") from None

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def program(scratch: Path) -> Path:
    """The test tailnet's program: beside the interpreter, where `make` puts it, else compiled into `scratch`.

    Raises LackingError: it is not there, and cannot be compiled.
    """
    if not _sidecar_is_there():
        raise LackingError(
            f"the program {_SIDECAR}, by which a proxy joins a tailnet, is not there: install Go, and lopower again"
        )
    beside = Path(sys.executable).with_name(_PROGRAM)
    if beside.is_file():
        return beside
    if shutil.which("go") is None:
        raise LackingError("the test tailnet is a Go program, and Go is not installed (https://go.dev/dl/)")
    source, script = _source()
    if not source.is_dir():
        raise LackingError(f"the test tailnet's source is not in {source}: this lopower was installed without it")
    built = scratch / _PROGRAM
    done = subprocess.run(
        ["sh", str(script), str(built), str(source)],
        capture_output=True, text=True, check=False, timeout=BUILD_SECONDS,
    )  # fmt: skip
    if done.returncode:
        raise LackingError(f"the test tailnet does not compile: {done.stderr.strip()[-500:]}")
    return built


def _source() -> tuple[Path, Path]:
    """The Go source and the script that builds it: beside this package when it is installed, or in the repository."""
    installed = Path(__file__).parents[1] / "tailnet_source"
    if installed.is_dir():
        return installed, installed / "build.sh"
    root = Path(__file__).parents[3]
    return root / "hil" / "tailnet_world", root / "host" / "sidecar" / "build.sh"


def _sidecar_is_there() -> bool:
    from lopower.daemon.tailnet import sidecar_program

    return sidecar_program() is not None
