"""Whether this host is as lopower needs it: one check per thing that has kept people's devices from working.

Checks look and change nothing. Each says what it saw and, unless that is fine, what it means and what to do.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Final, Literal, NamedTuple

from lopower.daemon.endpoints import NoEndpointError, find
from lopower.daemon.settings import Settings
from lopower.daemon.tailnet import SIDECAR_MISSING, sidecar_program, uses_tsnet
from lopower.daemon.udp_socket import BUFFER_BYTES
from lopower.tailnet.routes import HostSnapshot, interface_addresses, take_snapshot

_IPPROTO_UDP: Final = 17
_UDP_SEGMENT: Final = 103
_UDP_GRO: Final = 104
_FEW_PORTS: Final = 16_384  # what RFC 6335 section 6 sets aside for this
_TIME_ERROR: Final = 5  # adjtimex(2): the clock is not synchronised

Verdict = Literal["ok", "warning", "failure"]


class Check(NamedTuple):
    """What one check found.

    Attributes:
        name: for programs; stable.
        verdict: `failure`: lopower or its devices cannot work like this; `warning`: they can, less well.
        text: what was seen.
        advice: what to do; empty with `ok`.
    """

    name: str
    verdict: Verdict
    text: str
    advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What only a running daemon knows; the defaults are for when none runs.

    Attributes:
        running: whether a daemon with these settings runs.
        port: the UDP port it listens on.
        ranges: the devices' ranges.
    """

    running: bool = False
    port: int = 0
    ranges: tuple[IPv4Network | IPv6Network, ...] = ()


class Host:
    """The host as the checks see it; another root directory stands in for it in tests."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def read(self, path: str) -> str | None:
        """A file's text, or None."""
        try:
            return (self._root / path.lstrip("/")).read_text().strip()
        except (OSError, UnicodeDecodeError):
            return None

    def snapshot(self) -> HostSnapshot:
        """Addresses and attached networks."""
        return take_snapshot(interface_addresses())


def run(settings: Settings, facts: Facts, host: Host | None = None) -> list[Check]:
    """All checks, in the order in which they matter."""
    host = host or Host()
    ranges = facts.ranges or _ranges(settings)
    checks: tuple[Callable[[], Check], ...] = (
        lambda: check_state_directory(settings.state_dir),
        lambda: check_port(settings, facts),
        lambda: check_endpoint(settings, facts),
        lambda: check_ranges(ranges, host),
        lambda: check_ipv6(host),
        lambda: check_buffers(host),
        lambda: check_offloads(settings),
        lambda: check_local_ports(settings, host),
        lambda: check_ping(host),
        lambda: check_clock(),
        lambda: check_sidecar(sidecar_program()) if uses_tsnet(settings) else check_tailnet(host),
    )
    return [check() for check in checks]


def check_state_directory(state_dir: Path) -> Check:
    """It exists or can be made, is writable, and nobody else can look into it."""
    name = "state_directory"
    try:
        status = state_dir.stat()
    except FileNotFoundError:
        parent = next(parent for parent in state_dir.parents if parent.exists())
        if os.access(parent, os.W_OK | os.X_OK):
            return Check(name, "ok", f"{state_dir} does not exist yet and can be made")
        return Check(name, "failure", f"{state_dir} does not exist, and {parent} is not writable", _STATE_ADVICE)
    except OSError as error:
        return Check(name, "failure", f"{state_dir} cannot be looked at: {error.strerror}", _STATE_ADVICE)
    if not stat.S_ISDIR(status.st_mode):
        return Check(name, "failure", f"{state_dir} is not a directory", "choose another with --state-dir")
    if not os.access(state_dir, os.R_OK | os.W_OK | os.X_OK):
        return Check(name, "failure", f"{state_dir} is not writable for this user", _STATE_ADVICE)
    if status.st_mode & 0o077:
        mode = f"{stat.S_IMODE(status.st_mode):04o}"
        return Check(name, "warning", f"{state_dir} is open to other users (mode {mode})", f"chmod 700 {state_dir}")
    return Check(name, "ok", f"{state_dir} is writable, and private")


