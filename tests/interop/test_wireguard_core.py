"""Our WireGuard core and wireguard-go, each as initiator and as responder, over IPv4 and IPv6, PSK or not."""

from __future__ import annotations

import base64
import itertools
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from nacl.public import PrivateKey

from lopower.wire.datagrams import Endpoint
from lopower.wireguard.peer import Peer
from tests.support import wireguard_go as wg
from tests.support.netns import World, network_world, wait_until
from tests.support.requirements import require_program
from tests.support.wireguard_core import CoreEndpoint

pytestmark = [pytest.mark.netns, pytest.mark.xdist_group("netns-wireguard")]

OURS = ("10.90.0.1", "fd7a:115c:a1e0:9909::1")
THEIRS = ("10.90.0.2", "fd7a:115c:a1e0:9909::2")
PORT = 51820
PROGRAMS = [pytest.param(wg.upstream, id="upstream"), pytest.param(wg.debian, id="debian")]


@dataclass(frozen=True, slots=True)
class Tunnel:
    """Our core in the host's namespace, wireguard-go in the device's."""

    world: World
    core: CoreEndpoint
    peer: Peer
    device: wg.WireguardGo


@contextmanager
def tunnel(program: Callable[[], Path], outer: int, psk: bool, initiator: str) -> Iterator[Tunnel]:
    """Only the initiator knows where the other is."""
    host, device = (
        (World.HOST_IPV4, World.DEVICE_IPV4) if outer == 4 else (World.HOST_IPV6, World.DEVICE_IPV6)
    )  # fmt: skip
    with ExitStack() as stack:
        require_program("ping")
        world = stack.enter_context(network_world())
        ours, theirs, shared = PrivateKey.generate(), PrivateKey.generate(), os.urandom(32) if psk else None
        core = CoreEndpoint(world.host, host, PORT, bytes(ours))
        stack.callback(core.close)
        peer = core.add_peer(
            bytes(theirs.public_key),
            shared,
            tuple(map(alone, THEIRS)),
            Endpoint(device, PORT) if initiator == "core" else None,
        )
        running = stack.enter_context(wg.wireguard_go(world.device, program()))
        lines = [
            "[Interface]",
            f"PrivateKey={text(bytes(theirs))}",
            f"ListenPort={PORT}",
            f"Address={','.join(THEIRS)}",
            "[Peer]",
            f"PublicKey={text(bytes(ours.public_key))}",
            f"AllowedIPs={','.join(map(alone, OURS))}",
        ]
        if shared is not None:
            lines.append(f"PresharedKey={text(shared)}")
        if initiator == "wireguard-go":
            lines.append(f"Endpoint={f'[{host}]' if outer == 6 else host}:{PORT}")
        running.configure("\n".join(lines) + "\n")
        yield Tunnel(world, core, peer, running)


def alone(address: str) -> str:
    """The network that is one address."""
    return f"{address}/{128 if ':' in address else 32}"


def text(key: bytes) -> str:
    """As `wg` wants it."""
    return base64.b64encode(key).decode()


def ping(this: Tunnel, *options: str) -> subprocess.Popen[str]:
    """The device's kernel pings us."""
    return this.world.start(this.world.device, "ping", "-n", "-q", *options, stdout=subprocess.PIPE)


