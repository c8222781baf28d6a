"""Why a device does not connect, in words.

A pure function over counters. WireGuard answers nothing to what it cannot authenticate, so neither side tells its user
what is wrong; but how far a handshake came tells it. The initiation shows whether packets arrive (any at all), whether
they are made for us (mac1 is keyed with our public key), by whom (the static key inside), and when (its time stamp);
only then does our answer go out, and the preshared key counts for the first time when the device opens that.
"""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from lopower.daemon.statistics import DeviceStatistics, InterfaceStatistics

if TYPE_CHECKING:
    from lopower.devices.device import Device

# A session ends this long after its handshake at the latest (WireGuard paper, section 6.1: Reject-After-Time).
SESSION_SECONDS: Final = 180.0
# What unknown keys and wrong mac1s did longer ago says nothing about a device that fails now.
RECENT_SECONDS: Final = 600.0

State = Literal["disabled", "connected", "idle", "never", "failing"]


class Finding(NamedTuple):
    """One thing that is wrong, or may be.

    Attributes:
        code: for programs; stable.
        text: what is seen, and what it means.
        advice: what to do next.
    """

    code: str
    text: str
    advice: str


class Diagnosis(NamedTuple):
    """Of one device.

    Attributes:
        state: `connected`: there is a session; `idle`: there was one; `failing`: it tries, in vain; `never`: nothing of
            it came; `disabled`.
        summary: one sentence.
        findings: the likeliest first.
    """

    state: State
    summary: str
    findings: tuple[Finding, ...]


def diagnose(
    device: Device, statistics: DeviceStatistics, interface: InterfaceStatistics, *, server_key: bytes, endpoint: str
) -> Diagnosis:
    """Judge by what has been counted since the daemon started.

    Args:
        device: its entry in the registry.
        statistics: of the device.
        interface: of all.
        server_key: our public key.
        endpoint: what the device's configuration names as ours, in text.
    """
    name = device.name
    if not device.enabled:
        finding = Finding("disabled", "the device is disabled", f"lopower device enable {name}")
        return Diagnosis("disabled", "disabled: whatever it sends is dropped", (finding,))

    counters = statistics.counters
    completed = counters.get("handshakes_completed", 0)
    inside = _inside_the_tunnel(device, statistics)
    age = statistics.latest_handshake
    if age is not None and age < SESSION_SECONDS:
        return Diagnosis("connected", f"connected from {statistics.endpoint}, handshake {_ago(age)}", inside)

    if counters.get("timestamp_not_newer", 0):
        finding = Finding(
            "clock_went_back",
            f"{_times(counters['timestamp_not_newer'])} its initiation carried a time stamp no newer than the last: "
            "its clock went back, as after a power cut without a battery (or a recorded message is being replayed)",
            f"set the device's clock, or accept its new time once with: lopower device reset-clock {name}",
        )
        return Diagnosis("failing", "its initiations are refused: the device's clock went back", (finding, *inside))

    received = counters.get("initiations_received", 0)
    if received and not completed:
        psk = (
            "its preshared key is missing or another one"
            if device.preshared_key is not None
            else "it uses a preshared key, and here it has none"
        )
        finding = Finding(
            "never_confirmed",
            f"{_times(received)} it sent a valid initiation from {statistics.endpoint} and never confirmed our answer: "
            f"{psk}, or our answer does not reach it",
            f"compare with: lopower device config {name}; if it is right, look for a firewall or NAT that drops UDP "
            f"from port {interface.port} of this host back to the device",
        )
        return Diagnosis("failing", "it initiates, but no handshake is ever confirmed", (finding, *inside))

    if completed:
        return _idle(device, statistics, inside)

    findings = [*_strangers(device, interface, server_key), _nothing_came(device, interface, endpoint)]
    if findings[0].code != "no_packet":
        return Diagnosis("failing", "nothing came with its key; somebody fails who may be it", tuple(findings[:-1]))
    return Diagnosis(
        "never", f"no packet of it came since the daemon started {_ago(interface.uptime)}", tuple(findings)
    )


