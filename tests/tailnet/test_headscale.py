"""headscale, a control server that we did not write: keys, names, ACLs, approval, and what it does when it is gone."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import tailnet_services as services
from tests.support.lopower_daemon import LopowerDaemon
from tests.support.netns import wait_until
from tests.support.tailnet_headscale import DOMAIN, URL, Headscale
from tests.support.tailnet_namespaces import Device, Network, TailscaleNode, daemon_in, joined, network, tailnet_of

pytestmark = [pytest.mark.netns, pytest.mark.xdist_group("tailnet-real"), pytest.mark.timeout(900)]

IPV4, IPV6, VIA = "10.90.0.0/24", "fd7a:115c:a1e0:9909::/64", "fd7a:115c:a1e0:b1a:0:7:a5a:0/120"
POLICY = {
    "tagOwners": {f"tag:{name}": ["ada@"] for name in ("iot", "phone", "laptop")},
    "autoApprovers": {"routes": {route: ["tag:iot"] for route in (IPV4, IPV6, VIA)}},
    "acls": [
        {"action": "accept", "src": ["tag:phone"], "dst": ["tag:iot:*", f"{IPV4}:80", f"{VIA}:80"]},
        {"action": "accept", "src": ["tag:laptop"], "dst": ["tag:iot:80"]},
        {"action": "accept", "src": ["tag:iot"], "dst": ["tag:phone:80,7"]},
        # headscale shows a node its own routes if it may use them.
        {"action": "accept", "src": ["tag:iot"], "dst": [f"{route}:*" for route in (IPV4, IPV6, VIA)]},
    ],
}


class Site:
    """One tailnet, and the daemon in it."""

    def __init__(self, space: Network) -> None:
        self.network = space
        self.headscale = Headscale(space, POLICY)
        self.phone, self.laptop = self._node("phone"), self._node("laptop")
        self.key_file = self.headscale.key_file("iot-key", "tag:iot")
        self.daemon = self.start("lopower")
        joined(self.daemon)
        self.kitchen = Device(space, self.daemon, "kitchen")

    def start(self, name: str, *flags: str, port: int = 51820) -> LopowerDaemon:
        """A daemon with a key that is right, unless the flags name another."""
        key = () if "--auth-key-file" in flags else ("--auth-key-file", str(self.key_file))
        return daemon_in(self.network, name, "--control-url", URL, *key, *flags, port=port)

    def _node(self, name: str) -> TailscaleNode:
        node = self.network.node(name)
        node.join(URL, f"--auth-key={self.headscale.key(f'tag:{name}')}")
        self.network.serve(node.space, name)
        return node


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with network() as space:
        yield Site(space)


def test_names_and_acls(site: Site) -> None:
    status = tailnet_of(site.daemon)
    assert status["node"]["dns_name"] == f"lopower.{DOMAIN}"
    assert status["node"]["tags"] == ["tag:iot"]
    assert site.kitchen.dig(f"phone.{DOMAIN}") == site.phone.addresses[:1]
    assert site.kitchen.curl("http://phone/") == "phone"
    # What its ACLs forbid is told at once, by the peer that refuses it or because the peer is not to be seen.
    assert site.kitchen.client("exchange", site.phone.addresses[0], services.HASH, "x") == "EHOSTUNREACH"
    assert site.kitchen.client("exchange", site.laptop.addresses[0], 7, "x") == "EHOSTUNREACH"


def test_identities_by_tag(site: Site) -> None:
    site.daemon.lopower("expose", "kitchen", "--from", "tag:phone")
    assert site.phone.curl("http://lopower/") == "kitchen"
    assert site.laptop.client("exchange", "lopower", services.HTTP, "x") == "ECONNREFUSED"
    site.daemon.lopower("expose", "kitchen", "--off")


def check_route(site: Site, route: str, host: str) -> None:
    """It is approved, and the phone reaches the device."""

    def approved() -> bool:
        return route in site.headscale.nodes()["lopower"].get("subnet_routes", [])

    wait_until(approved, 20, f"{route} is approved")
    wait_until(lambda: site.phone.curl(f"http://{host}/", check=False, seconds=2) == "kitchen", 20, f"{host} answers")


def test_routes_are_approved_by_policy(site: Site) -> None:
    site.daemon.lopower("advertise", "--via", "7")
    via = site.daemon.json("device", "show", "kitchen")["via"]
    check_route(site, VIA, f"[{via['address']}]")
    # Clients answer 4via6 names under ts.net alone.
    assert site.phone.dig(f"10-90-0-2-via-7.{DOMAIN}", "AAAA") == []
    site.daemon.lopower("advertise", "--off")
    site.daemon.lopower("advertise")
    check_route(site, IPV4, "10.90.0.2")
    # headscale tells a node of its own routes when it connects anew; see the restart below.
    assert "waits for approval" in site.daemon.lopower("advertise")


def test_a_name_that_is_taken(site: Site) -> None:
    """The control server gives another, and the status says which."""
    site.daemon.lopower("expose", "kitchen", "--node", "--hostname", "phone")
    place = ["expose"]

    def name() -> str:
        [entry] = site.daemon.json(*place)["exposures"]
        return str(entry["node"]["dns_name"])

    wait_until(lambda: name().endswith(DOMAIN), 20, "the device's node is in")
    given = name()
    assert given.startswith("phone-")
    assert given in site.daemon.lopower("expose")
    wait_until(lambda: site.phone.curl(f"http://{given}/", check=False, seconds=2) == "kitchen", 20, f"{given} answers")
    site.daemon.lopower("expose", "kitchen", "--off")
    label = given.partition(".")[0]
    # headscale keeps a node that logged out, with a key that has expired.
    wait_until(lambda: _has_expired(site.headscale.nodes()[label]), 20, "it is logged out")


def _has_expired(node: dict[str, Any]) -> bool:
    expiry = node.get("expiry") or {}
    return 0 < int(expiry.get("seconds", 0)) <= time.time()


def test_a_wrong_key_and_then_a_right_one(site: Site, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("hskey-auth-000000000000-" + "0" * 64 + "\n")
    daemon = site.start("wrong", "--auth-key-file", str(wrong), "--hostname", "second", port=51822)
    wait_until(lambda: "(" in tailnet_of(daemon)["detail"], 20, "the reason is told")
    status = tailnet_of(daemon)
    assert (status["state"], status["advice"]) == (
        "needs-login",
        "lopower login for a URL, or lopower login --auth-key-file FILE with another key",
    )
    assert "hskey-auth-0" not in json.dumps(status) + daemon.log.read_text()
    daemon.lopower("login", "--auth-key-file", str(site.key_file))
    joined(daemon, 1)
    assert daemon.stop() == 0


def test_an_expired_key_and_a_removed_node(site: Site) -> None:
    key_file = site.headscale.key_file("ada-key")
    daemon = site.start("expiring", "--auth-key-file", str(key_file), "--hostname", "third", port=51823)
    joined(daemon, 0)
    device = Device(site.network, daemon, "attic")
    site.headscale.ask("nodes", "expire", "-i", str(site.headscale.nodes()["third"]["id"]))
    wait_until(lambda: tailnet_of(daemon)["state"] == "expired", 20, "the status says so")
    assert tailnet_of(daemon)["advice"] == "lopower login"
    assert device.client("exchange", site.phone.addresses[0], services.HTTP, "x") == "EHOSTUNREACH"
    assert "SERVFAIL" in device.run("dig", f"phone.{DOMAIN}")
    daemon.lopower("login", "--auth-key-file", str(key_file))
    joined(daemon, 0)
    site.headscale.ask("nodes", "delete", "-i", str(site.headscale.nodes()["third"]["id"]))
    daemon.lopower("login", "--auth-key-file", str(key_file))
    wait_until(lambda: "third" in site.headscale.nodes(), 20, "it is in as a new node")
    joined(daemon, 0)
    assert [entry["name"] for entry in daemon.json("device", "list")["devices"]] == ["attic"]
    assert daemon.stop() == 0


def test_flows_survive_a_killed_control_server_and_relay(site: Site) -> None:
    """What is established goes on without both, and new flows begin; all that was is there when they are back."""
    before = site.headscale.nodes()["lopower"]
    with site.kitchen.popen_client("trickle", site.phone.addresses[0], 5) as transfer:
        assert transfer.stdout is not None
        assert transfer.stdout.readline() == "ready\n"
        site.headscale.kill()
        site.headscale.relay.process.kill()
        assert site.kitchen.curl("http://phone/") == "phone"
        assert site.kitchen.dig(f"phone.{DOMAIN}") == site.phone.addresses[:1]
        report = json.loads(transfer.communicate(timeout=60)[0])
    assert report["ended"] == "in order"
    assert report["rounds"] > 0
    site.network.relay()
    site.headscale.start()
    wait_until(lambda: site.headscale.nodes()["lopower"].get("online"), 40, "the node is back")
    after = site.headscale.nodes()["lopower"]
    assert [after[key] for key in ("id", "node_key", "machine_key")] == [
        before[key] for key in ("id", "node_key", "machine_key")
    ]
    assert site.kitchen.curl("http://phone/") == "phone"


def test_a_restart_keeps_stable_id_key_and_routes(site: Site) -> None:
    before = site.headscale.nodes()["lopower"]
    seen = site.phone.peers()["lopower"]
    assert site.daemon.stop() == 0
    site.daemon.start()
    joined(site.daemon, 1)
    assert "waits for approval" not in site.daemon.lopower("advertise")
    after = site.headscale.nodes()["lopower"]
    for key in ("id", "node_key", "machine_key", "ip_addresses"):
        assert after[key] == before[key]
    assert [site.phone.peers()["lopower"][key] for key in ("ID", "PublicKey")] == [
        seen[key] for key in ("ID", "PublicKey")
    ]
    wait_until(lambda: site.kitchen.curl("http://phone/", check=False, seconds=2) == "phone", 20, "flows go again")
