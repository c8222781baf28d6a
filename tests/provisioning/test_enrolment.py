"""Enrolment through a real control server: what is taken back, and what is not."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lopower.control.client import ControlClient
from lopower.control.errors import ControlError
from lopower_provisioning.errors import ProvisioningError
from lopower_provisioning.targets import DaemonTarget, key_pair, public_half
from tests.support.control_plane import ControlPlane, control_plane


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[ControlPlane]:
    async with control_plane(tmp_path) as made:
        yield made


def target(plane: ControlPlane) -> DaemonTarget:
    return DaemonTarget(ControlClient([plane.settings.socket]))


def no(question: str, consequence: str) -> bool:
    return False


async def test_all_endpoints_are_in_the_settings(plane: ControlPlane) -> None:
    private, public = key_pair()
    made = target(plane)
    await asyncio.to_thread(made.prepare, "kitchen", False, no)
    tunnel = await asyncio.to_thread(made.enrol, "kitchen", "24:0a:c4:00:00:01", public)
    assert tunnel.proxy["endpoints"] == [str(endpoint) for endpoint in plane.endpoints]
    assert tunnel.private_key is None
    assert tunnel.proxy["preshared_key"] not in repr(tunnel)
    assert public_half(private) == public
    assert b64encode(plane.registry.get("kitchen").public_key).decode() == public


async def test_an_answer_that_is_lost(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is there although nobody was told so: it is taken back all the same."""
    made = target(plane)
    request = ControlClient.request

    def lost(self: ControlClient, method: str, *arguments: object, **more: object) -> object:
        answer = request(self, method, *arguments, **more)  # type: ignore[arg-type]
        if method == "POST":
            raise ControlError("the connection to the daemon broke")
        return answer

    monkeypatch.setattr(ControlClient, "request", lost)
    await asyncio.to_thread(made.prepare, "kitchen", False, no)
    with pytest.raises(ControlError):
        await asyncio.to_thread(made.enrol, "kitchen", "24:0a:c4:00:00:01", key_pair()[1])
    assert plane.registry.find("kitchen") is not None
    await asyncio.to_thread(made.take_back)
    assert plane.registry.find("kitchen") is None
    await asyncio.to_thread(made.take_back)


async def test_a_name_that_somebody_took_meanwhile_stays_theirs(plane: ControlPlane) -> None:
    made = target(plane)
    await asyncio.to_thread(made.prepare, "kitchen", False, no)
    assert (await plane.lopower("device", "add", "kitchen"))[0] == 0
    theirs = plane.registry.get("kitchen")
    with pytest.raises(ControlError, match="already"):
        await asyncio.to_thread(made.enrol, "kitchen", "24:0a:c4:00:00:01", key_pair()[1])
    await asyncio.to_thread(made.take_back)
    assert plane.registry.get("kitchen") == theirs


async def test_a_proxy_that_cannot_be_dialled(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    server = plane.operations.server()
    monkeypatch.setattr(plane.operations, "server", lambda: {**server, "endpoints": []})
    with pytest.raises(ProvisioningError, match="at which address"):
        await asyncio.to_thread(target(plane).prepare, "kitchen", False, no)