def check_port(settings: Settings, facts: Facts) -> Check:
    """The UDP port is ours, or free."""
    name = "port"
    if facts.running:
        return Check(name, "ok", f"the daemon listens on UDP port {facts.port}")
    host, port = settings.listen
    attempts = [(socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0")] if host in ("", "::") else []
    for family, address in attempts or [(socket.AF_INET6 if ":" in host else socket.AF_INET, host)]:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind((address, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return Check(
                    name,
                    "failure",
                    f"UDP port {port} is in use by another program (kernel WireGuard listens there as well)",
                    f"find it with `ss -ulpn sport = :{port}`, or choose another port with --listen",
                )
            if attempts and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                continue  # one of the two IP versions is missing, which check_ipv6 reports
            return Check(name, "failure", f"{settings.listen} cannot be used: {error.strerror}", "correct --listen")
    return Check(name, "ok", f"UDP port {port} is free")


def check_endpoint(settings: Settings, facts: Facts) -> Check:
    """There is an address that devices can dial, and it will stay."""
    name = "endpoint"
    try:
        found = find(settings, facts.port or settings.listen.port)
    except NoEndpointError as error:
        return Check(name, "failure", "there is no address that devices could dial", str(error))
    told = f"devices are told to dial {found.addresses[0]}"
    if found.warning:
        return Check(name, "warning", told, found.warning)
    host = found.addresses[0].host
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        advice = "correct --endpoint, or the DNS of this host"
        return Check(name, "warning", f"{told}, a name that cannot be resolved here: {error.strerror}", advice)
    return Check(name, "ok", f"{told}; routers and firewalls in between must let UDP through to it")


def check_ranges(ranges: tuple[IPv4Network | IPv6Network, ...], host: Host) -> Check:
    """The devices' ranges are nobody else's."""
    name = "ranges"
    try:
        attached = host.snapshot().attached
    except OSError as error:
        return Check(
            name, "warning", f"the host's networks could not be listed: {error.strerror}", "look with `ip route`"
        )
    for ours in ranges:
        for network in attached:
            if ours.version == network.version and ours.overlaps(network):
                setting = "ipv4" if ours.version == 4 else "ipv6"
                return Check(
                    name,
                    "failure",
                    f"the devices' range {ours} overlaps {network}, which this host is attached to",
                    f"choose another with --{setting}; devices then need new configurations",
                )
    return Check(name, "ok", f"{' and '.join(map(str, ranges))} overlap no network of this host")


def check_ipv6(host: Host) -> Check:
    """The outer side has IPv6; the tunnel's inner IPv6 does not depend on it."""
    name = "ipv6"
    if host.read("/proc/sys/net/ipv6/conf/all/disable_ipv6") in (None, "1") and sys.platform == "linux":
        return Check(
            name, "warning", "IPv6 is switched off on this host", "devices reach it over IPv4 only; inside, IPv6 works"
        )
    return Check(name, "ok", "IPv6 is switched on")


def check_buffers(host: Host) -> Check:
    """The kernel grants buffers that hold a burst."""
    name = "udp_buffers"
    sizes = [host.read(f"/proc/sys/net/core/{kind}mem_max") for kind in ("r", "w")]
    if None in sizes:
        return Check(name, "ok", "this system has no limit that could be read")
    smallest = min(int(size or 0) for size in sizes)
    if smallest >= BUFFER_BYTES or os.geteuid() == 0:
        return Check(name, "ok", "the UDP socket gets the buffers it asks for")
    return Check(
        name,
        "warning",
        f"UDP buffers are limited to {smallest // 1024} KB, so bursts of fast devices lose packets",
        f"sysctl -w net.core.rmem_max={BUFFER_BYTES} net.core.wmem_max={BUFFER_BYTES}, and the same in /etc/sysctl.d/",
    )


def check_offloads(settings: Settings) -> Check:
    """The kernel takes and gives many datagrams at a time."""
    name = "offloads"
    missing = [word.upper() for word in ("gro", "gso") if word in settings.without]
    if missing:
        return Check(name, "warning", f"{' and '.join(missing)} are left off by setting", "remove it from `without`")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for word, option in (("GRO", _UDP_GRO), ("GSO", _UDP_SEGMENT)):
            try:
                probe.setsockopt(_IPPROTO_UDP, option, 0)
            except OSError:
                missing.append(word)
    if missing:
        advice = "Linux 5.0 and later have both; without them everything works, at a fraction of the speed"
        return Check(name, "warning", f"this kernel lacks UDP {' and '.join(missing)}", advice)
    return Check(name, "ok", "the kernel has UDP GRO and GSO")


def check_local_ports(settings: Settings, host: Host) -> Check:
    """The host's ports suffice for many short connections to one target: each keeps one for the minute of TIME-WAIT."""
    name = "local_ports"
    bounds = (host.read("/proc/sys/net/ipv4/ip_local_port_range") or "").split()
    if len(bounds) != 2:
        return Check(name, "ok", "this system has no range of local ports that could be read")
    sources = [address.version for address in settings.source_address]
    ports = (int(bounds[1]) - int(bounds[0]) + 1) * max(sources.count(4), sources.count(6), 1)
    reuse = host.read("/proc/sys/net/ipv4/tcp_tw_reuse")
    if reuse == "1":
        return Check(name, "ok", f"one target can have {ports} connections from this host, ended ones aside")
    each_minute = f"one target can have {ports} connections a minute from this host"
    if ports < _FEW_PORTS or reuse == "0":
        advice = f"{_PORTS_ADVICE}; the former in /etc/sysctl.d/, too"
        return Check(name, "warning", f"{each_minute}, and those beyond fail", advice)
    return Check(name, "ok", f"{each_minute}; should that be too few: {_PORTS_ADVICE}")


def check_ping(host: Host) -> Check:
    """Unprivileged ping sockets, without which devices' echo requests beyond the gateway stay unanswered."""
    name = "ping"
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP).close()
    except OSError:
        allowed = host.read("/proc/sys/net/ipv4/ping_group_range")
        seen = "" if allowed is None else f" (net.ipv4.ping_group_range is {' '.join(allowed.split())})"
        return Check(
            name,
            "warning",
            f"this user may not send echo requests{seen}, so devices can ping the gateway and nothing beyond it",
            "sysctl -w net.ipv4.ping_group_range='0 2147483647', and the same in /etc/sysctl.d/",
        )
    return Check(name, "ok", "devices' echo requests can be carried on")


def check_clock() -> Check:
    """The host's clock is synchronised: devices get their time here, and certificates depend on it."""
    name = "clock"
    synchronised = _clock_synchronised()
    if synchronised is None:
        return Check(name, "ok", "this system does not tell whether its clock is synchronised")
    if not synchronised:
        return Check(
            name,
            "warning",
            "this host's clock is not synchronised, and devices that ask the gateway for the time are told so",
            "timedatectl set-ntp true",
        )
    return Check(name, "ok", "the clock is synchronised")


def check_tailnet(host: Host) -> Check:
    """Whether this host is in a tailnet."""
    name = "tailnet"
    try:
        snapshot = host.snapshot()
    except OSError as error:
        return Check(
            name, "warning", f"the host's addresses could not be listed: {error.strerror}", "look with `ip addr`"
        )
    if snapshot.tailnet:
        return Check(name, "ok", f"this host is in a tailnet, as {', '.join(sorted(map(str, snapshot.tailnet)))}")
    return Check(
        name,
        "warning",
        "this host is in no tailnet, so devices reach none",
        "install Tailscale here and log in (https://tailscale.com/download), unless devices need no tailnet",
    )


def check_sidecar(program: Path | None) -> Check:
    """Whether the program is there that holds the proxy's own node."""
    name = "tailnet"
    if program is None:
        what, _, advice = SIDECAR_MISSING.partition(": ")
        return Check(name, "failure", what, advice)
    if not os.access(program, os.X_OK):
        return Check(name, "failure", f"{program} cannot be executed by this user", f"chmod 755 {program}")
    return Check(name, "ok", f"the proxy joins the tailnet by itself, with {program}; `lopower status` says how it is")


def _ranges(settings: Settings) -> tuple[IPv4Network | IPv6Network, ...]:
    ranges: list[IPv4Network | IPv6Network] = []
    if settings.ipv4_range is not None:
        ranges.append(settings.ipv4_range)
    if settings.ipv6 != "random":
        ranges.append(settings.ipv6)
    return tuple(ranges)


def _clock_synchronised() -> bool | None:
    """What adjtimex(2) says; None where there is none."""
    if sys.platform != "linux":
        return None
    import ctypes

    try:
        adjtimex = ctypes.CDLL(None, use_errno=True).adjtimex
    except (AttributeError, OSError):
        return None
    # struct timex has 208 bytes on 64-bit and 128 on 32-bit systems; all zero only asks.
    state = adjtimex(ctypes.byref(ctypes.create_string_buffer(256)))
    return None if state < 0 else state != _TIME_ERROR


_PORTS_ADVICE: Final = "sysctl -w net.ipv4.tcp_tw_reuse=1, or several --source-address"
_STATE_ADVICE: Final = "run as the user that owns it (sudo for the service's), or choose another with --state-dir"
