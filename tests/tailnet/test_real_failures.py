"""What goes wrong: each is told in words, ends neither the daemon nor its settings, and all resumes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from tests.support import tailnet_services as services
from tests.support.dns_certificates import make_certificates
from tests.support.netns import wait_until
from tests.support.requirements import require_program
from tests.support.tailnet_namespaces import (
    CONTROL,
    Device,
    RealTailnet,
    daemon_in,
    joined,
    network,
    tailnet_of,
)

pytestmark = [pytest.mark.netns, pytest.mark.xdist_group("tailnet-failures"), pytest.mark.timeout(600)]

NETWORK_ADVICE = "see that this host has a network and that --control-url is right; it is tried again by itself"


@pytest.fixture(scope="module")
def tailnet() -> Iterator[RealTailnet]:
    with network() as space:
        yield RealTailnet(space)


@pytest.fixture(scope="module")
def kitchen(tailnet: RealTailnet) -> Device:
    device = Device(tailnet.network, tailnet.daemon, "kitchen")
    tailnet.daemon.lopower("expose", "kitchen")
    return device


@pytest.fixture
def device(tailnet: RealTailnet, kitchen: Device) -> Device:
    """It, with everything in order."""
    check_all_resumed(tailnet, kitchen)
    return kitchen


@contextmanager
def transfer(tailnet: RealTailnet, device: Device) -> Iterator[list[str]]:
    """How the device's flow to the phone ended; first, that it had begun."""
    ended: list[str] = []
    with device.popen_client("trickle", tailnet.phone.addresses[0], 30) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        yield ended
        ended.append(json.loads(running.communicate(timeout=60)[0])["ended"])


def identity(tailnet: RealTailnet) -> tuple[str, str]:
    """What the phone knows the proxy's node by: stable ID and key."""
    seen = tailnet.phone.peers()["lopower"]
    return seen["ID"], seen["PublicKey"]


def check_all_resumed(tailnet: RealTailnet, device: Device) -> None:
    joined(tailnet.daemon)
    wait_until(
        lambda: device.curl("http://phone/", check=False, seconds=2) == "phone", 30, "the device's flows go again"
    )
    wait_until(
        lambda: tailnet.phone.curl("http://lopower/", check=False, seconds=2) == "kitchen", 30, "the phone's go again"
    )
    assert [entry["device"] for entry in tailnet.daemon.json("expose")["exposures"]] == ["kitchen"]


def sidecar_of(tailnet: RealTailnet) -> int:
    """The process."""
    process: int = tailnet_of(tailnet.daemon)["sidecar"]["process"]
    return process


def test_a_killed_sidecar(tailnet: RealTailnet, device: Device) -> None:
    before = identity(tailnet)
    with transfer(tailnet, device) as ended:
        os.kill(sidecar_of(tailnet), signal.SIGKILL)
    assert ended == ["ECONNRESET"]
    check_all_resumed(tailnet, device)
    assert identity(tailnet) == before
    assert tailnet_of(tailnet.daemon)["sidecar"]["restarts"] == 1


def test_a_stopped_sidecar(tailnet: RealTailnet, device: Device) -> None:
    """It is missed, and replaced."""
    stopped = sidecar_of(tailnet)
    with transfer(tailnet, device) as ended:
        os.kill(stopped, signal.SIGSTOP)
    assert ended == ["ECONNRESET"]
    check_all_resumed(tailnet, device)
    assert sidecar_of(tailnet) != stopped


def test_a_killed_daemon(tailnet: RealTailnet, device: Device) -> None:
    before = identity(tailnet)
    with transfer(tailnet, device) as ended:
        tailnet.daemon.kill()
        tailnet.daemon.start()
    assert ended == ["ECONNRESET"], "the new daemon knows nothing of the flow and says so"
    check_all_resumed(tailnet, device)
    assert identity(tailnet) == before


def test_a_killed_relay(tailnet: RealTailnet, device: Device) -> None:
    tailnet.control.relay.process.kill()
    assert device.client("exchange", tailnet.phone.addresses[0], services.ECHO, "direct") == "direct"
    tailnet.network.relay()
    check_all_resumed(tailnet, device)


