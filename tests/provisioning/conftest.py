"""A daemon on loopback and a virtual board, for the tests that flash the one into a device of the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lopower_hil.virtual_board.board import Board, BoardConfig
from lopower_hil.virtual_board.radio import AccessPoint
from lopower_provisioning import chips
from tests.support.loopback_daemon import LoopbackDaemon, loopback_daemon
from tests.support.requirements import require_module
from tests.support.stock_images import stock_image

SSID, PASSWORD = "Home & garden", "correct horse's battery"
BoardMaker = Callable[..., Board]


@pytest.fixture
def make_board(tmp_path: Path) -> Iterator[BoardMaker]:
    """Makes blank boards, with the network that the tests know in reach."""
    for module in ("esptool", "esp32_mock_bootloader", "micropython_run"):
        require_module(module)
    with ExitStack() as stack:

        def make(name: str = "board", **more: object) -> Board:
            points = (AccessPoint(SSID, PASSWORD),)
            config = BoardConfig(directory=tmp_path / name, access_points=points, **more)  # type: ignore[arg-type]
            return stack.enter_context(Board(config))

        yield make


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[LoopbackDaemon]:
    """A daemon that runs."""
    with loopback_daemon(tmp_path) as made:
        yield made


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A stock image for the ESP32."""
    path = tmp_path / "image.bin"
    path.write_bytes(stock_image(chips.CHIPS[0]))
    return path
