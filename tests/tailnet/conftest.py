"""A test tailnet for each test, built once, and a proxy that joins it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support import tailnet_programs
from tests.support.proxy import Proxy, running_proxy
from tests.support.tailnet_proxy import Kitchen, joined
from tests.support.tailnet_world import TailnetWorld, running_world, sidecar_directory


@pytest.fixture(scope="session")
def world_program() -> Path:
    return tailnet_programs.world()


@pytest.fixture(scope="session")
def sidecar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sidecar_directory(tmp_path_factory.mktemp("sidecar"))


@pytest.fixture
async def tailnet(world_program: Path, sidecar: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TailnetWorld]:
    monkeypatch.setenv("PATH", f"{sidecar}:{os.environ['PATH']}")
    monkeypatch.setenv("TS_PANIC_IF_HIT_MAIN_CONTROL", "1")
    monkeypatch.setenv("TS_DISABLE_PORTMAPPER", "1")
    async with running_world(world_program, "peer", "other") as world:
        yield world


@pytest.fixture
async def proxy(tailnet: TailnetWorld, tmp_path: Path) -> AsyncIterator[Proxy]:
    async with running_proxy(tmp_path, tailnet="tsnet", control_url=tailnet.control_url) as running:
        await joined(running)
        yield running


@pytest.fixture
async def kitchen(proxy: Proxy) -> AsyncIterator[Kitchen]:
    proxy.enrol("kitchen")
    async with proxy.device("kitchen") as device:
        await device.handshake()
        made = Kitchen(device)
        yield made
        await made.close()
