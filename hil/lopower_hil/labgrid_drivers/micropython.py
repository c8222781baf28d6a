"""A board that runs MicroPython, at a serial port of labgrid's: its REPL, its console and its reset."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, Final

import attr
import platformdirs
from labgrid.driver.common import Driver
from labgrid.driver.exception import ExecutionError
from labgrid.exceptions import NoResourceFoundError
from labgrid.factory import target_factory
from labgrid.protocol import PowerProtocol, ResetProtocol
from labgrid.resource import SerialPort
from labgrid.step import step
from labgrid.util.proxy import proxymanager

from lopower_hil.bench.board import Board
from lopower_hil.bench.errors import BenchError
from lopower_hil.bench.recorder import Recorder
from lopower_hil.bench.surroundings import WifiNetwork
from lopower_hil.labgrid_drivers.access_point import AccessPointProtocol, WifiAccessPoint

NETWORK_SECONDS: Final = 10.0
"""How long the other side of RFC 2217 may take to agree to a setting."""


class SwitchOf:
    """A driver with `on` and `off` as the bench's switch; what it raises is told as the bench's error."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    def on(self) -> None:
        """Raises BenchError."""
        self._switch("on")

    def off(self) -> None:
        """Raises BenchError."""
        self._switch("off")

    def _switch(self, way: str) -> None:
        try:
            getattr(self._driver, way)()
        except (ExecutionError, subprocess.CalledProcessError, OSError) as error:
            raise BenchError(f"{self._driver} does not switch {way}: {error}") from None


@target_factory.reg_driver
@attr.s(eq=False)
class MicroPythonDriver(Driver, ResetProtocol):
    """The board at a serial port, which it needs for itself: no SerialDriver may be active at the same port.

    `board` is what the fixture of that name gives in tests.

    Args:
        image (str): key of the environment's `images`: the stock image for the board; "" for the newest one, which is
            downloaded
    """

    bindings = {  # noqa: RUF012 - as labgrid's BindingMixin reads it
        "port": {"SerialPort", "NetworkSerialPort"},
        "power": {PowerProtocol, None},
        "access_point": {AccessPointProtocol, None},
    }
    image: Any = attr.ib(default="", validator=attr.validators.instance_of(str))

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self.recorder = Recorder()
        self.board: Board | None = None

    @property
    def url(self) -> str:
        """The port as pyserial, esptool and mpremote take it.

        Raises ExecutionError for a protocol that they do not know.
        """
        if isinstance(self.port, SerialPort):
            return str(self.port.port)
        host, port = proxymanager.get_host_and_port(self.port)
        if self.port.protocol == "rfc2217":
            # As labgrid's SerialDriver: ser2net does not acknowledge control lines that the port has not got.
            return f"rfc2217://{host}:{port}?ign_set_control&timeout={NETWORK_SECONDS:g}"
        if self.port.protocol == "raw":
            return f"socket://{host}:{port}"
        raise ExecutionError(f"unknown protocol {self.port.protocol!r} of {self.port}")

    def on_activate(self) -> None:
        """Open the console."""
        self.board = Board(
            name=self.target.name,
            port=self.url,
            wifi=self._network(),
            power=None if self.power is None else SwitchOf(self.power),
            image=self._image(),
            cache=platformdirs.user_cache_path("lopower"),
            recorder=self.recorder,
        )
        try:
            if self.power is not None:
                self.power.on()
            self.board.console.open()
        except BenchError as error:
            self.board = None
            raise ExecutionError(str(error)) from None

    def on_deactivate(self) -> None:
        """Give the port back."""
        if self.board is not None:
            self.board.close()
            self.board = None

    @Driver.check_active
    @step(args=["program"])
    def run(self, program: str, timeout: float = 30.0) -> str:
        """Interrupt what runs, and run MicroPython code; what it printed. Raises BenchError."""
        return self._board().run(program, timeout)

    @Driver.check_active
    @step(args=["text"])
    def wait_for(self, text: str, timeout: float = 30.0) -> str:
        """Wait until the board prints `text`. Raises BenchError."""
        return self._board().wait_for(text, timeout)

    @Driver.check_active
    @step()
    def reset(self) -> None:
        """A hard reset, by the board itself. Raises BenchError."""
        self._board().reset()

    def _board(self) -> Board:
        assert self.board is not None  # check_active
        return self.board

    def _image(self) -> Path | None:
        if not self.image:
            return None
        return Path(self.target.env.config.get_image_path(self.image))

    def _network(self) -> WifiNetwork:
        """That of the target's WifiAccessPoint; a board without one cannot be flashed, all else works."""
        try:
            resource = self.target.get_resource(WifiAccessPoint)
        except NoResourceFoundError:
            return WifiNetwork("")
        switch = None if self.access_point is None else SwitchOf(self.access_point)
        return WifiNetwork(resource.ssid, resource.password, switch)
