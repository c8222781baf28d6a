"""The pytest plugin: boards for tests of your own firmware.

    def test_it(board, proxy):
        board.flash(proxy, main="app")
        board.wait_for("ready")

`pytest` alone has virtual boards, `pytest --board PORT` those at hand, `pytest --lg-env FILE` those of a lab.
Little is imported here: everybody's pytest loads this, whether he has boards or not.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import pytest

from lopower_hil.bench.recorder import Recorder

if TYPE_CHECKING:
    from lopower_hil.bench.benches import Bench
    from lopower_hil.bench.board import Board
    from lopower_hil.bench.proxy import Proxy
    from lopower_hil.bench.tailnet import Tailnet, TailnetPeer

MARKERS: Final = {
    "power": "the test switches the board's power",
    "wifi_ap": "the test switches the board's access point",
    "wifi_names": "the test sets names in the DNS of the board's network",
    "two_boards": "the test has two boards",
}
recorder_key: Final = pytest.StashKey[Recorder]()
MakeProxy = Callable[..., "Proxy"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Define the options."""
    group = parser.getgroup("bench", "boards (lopower)")
    group.addoption(
        "--board", action="append", metavar="PORT", help="a board at this port, instead of virtual boards; repeatable"
    )
    group.addoption("--board-wifi", metavar="SSID", help="what boards join; password: LOPOWER_WIFI_PASSWORD")
    group.addoption("--board-image", metavar="FILE", help="stock image for boards; default: the newest, downloaded")
    group.addoption("--bench-address", metavar="ADDR", help="this host as boards reach it; default: by its route")
    group.addoption("--bench-report", metavar="FILE", help="write a page with what boards and proxies said")
    if importlib.util.find_spec("labgrid") is None:  # else its plugin defines them
        group.addoption("--lg-env", metavar="FILE", help="a lab, as labgrid describes it (needs labgrid)")


def pytest_configure(config: pytest.Config) -> None:
    """Name the markers; begin the report."""
    for name, text in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {text}; skipped where the bench cannot")
    config.stash[recorder_key] = Recorder()
    if config.getoption("bench_report") and not hasattr(config, "workerinput"):
        from lopower_hil.bench.report import ReportPlugin

        config.pluginmanager.register(ReportPlugin(Path(config.getoption("bench_report"))), "lopower-bench-report")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """What is heard from now on belongs to this test."""
    item.config.stash[recorder_key].begin()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """The last report of a test carries what was heard, also from xdist's workers."""
    outcome: Any = yield
    report = outcome.get_result()
    if report.when == "teardown":
        entries = item.config.stash[recorder_key].entries()
        report.bench = [[round(entry.seconds, 3), entry.source, entry.text] for entry in entries]


@pytest.fixture(scope="session")
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """All boards; tests rather use `board` and `boards`."""
    from lopower_hil.bench import benches
    from lopower_hil.bench.errors import BenchError

    try:
        made = benches.make(request, tmp_path_factory.mktemp("bench"), request.config.stash[recorder_key])
    except BenchError as error:
        pytest.fail(str(error), pytrace=False)
    yield made
    made.close()


@pytest.fixture
def boards(request: pytest.FixtureRequest, bench: Bench) -> Iterator[list[Board]]:
    """The boards that the test's markers ask for: two for `two_boards`, else one."""
    from lopower_hil.bench.errors import BenchError, LackingError

    wanted = {name for name in MARKERS if request.node.get_closest_marker(name)}
    try:
        found = bench.boards(2 if "two_boards" in wanted else 1)
        for board in found:
            if "power" in wanted and not board.has_power_switch:
                raise LackingError(f"{board.name} has no power switch (marker power)")
            if "wifi_ap" in wanted and board.wifi.switch is None:
                raise LackingError(f"the access point of {board.name} cannot be switched (marker wifi_ap)")
            if "wifi_names" in wanted and board.wifi.names is None:
                raise LackingError(f"names in the network of {board.name} cannot be set (marker wifi_names)")
            board.settle()
    except LackingError as error:
        lacking(str(error))
    except BenchError as error:
        pytest.fail(str(error), pytrace=False)
    yield found
    for board in found:
        board.settle()


@pytest.fixture
def board(boards: list[Board]) -> Board:
    """One board, with power and in reach of its Wi-Fi; what it runs is what the test before left there."""
    return boards[0]


@pytest.fixture
def make_proxy(request: pytest.FixtureRequest, bench: Bench, tmp_path: Path) -> Iterator[MakeProxy]:
    """Starts more proxies: `make_proxy("second", "--mtu", "1280")`, with any settings of `lopower up`."""
    from lopower_hil.bench.errors import BenchError
    from lopower_hil.bench.proxy import Proxy

    recorder = request.config.stash[recorder_key]
    with ExitStack() as stack:

        def make(name: str, *flags: str) -> Proxy:
            where = {} if bench.address is None else {"address": bench.address}
            made = Proxy(tmp_path / name, recorder.source(name), flags=flags, **where)
            stack.callback(made.stop)
            try:
                made.start()
            except BenchError as error:
                pytest.fail(str(error), pytrace=False)
            return made

        yield make


@pytest.fixture
def proxy(request: pytest.FixtureRequest, make_proxy: MakeProxy) -> Proxy:
    """A lopower daemon of the test's own; a node of the test tailnet if the test has a `tailnet_peer`."""
    flags = ()
    if "tailnet_peer" in request.fixturenames:
        flags = request.getfixturevalue("tailnet").flags
    return make_proxy("proxy", *flags)


@pytest.fixture
def tailnet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tailnet]:
    """A test tailnet on loopback; tests rather use `tailnet_peer`."""
    from lopower_hil.bench import tailnet as module
    from lopower_hil.bench.errors import BenchError, LackingError

    try:
        made = module.Tailnet(module.program(tmp_path_factory.mktemp("tailnet")))
    except LackingError as error:
        lacking(str(error))
    except BenchError as error:
        pytest.fail(str(error), pytrace=False)
    yield made
    made.close()


@pytest.fixture
def tailnet_peer(tailnet: Tailnet, proxy: Proxy) -> TailnetPeer:
    """A node of the test tailnet, which the proxy has joined."""
    from lopower_hil.bench.tailnet import TailnetPeer

    proxy.wait_for_tailnet()
    return TailnetPeer(tailnet)


def lacking(reason: str) -> NoReturn:
    """Skip the test, or fail it where nothing may be lacking, as in continuous integration."""
    if os.environ.get("LOPOWER_REQUIRE_ALL") == "1":
        pytest.fail(f"LOPOWER_REQUIRE_ALL=1, but: {reason}", pytrace=False)
    pytest.skip(reason)
