"""Real nodes, `tailscaled` with TUN devices, reach wireguard-go devices by each way of `expose` and `advertise`."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.support import tailnet_services as services
from tests.support.netns import wait_until
from tests.support.tailnet_namespaces import Device, Machine, RealTailnet, TailscaleNode, network, tailnet_of

pytestmark = [pytest.mark.netns, pytest.mark.xdist_group("tailnet-real"), pytest.mark.timeout(600)]

BULK = 200_000_000


@pytest.fixture(scope="module")
def tailnet() -> Iterator[RealTailnet]:
    with network() as space:
        yield RealTailnet(space)


@pytest.fixture(scope="module")
def kitchen(tailnet: RealTailnet) -> Device:
    device = Device(tailnet.network, tailnet.daemon, "kitchen")
    device.run("ping", "-c", "1", "-W", "5", "10.90.0.1")
    return device


@pytest.fixture
def exposed(tailnet: RealTailnet) -> Iterator[RealTailnet]:
    """Whatever a test exposes is taken back."""
    yield tailnet
    for device in {entry["device"] for entry in tailnet.daemon.json("expose")["exposures"]}:
        tailnet.daemon.lopower("expose", device, "--off")


def check_all_protocols(machine: Machine, host: str) -> None:
    """TCP, half-closed and refused, UDP and its refusal, from a real node's kernel."""
    assert machine.client("exchange", host, services.ECHO, "half-closed") == "half-closed"
    assert machine.client("exchange", host, 4242, "x") == "ECONNREFUSED"
    assert machine.client("datagram", host, services.ECHO, "one") == "one"
    assert machine.client("datagram", host, 4242, "x") == "ECONNREFUSED"


def check_iperf3(machine: Machine, host: str) -> None:
    """TCP both ways, eight flows at once, UDP."""
    for options in ((), ("-R",), ("-P", "8"), ("-u", "-b", "10M", "-l", "1200")):
        report = json.loads(machine.run("iperf3", "-J", "-c", host, "-t", "1", *options))
        assert report["end"]["sum" if "-u" in options else "sum_received"]["bytes"] > 0


def test_all_that_arrives_for_the_node(exposed: RealTailnet, kitchen: Device) -> None:
    phone = exposed.phone
    assert phone.client("exchange", "lopower", services.ECHO, "x") == "ECONNREFUSED"
    exposed.daemon.lopower("expose", "kitchen")
    assert phone.curl("http://lopower/") == "kitchen"
    # Devices see the peer's own address.
    assert phone.curl("http://lopower/address").endswith(phone.addresses[0])
    for address in tailnet_of(exposed.daemon)["node"]["addresses"]:
        check_all_protocols(phone, address)
    assert phone.dig("@lopower", "anything.example.org") == [services.ANSWER]
    exposed.network.iperf3(kitchen.space)
    check_iperf3(phone, "lopower")
    exposed.daemon.lopower("expose", "kitchen", "--off")
    assert phone.client("exchange", "lopower", services.ECHO, "x") == "ECONNREFUSED"


def test_bulk_each_way(exposed: RealTailnet, kitchen: Device) -> None:
    exposed.daemon.lopower("expose", "kitchen")
    up = json.loads(exposed.phone.client("upload", "lopower", BULK))
    assert up["received"] == up["sent"]
    down = json.loads(exposed.phone.client("download", "lopower", BULK))
    assert (down["bytes"], down["received"]) == (BULK, services.expected(BULK))


def test_one_port(exposed: RealTailnet, kitchen: Device) -> None:
    phone = exposed.phone
    exposed.daemon.lopower("expose", "kitchen", "--port", "8080:80")
    exposed.daemon.lopower("expose", "kitchen", "--port", "5353:53", "--udp")
    assert phone.curl("http://lopower:8080/") == "kitchen"
    assert phone.dig("@lopower", "-p", "5353", "anything.example.org") == [services.ANSWER]
    for port in (80, 53):
        assert phone.client("exchange", "lopower", port, "x") == "ECONNREFUSED"
    assert phone.client("datagram", "lopower", 53, "x") == "ECONNREFUSED"


