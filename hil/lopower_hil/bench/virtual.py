"""The bench that needs no hardware: virtual boards in this process, made as tests ask for them."""

from __future__ import annotations

import importlib.util
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final

from lopower_hil.bench.board import Board
from lopower_hil.bench.errors import LackingError
from lopower_hil.bench.recorder import Recorder
from lopower_hil.bench.surroundings import WifiNetwork
from lopower_hil.made_images import stock_image
from lopower_hil.virtual_board import AccessPoint, BoardConfig
from lopower_hil.virtual_board import Board as VirtualBoard

SSID: Final = "bench"
PASSWORD: Final = "a virtual network"
MAX_BOARDS: Final = 8
_MODULES: Final = ("micropython_run", "esp32_mock_bootloader", "esptool")


class PowerSwitch:
    """Of a virtual board."""

    def __init__(self, board: VirtualBoard) -> None:
        self._board = board

    def on(self) -> None:
        """Give it power."""
        self._board.power_on()

    def off(self) -> None:
        """Take it away."""
        self._board.cut_power()


class AccessPointSwitch:
    """Of the network that a virtual board hears."""

    def __init__(self, board: VirtualBoard) -> None:
        self._board = board

    def on(self) -> None:
        """It is heard."""
        self._board.radio(on=True)

    def off(self) -> None:
        """It is not."""
        self._board.radio(on=False)


class NetworkNames:
    """Of the network that a virtual board hears."""

    def __init__(self, board: VirtualBoard) -> None:
        self._board = board

    def set(self, name: str, address: str) -> None:
        """Its DNS server says so."""
        points = self._board.access_points
        self._board.set_access_points([replace(p, names={**p.names, name: address}) for p in points])


class VirtualBench:
    """Boards that are made when they are asked for; `virtual_boards` are what is behind them."""

    address: str | None = None

    def __init__(self, directory: Path, recorder: Recorder) -> None:
        self._directory = directory
        self._recorder = recorder
        self._stack = ExitStack()
        self._boards: list[Board] = []
        self.virtual_boards: list[VirtualBoard] = []

    def boards(self, count: int) -> list[Board]:
        """The first `count` boards. Raises LackingError."""
        lacking = [name for name in _MODULES if importlib.util.find_spec(name) is None]
        if lacking:
            raise LackingError(f"virtual boards need {', '.join(lacking)}: pip install 'lopower[hil]'")
        if count > MAX_BOARDS:
            raise LackingError(f"there are at most {MAX_BOARDS} virtual boards")
        while len(self._boards) < count:
            self._boards.append(self._made(f"board{len(self._boards) + 1}"))
        return self._boards[:count]

    def _made(self, name: str) -> Board:
        config = BoardConfig(directory=self._directory / name, access_points=(AccessPoint(SSID, PASSWORD),))
        virtual = self._stack.enter_context(VirtualBoard(config))
        image = config.directory / "image.bin"
        image.write_bytes(stock_image(virtual.chip))
        board = Board(
            name=name,
            port=virtual.port,
            wifi=WifiNetwork(SSID, PASSWORD, AccessPointSwitch(virtual), NetworkNames(virtual)),
            power=PowerSwitch(virtual),
            image=image,
            cache=self._directory / "cache",
            recorder=self._recorder,
        )
        self._stack.callback(board.close)
        self.virtual_boards.append(virtual)
        return board

    def close(self) -> None:
        """End all boards."""
        self._stack.close()