def lost(said: str) -> int:
    """Of ping's summary: sent less received."""
    found = re.search(r"(\d+) packets transmitted, (\d+) received", said)
    assert found is not None, said
    return int(found[1]) - int(found[2])


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("outer", [4, 6], ids=["outer-IPv4", "outer-IPv6"])
@pytest.mark.parametrize("psk", [True, False], ids=["psk", "no-psk"])
class TestHandshake:
    def test_we_respond(self, program: Callable[[], Path], outer: int, psk: bool) -> None:
        with tunnel(program, outer, psk, "wireguard-go") as this:
            for address, size in itertools.product(OURS, ("0", "56", "1300", "1372")):
                said, _ = ping(this, "-c", "3", "-i", "0.01", "-W", "5", "-s", size, address).communicate(timeout=30)
                assert lost(said) == 0
            assert this.peer.counters["handshakes_completed"] == 1
            assert this.peer.counters["initiations_received"] == 1
            assert this.device.latest_handshake() > 0
            assert not +this.core.interface.counters

    def test_we_initiate(self, program: Callable[[], Path], outer: int, psk: bool) -> None:
        with tunnel(program, outer, psk, "core") as this:
            for sequence, (ours, theirs) in enumerate(zip(OURS, THEIRS, strict=True)):
                this.core.ping(this.peer, ours, theirs, sequence)
            wait_until(lambda: sorted(this.core.replies) == [0, 1], 10, "both queued packets were answered")
            assert this.peer.counters["initiations_sent"] == 1
            assert this.peer.counters["handshakes_completed"] == 1
            # Now the device knows where we are.
            said, _ = ping(this, "-c", "3", "-i", "0.01", "-W", "5", OURS[0]).communicate(timeout=30)
            assert lost(said) == 0
            assert not +this.core.interface.counters


def test_a_wrong_psk_makes_no_session() -> None:
    with tunnel(wg.upstream, 4, True, "wireguard-go") as this:
        this.device.wg(
            "set", wg.LINK, "peer", text(this.core.interface.public_key), "preshared-key", "/dev/stdin",
            text=text(os.urandom(32)),
        )  # fmt: skip
        said, _ = ping(this, "-c", "2", "-i", "0.5", "-W", "1", OURS[0]).communicate(timeout=30)
        assert lost(said) == 2
        assert this.peer.counters["handshakes_completed"] == 0
        assert this.device.latest_handshake() == 0


@pytest.mark.realtime
@pytest.mark.timeout(300)
def test_rekeys_lose_nothing(tmp_path: Path) -> None:
    """REKEY_AFTER_TIME, 120 s, passes under traffic, with each side in each role at once."""
    variants = list(itertools.product((wg.upstream, wg.debian), (4, 6), (True, False), ("wireguard-go", "core")))
    with ExitStack() as stack:
        tunnels = [stack.enter_context(tunnel(*variant)) for variant in variants]
        pings = []
        for number, (this, (_, _, _, initiator)) in enumerate(zip(tunnels, variants, strict=True)):
            if initiator == "core":
                this.core.ping(this.peer, OURS[0], THEIRS[0], 0)
                wait_until(lambda core=this.core: core.replies, 10, "a session")  # type: ignore[misc]
            with (tmp_path / str(number)).open("w") as said:
                address = OURS[1 if initiator == "core" else 0]
                arguments = ("ping", "-n", "-i", "0.1", "-c", "1300", "-W", "5", address)
                pings.append(this.world.start(this.world.device, *arguments, stdout=said))
        began = time.monotonic()
        sent = 1
        while time.monotonic() - began < 130:
            for this, (_, _, _, initiator) in zip(tunnels, variants, strict=True):
                if initiator == "core":
                    this.core.ping(this.peer, OURS[0], THEIRS[0], sent)
            sent += 1
            time.sleep(0.2)
        missing = {}
        for number, running in enumerate(pings):
            running.wait(60)
            written = (tmp_path / str(number)).read_text()
            gone = set(range(1, 1301)) - {int(found) for found in re.findall(r"icmp_seq=(\d+)", written)}
            # A rekey that loses would do so with each packet of its round trip; one among thousands is the busy host's.
            if len(gone) > 1:
                missing[variants[number]] = sorted(gone)
        assert not missing
        for this, (_, _, _, initiator) in zip(tunnels, variants, strict=True):
            assert this.peer.counters["handshakes_completed"] >= 2, initiator
            if initiator == "core":
                assert this.peer.counters["initiations_sent"] >= 2
                wait_until(lambda core=this.core: len(core.replies) == sent, 5, "all echo replies")  # type: ignore[misc]
            assert this.core.fault is None