def _idle(device: Device, statistics: DeviceStatistics, inside: tuple[Finding, ...]) -> Diagnosis:
    silent = statistics.last_packet if statistics.last_packet is not None else statistics.latest_handshake
    findings = list(inside)
    sent, answered = (statistics.counters.get(key, 0) for key in ("initiations_sent", "responses_received"))
    if device.persistent_keepalive == 0:
        findings.append(
            Finding(
                "no_keepalive",
                "it sends no keepalives, so a NAT on the way forgets it when it is quiet, and what comes for it is lost"
                + (f" ({_times(sent)} we called it, {_times(answered)} it answered)" if sent else ""),
                "set PersistentKeepalive = 25 in its configuration",
            )
        )
    elif silent is not None:
        findings.append(
            Finding(
                "silent",
                f"it should send every {device.persistent_keepalive} s and has not for {_span(silent)}: "
                "it is switched off, asleep, or off the network",
                "see whether the device runs and has a network",
            )
        )
    seen = f"last seen at {statistics.endpoint}" + (f" {_ago(silent)}" if silent is not None else "")
    return Diagnosis("idle", f"not connected; {seen}", tuple(findings))


def _inside_the_tunnel(device: Device, statistics: DeviceStatistics) -> tuple[Finding, ...]:
    """What a device that is connected can still have wrong."""
    counters, findings = statistics.counters, []
    firmware = device.firmware
    if firmware is not None and firmware.gave_up is not None:
        findings.append(
            Finding(
                "update_given_up",
                f"its last update was given up, and it went back to what it ran before: {firmware.reason}",
                f"put right what the update changed, and run it again; see: lopower device logs {device.name}",
            )
        )
    if count := counters.get("source_not_allowed", 0):
        own = " and ".join(str(address) for address in (device.ipv4, device.ipv6) if address is not None)
        findings.append(
            Finding(
                "address_not_its_own",
                f"{_packets(count)} came from an inner address that is not its own, and were dropped; its own: {own}",
                f"correct Address in its configuration: lopower device config {device.name}",
            )
        )
    if count := counters.get("not_authentic", 0):
        findings.append(
            Finding(
                "not_authentic",
                f"{_packets(count)} for its session could not be authenticated: damaged on the way, or forged",
                "harmless while there are few of them",
            )
        )
    return tuple(findings)


def _strangers(device: Device, interface: InterfaceStatistics, server_key: bytes) -> list[Finding]:
    """Failures that carry no device's name; one seen where this device last was comes first."""
    known_host = device.last_endpoint[0] if device.last_endpoint is not None else None
    findings: list[tuple[bool, Finding]] = []
    for place, age in reversed(interface.recent_wrong_mac1):
        if age < RECENT_SECONDS:
            finding = Finding(
                "wrong_server_key",
                f"a device at {place} sent a handshake for another server's public key {_ago(age)}; "
                f"ours is {b64encode(server_key).decode()}",
                f"if that is {device.name}, correct its PublicKey: lopower device config {device.name}",
            )
            findings.append((place.host != known_host, finding))
            break
    for key, place, age in reversed(interface.recent_unknown):
        if age < RECENT_SECONDS:
            finding = Finding(
                "unknown_public_key",
                f"a device at {place} called {_ago(age)} with the public key {b64encode(key).decode()}, "
                "which no device here has",
                f"if that is {device.name}, it has another private key than here: remove it, and add it again with "
                "--public-key and that key",
            )
            findings.append((place.host != known_host, finding))
            break
    return [finding for _, finding in sorted(findings, key=lambda item: item[0])]


def _nothing_came(device: Device, interface: InterfaceStatistics, endpoint: str) -> Finding:
    where = f"; it was last seen at {device.last_endpoint[0]}" if device.last_endpoint is not None else ""
    return Finding(
        "no_packet",
        f"no packet of {device.name} reached UDP port {interface.port}{where}",
        f"see that the device is on and has a network, that its Endpoint ({endpoint}) leads to this host from where it "
        f"is, and that no firewall or router in between drops UDP port {interface.port}",
    )


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _packets(count: int) -> str:
    return "one packet" if count == 1 else f"{count} packets"


def _span(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _ago(seconds: float) -> str:
    return f"{_span(seconds)} ago"
