"""Whether the resources of a bench work: each is tried, and says what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from lopower_hil.bench import lab
from lopower_hil.bench.board import Board
from lopower_hil.bench.errors import BenchError
from lopower_provisioning import contents, flasher
from lopower_provisioning.errors import ProvisioningError

SPEAKS_SECONDS: Final = 15.0
"""Every board says something within a moment of getting power, at least its ROM."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one resource; `text` is for people."""

    resource: str
    works: bool
    text: str = ""


@dataclass(slots=True)
class Checked:
    """One board."""

    name: str
    results: list[Result] = field(default_factory=list)

    def attempt(self, resource: str, work: Callable[[], str]) -> bool:
        """Try one; whether it works."""
        try:
            self.results.append(Result(resource, True, work()))
        except (BenchError, ProvisioningError) as error:
            self.results.append(Result(resource, False, str(error)))
        return self.results[-1].works

    def document(self) -> list[dict[str, Any]]:
        """For JSON."""
        return [asdict(result) for result in self.results]


def check_port(name: str, port: str) -> Checked:
    """The board at a serial port: its bootloader answers."""
    checked = Checked(name)
    checked.attempt("serial port", lambda: _probe(port))
    return checked


def check_environment(path: Path) -> list[Checked]:
    """All boards of a labgrid environment. Raises BenchError if it cannot be used at all."""
    lab.check_installation()
    if not path.is_file():
        raise BenchError(f"there is no {path}: `lopower bench init` writes one")
    from labgrid import Environment
    from labgrid.exceptions import InvalidConfigError

    try:
        environment = Environment(str(path))
        names = lab.boards_of(environment)
    except (InvalidConfigError, ImportError, KeyError, ValueError) as error:
        raise BenchError(f"{path} cannot be used: {error}") from None
    if not names:
        raise BenchError(f"no target in {path} has a {lab.DRIVER}")
    try:
        return [_check_target(environment, name) for name in names]
    finally:
        environment.cleanup()


def _check_target(environment: Any, name: str) -> Checked:
    checked = Checked(name)
    found: list[Any] = []

    def activate() -> str:
        found.append(lab.activated(environment, name))
        return str(found[0][1].url)

    if not checked.attempt("labgrid target", activate):
        return checked
    target, driver = found[0]
    board: Board = driver.board
    try:
        with board.console.released():
            checked.attempt("serial port", lambda: _probe(board.port))
        if board.has_power_switch:
            checked.attempt("power switch", lambda: _cycle(board))
        if board.wifi.ssid:
            checked.attempt("access point", lambda: _switch(board))
    except BenchError as error:  # the console does not open again
        checked.results.append(Result("console", False, str(error)))
    finally:
        target.deactivate(driver)
    return checked


def _probe(port: str) -> str:
    with flasher.connect(port) as board:
        kind = contents.identify(board).kind.value
        board.restart()
        return f"{board.chip.name}, {board.flash_size >> 20} MB, {board.mac}, runs {kind}"


def _cycle(board: Board) -> str:
    board.power_off()
    silent = board.console.position
    board.power_on()
    board.console.wait_for("\n", SPEAKS_SECONDS, silent)
    return "the board speaks when it gets power"


def _switch(board: Board) -> str:
    if board.wifi.switch is None:
        return f"{board.wifi.ssid}; nothing switches it"
    board.wifi_off()
    board.wifi_on()
    return f"{board.wifi.ssid} is switched"
