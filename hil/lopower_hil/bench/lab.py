"""The boards of a lab that labgrid describes: `pytest --lg-env FILE`."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable
from typing import Any, Final

import pytest

from lopower_hil.bench.board import Board
from lopower_hil.bench.errors import BenchError, LackingError
from lopower_hil.bench.recorder import Recorder

DRIVER: Final = "MicroPythonDriver"


class LabBench:
    """The boards of the environment's targets that have a MicroPythonDriver, in the order of the file.

    Args:
        share: which of them belong to this process.
        address: of this host as the boards reach it; "" for that of the default route, None for loopback.
    """

    def __init__(
        self, environment: Any, recorder: Recorder, *, share: Callable[[list[str]], list[str]], address: str | None
    ) -> None:
        self.address = address
        self._environment = environment
        self._recorder = recorder
        self._names = share(boards_of(environment))
        self._drivers: list[tuple[Any, Any]] = []

    def boards(self, count: int) -> list[Board]:
        """The first `count` boards. Raises LackingError, BenchError."""
        if count > len(self._names):
            raise LackingError(
                f"the lab has {len(self._names)} targets with a {DRIVER} for this process, and {count} are needed"
            )
        while len(self._drivers) < count:
            self._drivers.append(activated(self._environment, self._names[len(self._drivers)], self._recorder))
        return [driver.board for _, driver in self._drivers[:count]]

    def close(self) -> None:
        """Give the ports back; labgrid's own fixture ends the environment."""
        for target, driver in self._drivers:
            target.deactivate(driver)


def boards_of(environment: Any) -> list[str]:
    """The targets of an environment that have a MicroPythonDriver, in the order of the file."""
    targets: dict[str, Any] = environment.config.get_targets()
    return [name for name, target in targets.items() if DRIVER in _drivers(target)]


def activated(environment: Any, name: str, recorder: Recorder | None = None) -> tuple[Any, Any]:
    """A target of a labgrid environment, and its MicroPythonDriver with an open console. Raises BenchError."""
    from labgrid.driver.exception import ExecutionError
    from labgrid.exceptions import NoDriverFoundError, NoResourceFoundError, NoSupplierFoundError
    from labgrid.remote.client import UserError

    try:
        target = environment.get_target(name)
        driver = target.get_driver(DRIVER, activate=False)
        if recorder is not None:
            driver.recorder = recorder
        target.activate(driver)
    except (UserError, ExecutionError, NoDriverFoundError, NoResourceFoundError, NoSupplierFoundError) as error:
        raise BenchError(f"{name}: {error}") from None
    return target, driver


def environment(request: pytest.FixtureRequest) -> Any:
    """What labgrid's plugin has made of the file. Raises BenchError."""
    check_installation()
    return request.getfixturevalue("env")


def check_installation() -> None:
    """Raises BenchError unless labgrid is here, and its pyserial is the one that is imported.

    labgrid's pyserial-labgrid and esptool's pyserial are two distributions of one package, `serial`, so that the one
    that was installed last is there. labgrid is made for its own, whose RFC 2217 is repaired.
    """
    if importlib.util.find_spec("labgrid") is None:
        raise BenchError("--lg-env needs labgrid, in an environment of its own: see docs/bench.md")
    import serial

    wanted = importlib.metadata.version("pyserial-labgrid")
    if serial.__version__ != wanted:
        raise BenchError(
            f"pyserial {serial.__version__} was installed over labgrid's, {wanted}; "
            f"pip install --force-reinstall --no-deps pyserial-labgrid=={wanted}"
        )


def _drivers(target: dict[str, Any]) -> set[str]:
    """Names of a target's drivers; labgrid takes a mapping, or a list of mappings."""
    drivers = target.get("drivers", {})
    return {name for entry in (drivers if isinstance(drivers, list) else [drivers]) for name in entry if name != "name"}
