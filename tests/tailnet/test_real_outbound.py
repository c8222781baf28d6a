"""A device, wireguard-go, reaches real nodes: `tailscaled` with TUN devices, over the daemon as a user runs it."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator

import pytest

from tests.support import tailnet_services as services
from tests.support.netns import wait_until
from tests.support.tailnet_namespaces import Device, RealTailnet, daemon_in, joined, network

pytestmark = [pytest.mark.netns, pytest.mark.xdist_group("tailnet-real"), pytest.mark.timeout(600)]

BULK = 1_000_000_000


@pytest.fixture(scope="module")
def tailnet() -> Iterator[RealTailnet]:
    with network() as space:
        yield RealTailnet(space)


@pytest.fixture(scope="module")
def device(tailnet: RealTailnet) -> Device:
    return Device(tailnet.network, tailnet.daemon, "kitchen")


def test_names_of_the_tailnet(tailnet: RealTailnet, device: Device) -> None:
    four, six = tailnet.phone.addresses
    name = f"phone.{tailnet.control.domain}"
    assert device.dig(name) == [four]
    assert device.dig(name, "AAAA") == [six]
    assert device.dig("-x", four) == [f"{name}."]
    assert device.dig("-x", six) == [f"{name}."]
    assert device.dig("phone")[-1:] == [four]
    assert "NXDOMAIN" in device.run("dig", f"nobody.{tailnet.control.domain}")
    assert device.curl(f"http://{name}/") == "phone"
    assert device.curl("http://laptop/") == "laptop"


def test_devices_without_ipv4_are_told_of_ipv6_alone(tailnet: RealTailnet) -> None:
    daemon = daemon_in(tailnet.network, "six", "--control-url", tailnet.control.url, "--no-ipv4", "--hostname", "six",
                       port=51821)  # fmt: skip
    joined(daemon)
    device = Device(tailnet.network, daemon, "garden")
    name = f"phone.{tailnet.control.domain}"
    answer = device.run("dig", name)
    assert "NOERROR" in answer
    assert "ANSWER: 0" in answer
    assert device.dig(name, "AAAA") == tailnet.phone.addresses[1:]
    assert device.curl(f"http://{name}/") == "phone"
    assert daemon.stop() == 0


def test_split_and_override_resolvers(tailnet: RealTailnet, device: Device) -> None:
    """One inside the tailnet, asked through the node."""
    phone = tailnet.phone.addresses[0]
    assert device.dig("printer.corp.test") != [services.ANSWER]
    tailnet.control.do("dns", split={"corp.test": [phone]})
    wait_until(lambda: device.dig("printer.corp.test") == [services.ANSWER], 20, "the split route is in force")
    assert device.dig("printer.example.org") != [services.ANSWER]
    tailnet.control.do("dns", resolvers=[phone])
    wait_until(lambda: device.dig("other.example.org") == [services.ANSWER], 20, "the override is in force")
    assert device.dig("phone")[-1:] == [phone]
    tailnet.control.do("dns")
    wait_until(lambda: device.dig("third.example.org") != [services.ANSWER], 20, "it is taken back")


@pytest.mark.parametrize("version", [0, 1], ids=["IPv4", "IPv6"])
def test_streams_and_datagrams(tailnet: RealTailnet, device: Device, version: int) -> None:
    address = tailnet.phone.addresses[version]
    assert device.client("exchange", address, services.ECHO, "half-closed") == "half-closed"
    assert device.client("exchange", address, 4242, "x") == "ECONNREFUSED"
    assert device.client("datagram", address, services.ECHO, "one") == "one"
    assert device.client("datagram", address, 4242, "x") == "ECONNREFUSED"
    device.run("ping", "-c", "1", "-W", "5", address)


def test_a_peer_that_is_silent(tailnet: RealTailnet, device: Device) -> None:
    """A dial to it ends when its time is over; nobody else waits for it."""
    tailnet.laptop.process.send_signal(signal.SIGSTOP)
    try:
        with device.popen_client("exchange", tailnet.laptop.addresses[0], services.ECHO, "x") as waiting:
            assert device.curl("http://phone/") == "phone"
            assert waiting.poll() is None
            answer, _ = waiting.communicate(timeout=30)
        assert answer.strip() == "EHOSTUNREACH"
    finally:
        tailnet.laptop.process.send_signal(signal.SIGCONT)
    wait_until(lambda: device.curl("http://laptop/", check=False) == "laptop", 30, "it is reached again")


def test_an_address_off_the_tailnet_is_not_dialled_on_the_host(tailnet: RealTailnet, device: Device) -> None:
    """A neighbour of the host that serves, an address beyond, one of the tailnet's ranges that nobody has."""
    neighbour = tailnet.network.machine("lan")
    tailnet.network.serve(neighbour, "neighbour")
    beside, beyond, nobody = tailnet.network.address(neighbour), "203.0.113.5", "100.99.98.97"
    for address in (beside, beyond, nobody):
        device.reach(f"{address}/32")
    expression = " or ".join(f"host {address}" for address in (beside, beyond, nobody))
    with tailnet.network.host.capture("any", expression) as seen:
        for address in (beside, beyond, nobody):
            assert device.client("exchange", address, services.ECHO, "x") == "EHOSTUNREACH"
            assert device.client("datagram", address, services.ECHO, "x") == "EHOSTUNREACH"
            device.run("ping", "-c", "1", "-W", "1", address, check=False)
    assert seen == []
    with tailnet.network.host.capture("any", expression) as seen:  # the capture sees what the host itself dials
        assert tailnet.network.host.run("curl", "-sS", f"http://{beside}/") == "neighbour"
    assert seen


def test_a_gigabyte_each_way(tailnet: RealTailnet, device: Device) -> None:
    address = tailnet.phone.addresses[0]
    up = json.loads(device.client("upload", address, BULK))
    assert up["received"] == up["sent"]
    down = json.loads(device.client("download", address, BULK))
    assert (down["bytes"], down["received"]) == (BULK, services.expected(BULK))


def test_iperf3(tailnet: RealTailnet, device: Device) -> None:
    tailnet.network.iperf3(tailnet.phone.space)
    for options in ((), ("-R",), ("-P", "8"), ("-u", "-b", "10M", "-l", "1200")):
        report = json.loads(device.run("iperf3", "-J", "-c", tailnet.phone.addresses[0], "-t", "1", *options))
        assert report["end"]["sum_received" if "-u" not in options else "sum"]["bytes"] > 0