def test_who_may_connect(exposed: RealTailnet, kitchen: Device) -> None:
    exposed.daemon.lopower("expose", "kitchen", "--port", "80", "--from", exposed.phone.addresses[0])
    exposed.daemon.lopower("expose", "kitchen", "--port", "7", "--udp", "--from", exposed.phone.addresses[0])
    assert exposed.phone.curl("-4", "http://lopower/") == "kitchen"
    assert exposed.phone.client("datagram", "lopower", services.ECHO, "one") == "one"
    assert exposed.laptop.client("exchange", "lopower", services.HTTP, "x") == "ECONNREFUSED"
    assert exposed.laptop.client("datagram", "lopower", services.ECHO, "one") == "ECONNREFUSED"


def test_two_devices_are_two_nodes(exposed: RealTailnet, kitchen: Device) -> None:
    hall = Device(exposed.network, exposed.daemon, "hall")
    for device in (kitchen, hall):
        exposed.daemon.lopower("expose", device.name, "--node")
    phone = exposed.phone
    wait_until(lambda: {"kitchen", "hall", "lopower"} <= set(phone.peers()), 30, "the phone knows both")
    found = phone.peers()
    assert len({found[name]["ID"] for name in ("kitchen", "hall", "lopower")}) == 3
    assert len({found[name]["PublicKey"] for name in ("kitchen", "hall", "lopower")}) == 3
    for device in (kitchen, hall):
        assert phone.curl(f"http://{device.name}/") == device.name
        # What a device sends leaves with its own identity.
        assert device.curl(f"http://{phone.addresses[0]}/address").endswith(found[device.name]["TailscaleIPs"][0])
        check_all_protocols(phone, found[device.name]["TailscaleIPs"][1])
    assert phone.client("exchange", "lopower", services.HTTP, "x") == "ECONNREFUSED"
    exposed.daemon.lopower("device", "remove", "hall")
    # The test's control server does not tell the others that a node has logged out.
    wait_until(
        lambda: all(entry["device"] != "hall" for entry in exposed.daemon.json("expose")["exposures"]), 10, "it is gone"
    )
    assert phone.curl("http://kitchen/") == "kitchen"


def advertise(tailnet: RealTailnet, *options: str) -> None:
    """Advertised and approved; the peers hear of it."""
    tailnet.daemon.lopower("advertise", "--off")
    routes = [entry["route"] for entry in tailnet.daemon.json("advertise", *options)["routes"]]
    assert "waits for approval" in tailnet.daemon.lopower("advertise")

    def offered() -> bool:
        nodes = tailnet.control.do("nodes")["nodes"]
        return any(set(routes) == set(node["advertised"]) for node in nodes if node["name"] == "lopower")

    wait_until(offered, 10, f"{routes} are advertised")
    tailnet.control.do("approve", node="lopower", routes=routes)
    wait_until(lambda: "waits" not in tailnet.daemon.lopower("advertise"), 10, "the daemon knows of the approval")


def reached(node: TailscaleNode, host: str) -> None:
    wait_until(lambda: node.curl(f"http://{host}/", check=False, seconds=2) == "kitchen", 20, f"{host} is reached")


def test_routes_as_they_are_and_by_4via6(exposed: RealTailnet, kitchen: Device) -> None:
    """In turns, over one node: what flows by 4via6 must not disturb the plain addresses that it stands for."""
    phone, daemon = exposed.phone, exposed.daemon
    shown = daemon.json("device", "show", "kitchen")
    four, six = shown["ipv4"], shown["ipv6"]
    daemon.lopower("expose", "kitchen", "--port", "8080:80")
    for _ in range(2):
        advertise(exposed)
        for address, host in ((four, four), (six, f"[{six}]")):
            reached(phone, host)
            check_all_protocols(phone, address)
        phone.run("ping", "-c", "1", "-W", "5", four)
        advertise(exposed, "--via", "7")
        via = daemon.json("device", "show", "kitchen")["via"]
        assert phone.dig(via["name"], "AAAA") == [via["address"]]
        reached(phone, via["name"])
        check_all_protocols(phone, via["address"])
        phone.run("ping", "-6", "-c", "1", "-W", "5", via["address"])
        assert phone.curl("http://lopower:8080/") == "kitchen"
        assert kitchen.curl("http://phone/") == "phone"
    daemon.lopower("advertise", "--off")
