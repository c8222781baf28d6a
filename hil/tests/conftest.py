"""The bench's own tests: unchanged on virtual boards, on boards at hand, and in a lab.

pytest hil/tests                                   virtual boards
pytest hil/tests --board /dev/ttyUSB0 --board-wifi HomeNet --long --power-cycles 20 --outage 60
pytest hil/tests --lg-env bench.yaml --long --soak 8h
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from lopower_hil.bench import Board, Proxy
from tests.support.figures import Figure

QUICK_CYCLES = 3
QUICK_OUTAGE = 4.0
AS_LONG_AS_ASKED = ("long", "soak", "power", "wifi_ap")
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long the long ones are."""
    group = parser.getgroup("bench")
    group.addoption("--power-cycles", type=int, default=QUICK_CYCLES, metavar="N", help="default: %(default)s")
    group.addoption("--outage", type=seconds, default=QUICK_OUTAGE, metavar="TIME", help="of Wi-Fi; default: 4s")
    group.addoption("--long", action="store_true", help="also the tests that take longer than 20 s")
    group.addoption("--soak", type=seconds, metavar="TIME", help="traffic for so long, as 8h; default: not at all")


def pytest_configure(config: pytest.Config) -> None:
    """Name the markers."""
    config.addinivalue_line("markers", "long: takes longer than 20 s; runs with --long alone")
    config.addinivalue_line("markers", "soak: takes as long as one likes; runs with --soak alone")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The long ones are left out unless they are asked for."""
    left = {name for name in ("long", "soak") if not config.getoption(f"--{name}")}
    out = [item for item in items if any(item.get_closest_marker(name) for name in left)]
    config.hook.pytest_deselected(items=out)
    items[:] = [item for item in items if item not in out]
    for item in items:
        if any(item.get_closest_marker(name) for name in AS_LONG_AS_ASKED):
            item.add_marker(pytest.mark.timeout(0))  # each wait in them has an end of its own


def seconds(text: str) -> float:
    """`90`, `90s`, `10m`, `8h`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if found is None:
        raise ValueError(f"{text!r} is no time such as 90s, 10m or 8h")
    return float(found[1]) * UNITS[found[2] or "s"]


@pytest.fixture
def device(board: Board, proxy: Proxy) -> Board:
    """A board that is a device of `proxy`, and connected."""
    board.join(proxy)
    return board


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Figure:
    """Record a figure, which nobody asserts: it is in JUnit's XML and on the report's page."""

    def record(name: str, value: float, unit: str) -> None:
        record_property(name, f"{value:.4g} {unit}")

    return record