def test_a_port_that_is_taken_and_a_site_out_of_range(tailnet: RealTailnet, device: Device) -> None:
    daemon = tailnet.daemon
    Device(tailnet.network, daemon, "hall")
    daemon.lopower("expose", "kitchen", "--port", "8080:80")
    with pytest.raises(AssertionError, match="kitchen"):
        daemon.lopower("expose", "hall", "--port", "8080:80")
    with pytest.raises(AssertionError, match="kitchen"):
        daemon.lopower("expose", "hall")
    with pytest.raises(AssertionError, match="sites are 0 to 65535"):
        daemon.lopower("advertise", "--via", "65536")
    assert daemon.json("advertise", "--off")["routes"] == []
    daemon.lopower("device", "remove", "hall")
    daemon.lopower("expose", "kitchen", "--port", "8080:80", "--off")


def test_a_full_disk(tailnet: RealTailnet, device: Device) -> None:
    """What runs goes on, changes are refused with the reason, and nothing is lost."""
    daemon, state = tailnet.daemon, tailnet.daemon.state_dir
    assert daemon.stop() == 0
    kept = state.with_name("kept")
    state.rename(kept)
    state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs", state], check=True)
    try:
        subprocess.run(["cp", "-a", f"{kept}/.", state], check=True)
        daemon.start()
        check_all_resumed(tailnet, device)
        before = identity(tailnet)
        with pytest.raises(OSError, match="No space"):
            (state / "filler").write_bytes(bytes(4 << 20))
        with pytest.raises(AssertionError, match="is full; nothing was changed"):
            daemon.lopower("device", "add", "guest")
        os.kill(sidecar_of(tailnet), signal.SIGKILL)
        wait_until(lambda: tailnet_of(daemon)["sidecar"]["restarts"] == 1, 20, "it is started again")
        check_all_resumed(tailnet, device)
        (state / "filler").unlink()
        check_all_resumed(tailnet, device)
        assert identity(tailnet) == before
        assert daemon.stop() == 0
        subprocess.run(["cp", "-a", f"{state}/.", kept], check=True)
    finally:
        daemon.stop()
        subprocess.run(["umount", "-l", state], check=True)
    state.rmdir()
    kept.rename(state)
    daemon.start()
    check_all_resumed(tailnet, device)


def test_no_network_at_start(tailnet: RealTailnet) -> None:
    host = tailnet.network.host
    host.ip("link", "set", "net0", "down")
    try:
        daemon = daemon_in(tailnet.network, "late", "--control-url", tailnet.control.url, "--hostname", "late",
                           port=51822)  # fmt: skip
        wait_until(lambda: "(" in tailnet_of(daemon)["detail"], 30, "the reason is told")
        assert tailnet_of(daemon)["advice"] == NETWORK_ADVICE
        assert NETWORK_ADVICE in daemon.lopower("status")
    finally:
        host.ip("link", "set", "net0", "up")
    joined(daemon)
    assert daemon.stop() == 0


def test_a_control_server_that_refuses(tailnet: RealTailnet) -> None:
    daemon = daemon_in(tailnet.network, "refused", "--control-url", f"http://{CONTROL}:9", port=51823)
    wait_until(lambda: "refused" in tailnet_of(daemon)["detail"], 30, "the reason is told")
    assert tailnet_of(daemon)["advice"] == NETWORK_ADVICE
    assert daemon.stop() == 0


def test_a_wrong_clock(tailnet: RealTailnet, tmp_path: Path) -> None:
    """A clock that is ahead sees a certificate that has expired; here it has indeed."""
    authority, server = make_certificates(tmp_path, (CONTROL,), age=timedelta(days=365))
    process = tailnet.network.control.popen(
        require_program("openssl"), "s_server", "-accept", f"{CONTROL}:443", "-cert", server, "-key", server, "-quiet",
        stdin=subprocess.PIPE,
    )  # fmt: skip
    try:
        tailnet.network.control.wait_for_port(443)
        tailnet.network.set_environment("SSL_CERT_FILE", str(authority))
        daemon = daemon_in(tailnet.network, "clock", "--control-url", f"https://{CONTROL}", port=51824)
        wait_until(lambda: "expired" in tailnet_of(daemon)["detail"], 30, "the reason is told")
        assert tailnet_of(daemon)["advice"].startswith("set this host's clock")
        assert daemon.stop() == 0
    finally:
        process.kill()
        process.communicate()
