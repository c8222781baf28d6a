"""What is aimed at, figure by figure. A `ratio` is to wireguard-go's endpoint in the same run unless its label says."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal


@dataclass(frozen=True, slots=True)
class Goal:
    """One row of the table.

    Attributes:
        key: the figure's name in results.json.
        at_most: whether `bound` is an upper bound; None: the figure is there for comparison only.
        bound: in `unit`.
        family: what is measured together, and chosen on the command line.
    """

    key: str
    label: str
    unit: str
    at_most: bool | None = None
    bound: float = 0.0
    family: str = ""

    def is_met_by(self, value: float) -> bool:
        """Whether the figure is good enough."""
        if self.at_most is None:
            return True
        return value <= self.bound if self.at_most else value >= self.bound

    @property
    def is_better_if_less(self) -> bool:
        """Of a figure without a bound its unit says so."""
        return self.unit not in ("Mbit/s", "1/s") if self.at_most is None else self.at_most

    @property
    def text(self) -> str:
        """As in `<= 1.1 x`."""
        return "" if self.at_most is None else f"{'<=' if self.at_most else '>='} {self.bound:g}"


def _most(key: str, label: str, unit: str, bound: float) -> Goal:
    return Goal(key, label, unit, True, bound)


def _least(key: str, label: str, unit: str, bound: float) -> Goal:
    return Goal(key, label, unit, False, bound)


def _family(name: str, *goals: Goal) -> tuple[Goal, ...]:
    return tuple(replace(goal, family=name) for goal in goals)


Direction = Literal["up", "down"]
DIRECTIONS: Final[tuple[Direction, ...]] = ("up", "down")

GOALS: Final = (
    *_family(
        "bulk",
        Goal("wireguard_go_up_cpu", "wireguard-go's endpoint, up", "s/GB"),
        Goal("wireguard_go_down_cpu", "wireguard-go's endpoint, down", "s/GB"),
        Goal("wireguard_go_up_rate", "wireguard-go's endpoint, up", "Mbit/s"),
        Goal("wireguard_go_down_rate", "wireguard-go's endpoint, down", "Mbit/s"),
        Goal("lopower_up_cpu", "lopower, up", "s/GB"),
        Goal("lopower_down_cpu", "lopower, down", "s/GB"),
        Goal("lopower_up_rate", "lopower, up", "Mbit/s"),
        Goal("lopower_down_rate", "lopower, down", "Mbit/s"),
        Goal("mitmproxy_up_cpu", "mitmproxy, up", "s/GB"),
        Goal("mitmproxy_down_cpu", "mitmproxy, down", "s/GB"),
        Goal("mitmproxy_up_rate", "mitmproxy, up", "Mbit/s"),
        Goal("mitmproxy_down_rate", "mitmproxy, down", "Mbit/s"),
        _most("up_cpu_ratio", "TCP up, CPU", "x", 1.1),
        _most("down_cpu_ratio", "TCP down, CPU", "x", 1.2),
        _least("up_mitmproxy_ratio", "TCP up, rate against mitmproxy", "x", 2),
        _least("down_mitmproxy_ratio", "TCP down, rate against mitmproxy", "x", 3),
        _most("ipv6_up_cpu_ratio", "IPv6 up, CPU against IPv4", "x", 1.05),
        _most("ipv6_down_cpu_ratio", "IPv6 down, CPU against IPv4", "x", 1.05),
        _most("paced_up_cpu_ratio", "paced at 200 Mbit/s, up, CPU against bulk", "x", 2),
        _most("paced_down_cpu_ratio", "paced at 200 Mbit/s, down, CPU against bulk", "x", 2),
    ),
    *_family(
        "flows",
        _most("flows_up_cpu_ratio", "20 flows of one device, up, CPU", "x", 1.5),
        _most("flows_down_cpu_ratio", "20 flows of one device, down, CPU", "x", 1.5),
        Goal("flows_up_rate", "20 flows of one device, up, together", "Mbit/s"),
        Goal("flows_down_rate", "20 flows of one device, down, together", "Mbit/s"),
        _least("flows_up_fairness", "20 flows, up, Jain's index", "", 0.95),
        _least("flows_down_fairness", "20 flows, down, Jain's index", "", 0.95),
    ),
    *_family(
        "devices",
        _most("devices_up_cpu_ratio", "20 devices, up, CPU", "x", 1.8),
        _most("devices_down_cpu_ratio", "20 devices, down, CPU", "x", 1.8),
        Goal("devices_up_rate", "20 devices, up, together", "Mbit/s"),
        Goal("devices_down_rate", "20 devices, down, together", "Mbit/s"),
        _least("devices_up_fairness", "20 devices, up, Jain's index", "", 0.95),
        _least("devices_down_fairness", "20 devices, down, Jain's index", "", 0.95),
    ),
    *_family(
        "small",
        _most("small_up_cpu_ratio", "a device like an ESP32, up, CPU", "x", 1.3),
        _most("small_down_cpu_ratio", "a device like an ESP32, down, CPU", "x", 1.3),
        Goal("small_up_rate", "a device like an ESP32, up", "Mbit/s"),
        Goal("small_down_rate", "a device like an ESP32, down", "Mbit/s"),
    ),
    *_family(
        "udp",
        _most("udp_up_cpu_ratio", "UDP, 1,200 bytes, up, CPU", "x", 1.3),
        _most("udp_down_cpu_ratio", "UDP, 1,200 bytes, down, CPU", "x", 1.3),
    ),
    *_family(
        "loss",
        Goal("emulator_rate", "the link emulator's own limit, no loss nor delay", "Mbit/s"),
        _least("loss_up_rate_ratio", "1 % loss, reordering, 20 ms, up, rate", "x", 0.8),
        _least("loss_down_rate_ratio", "1 % loss, reordering, 20 ms, down, rate", "x", 0.8),
        Goal("loss_up_rate", "1 % loss, reordering, 20 ms, up, four flows", "Mbit/s"),
        Goal("loss_down_rate", "1 % loss, reordering, 20 ms, down, four flows", "Mbit/s"),
        _most("idle_cpu", "idle, 10 devices with keepalives", "%", 0.3),
    ),
    *_family(
        "connects",
        _least("connects_rate", "connections, 8 at a time", "1/s", 1700),
        _most("connects_p99", "connections, p99", "ms", 9),
        Goal("wireguard_go_connects_rate", "connections, wireguard-go's endpoint", "1/s"),
    ),
    *_family(
        "delay",
        Goal("round_trip_p50", "1-byte TCP round trip, idle, p50", "ms"),
        _most("added_delay_p50", "added to wireguard-go's endpoint, p50", "ms", 0.5),
        _most("round_trip_bulk_up_p99", "round trip beside another's bulk up, p99", "ms", 4),
        _most("round_trip_bulk_down_p99", "round trip beside another's bulk down, p99", "ms", 4),
        Goal("wireguard_go_round_trip_bulk_up_p99", "the same through wireguard-go's endpoint, up", "ms"),
        Goal("wireguard_go_round_trip_bulk_down_p99", "the same through wireguard-go's endpoint, down", "ms"),
    ),
    *_family(
        "dns",
        _least("dns_rate", "DNS from the cache, dnsperf", "1/s", 30_000),
    ),
    *_family(
        "memory",
        _most("rss_started", "RSS just started", "MB", 75),
        _most("rss_after_flows", "RSS after 20 bulk flows", "MB", 135),
        _most("rss_open_flows", "RSS of 1,000 open flows", "MB", 40),
    ),
    *_family(
        "throttled",
        _least("throttled_up_rate", "with 15 % of a core, up", "Mbit/s", 50),
        _least("throttled_down_rate", "with 15 % of a core, down", "Mbit/s", 50),
        _most("throttled_dns_p99", "with 15 % of a core, DNS p99", "ms", 20),
    ),
    *_family(
        "cli",
        _most("cli_help", "lopower --help", "s", 0.25),
        _most("cli_device_list", "lopower device list", "s", 0.4),
    ),
    *_family(
        "reboot",
        _most("rss_enrolled", "RSS with 10,000 devices, just started", "MB", 150),
        _most("reboot_seconds", "10,000 devices reboot: all have sessions", "s", 12),
        _most("reboot_nat_seconds", "the same behind one NAT (trusted_sources)", "s", 12),
        _most("reboot_lost_flows", "live flows of others lost meanwhile", "", 0),
        Goal("reboot_flow_p99", "round trip of such a flow, p99", "ms"),
        _most("enrolled_up_cpu_ratio", "10,000 enrolled against 10, up, CPU", "x", 1.05),
        _most("enrolled_down_cpu_ratio", "10,000 enrolled against 10, down, CPU", "x", 1.05),
    ),
    *_family(
        "tailnet",
        Goal("tailnet_up_cpu", "through the sidecar to a tailnet peer, up", "s/GB"),
        Goal("tailnet_down_cpu", "through the sidecar to a tailnet peer, down", "s/GB"),
        _most("tailnet_up_cpu_ratio", "to a tailnet peer, up, CPU of daemon and sidecar", "x", 2.6),
        _most("tailnet_down_cpu_ratio", "to a tailnet peer, down, CPU of both", "x", 2.6),
        _least("tailnet_up_rate", "to a tailnet peer, up", "Mbit/s", 1020),
        _least("tailnet_down_rate", "to a tailnet peer, down", "Mbit/s", 1020),
        _least("tailnet_connects_rate", "to a tailnet peer, connections, 8 at a time", "1/s", 1200),
    ),
    *_family(
        "micro",
        Goal("micro_seal", "seal one of 360 packets of 1,420 bytes", "us"),
        Goal("micro_open", "open one of 360 packets of 1,420 bytes", "us"),
        Goal("micro_parse", "parse one packet of a run of 200", "us"),
        Goal("micro_checksum", "checksum of 1,420 bytes", "us"),
        Goal("micro_segment", "segment one packet of bulk down", "us"),
        Goal("micro_dns_hit", "answer a DNS query from the cache", "us"),
    ),
)  # fmt: skip
