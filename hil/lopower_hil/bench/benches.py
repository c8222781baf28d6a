"""Which bench a run of pytest has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import platformdirs
import pytest

from lopower_hil.bench.board import Board
from lopower_hil.bench.errors import BenchError
from lopower_hil.bench.recorder import Recorder

T = TypeVar("T")


class Bench(Protocol):
    """Some boards.

    Attributes:
        address: of this host as the boards reach it; "" for that of the default route, None for loopback.
    """

    address: str | None

    def boards(self, count: int) -> list[Board]:
        """The first `count` boards. Raises LackingError if there are fewer, BenchError if one cannot be used."""

    def close(self) -> None:
        """Give them back."""


def make(request: pytest.FixtureRequest, directory: Path, recorder: Recorder) -> Bench:
    """The bench that the options name: a lab, ports, or virtual boards. Raises BenchError."""
    option = request.config.getoption
    image = option("board_image")
    image = None if image is None else Path(image)
    share = _share(request.config)
    if option("lg_env", default=None) is not None:
        from lopower_hil.bench import lab

        # In a lab nobody knows which interface leads to the boards but who made it.
        return lab.LabBench(lab.environment(request), recorder, share=share, address=option("bench_address") or "")
    if option("board"):
        from lopower_hil.bench.attached import AttachedBench

        return AttachedBench(
            share(option("board")),
            recorder,
            ssid=option("board_wifi"),
            image=image,
            address=option("bench_address"),
            cache=_cache(),
            saved=platformdirs.user_config_path("lopower") / "wifi.json",
        )
    from lopower_hil.bench.virtual import VirtualBench

    return VirtualBench(directory, recorder)


class Share:
    """What of a list belongs to worker `number` of `count` of pytest-xdist: two processes must not use one board."""

    def __init__(self, number: int, count: int) -> None:
        self._number = number
        self._count = count

    def __call__(self, items: Sequence[T]) -> list[T]:
        """Every `count`-th. Raises BenchError if none is left for this worker."""
        if items and self._number >= len(items):
            raise BenchError(f"{self._count} processes share {len(items)} boards: run pytest with -n {len(items)}")
        return list(items[self._number :: self._count])


def _share(config: pytest.Config) -> Share:
    worker = getattr(config, "workerinput", None)
    if worker is None:
        return Share(0, 1)
    return Share(int(worker["workerid"].removeprefix("gw")), int(worker["workercount"]))


def _cache() -> Path:
    return platformdirs.user_cache_path("lopower")
