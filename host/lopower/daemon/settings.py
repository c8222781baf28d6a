"""Every setting: its name, what it may hold, its default; and where a value comes from.

One table. A setting `state_dir` is the key `state_dir` of the TOML file, the variable `LOPOWER_STATE_DIR` and the flag
`--state-dir`; flag beats variable beats file beats default. A list is replaced as a whole, never merged. In a variable
the items of a list are separated by spaces.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from lopower.daemon import setting_values as values
from lopower.daemon.setting_values import HostPort

if TYPE_CHECKING:
    from lopower.devices.policy import Rule

IPAddress = IPv4Address | IPv6Address
Kind = Literal["text", "path", "integer", "switch"]


class SettingsError(Exception):
    """A setting cannot be used; the text says where it was found, why, and what is permitted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings, checked. SETTINGS says what each means.

    Attributes:
        config: the file that was read, or None.
    """

    config: Path | None
    state_dir: Path
    socket: Path
    listen: HostPort
    endpoint: tuple[HostPort, ...]
    tailnet: str | None
    hostname: str
    auth_key_file: Path | None
    control_url: str | None
    advertise_tags: tuple[str, ...]
    accept_routes: bool
    exit_node: str | None
    ephemeral: bool
    max_nodes: int
    allow: tuple[Rule, ...]
    deny: tuple[Rule, ...]
    source_address: tuple[IPAddress, ...]
    trusted_sources: tuple[IPv4Network | IPv6Network, ...]
    ipv4: IPv4Network
    no_ipv4: bool
    ipv6: IPv6Network | Literal["random"]
    mtu: int
    dns_route: tuple[str, ...]
    https_resolver: tuple[str, ...]
    https_ca: Path | None
    resolv_conf: Path
    search_domain: tuple[str, ...]
    control_group: str | None
    control_mode: int | None
    without: tuple[str, ...]
    log_format: str
    verbose: bool

    @property
    def ipv4_range(self) -> IPv4Network | None:
        """The devices' IPv4 range; None with `no_ipv4`."""
        return None if self.no_ipv4 else self.ipv4

    @property
    def socket_mode(self) -> int:
        """Rights of the control socket: `control_mode`, else 0660 for a group and 0600 without one."""
        if self.control_mode is not None:
            return self.control_mode
        return 0o660 if self.control_group is not None else 0o600


class Setting(NamedTuple):
    """One line of the table.

    Attributes:
        name: as in the TOML file.
        parse: text to value; raises ValueError saying what is permitted.
        metavar: what stands for the value in help texts; empty for a switch.
        help: one sentence.
        default: as text; empty: none, or found out (`help` says so).
        kind: the TOML type; a path may be relative to the file it stands in.
        many: a list.
        reloadable: takes effect on SIGHUP; others need a restart.
        example: what the commented file shows when there is no default.
    """

    name: str
    parse: Callable[[str], Any]
    metavar: str
    help: str
    default: str = ""
    kind: Kind = "text"
    many: bool = False
    reloadable: bool = False
    example: str = ""

    @property
    def variable(self) -> str:
        """The environment's name for it."""
        return f"LOPOWER_{self.name.upper()}"

    @property
    def flag(self) -> str:
        """The command line's name for it."""
        return f"--{self.name.replace('_', '-')}"


SETTINGS: Final = (
    Setting("state_dir", values.path, "DIR",
            "Where keys and devices are kept. Default: /var/lib/lopower as root, else ~/.local/state/lopower.",
            kind="path", example="/var/lib/lopower"),
    Setting("socket", values.path, "PATH",
            "The control socket. Default: lopower.sock in the state directory; /run/lopower/lopower.sock for the "
            "service's.", kind="path", example="/run/lopower/lopower.sock"),
    Setting("listen", values.listen, "ADDR:PORT",
            "UDP address and port for WireGuard. Without an address: all, IPv6 and IPv4.", default=":51820"),
    Setting("endpoint", values.endpoint, "HOST[:PORT]",
            "What devices dial: name or address of this host as they see it. The first goes into configurations. "
            "Default: the address of the default route.", many=True, reloadable=True, example="pi.example.net"),
    Setting("tailnet", values.choice("host", "tsnet"), "DRIVER",
            "How the tailnet is reached. host: through this host's own membership; tsnet: by a node of the proxy's "
            "own. Default: tsnet once it has been set up, else host.", example="tsnet"),
    Setting("hostname", values.label, "NAME", "What the proxy's node is called in the tailnet.", default="lopower",
            reloadable=True),
    Setting("auth_key_file", values.path, "FILE",
            "Where an auth key, or an OAuth client's secret, is read from when the node must log in.", kind="path",
            example="/etc/lopower/auth-key"),
    Setting("control_url", values.control_url, "URL", "The control server. Default: Tailscale's.",
            example="https://headscale.example.net"),
    Setting("advertise_tags", values.tag, "TAG", "Tags that the node asks for.", many=True, reloadable=True,
            example="tag:iot"),
    Setting("accept_routes", values.switch, "", "Let devices use the subnet routes of other nodes.", default="false",
            kind="switch", reloadable=True),
    Setting("exit_node", values.exit_node, "NAME",
            "Node by which devices reach the Internet: its name or address.", reloadable=True, example="office"),
    Setting("ephemeral", values.switch, "", "Have the tailnet forget the node soon after it is gone.",
            default="false", kind="switch"),
    Setting("max_nodes", values.node_limit, "COUNT", "How many devices may have a node of their own, at most 60.",
            default="32", kind="integer", reloadable=True),
    Setting("allow", values.allow, "RULE",
            "What every device may reach: CIDR[:PORTS], internet, lan or device:NAME.", many=True, reloadable=True,
            example="192.168.1.10/32:1883"),
    Setting("deny", values.deny, "RULE",
            "What no device may reach although `allow` covers it; written like `allow`.", many=True, reloadable=True,
            example="192.168.1.1/32"),
    Setting("source_address", values.address, "ADDR",
            "Address of this host that flows leave from. Several are used in turn. Default: the kernel chooses.",
            many=True, reloadable=True, example="192.168.1.2"),
    Setting("trusted_sources", values.network, "CIDR",
            "Where devices send from that get no limit of handshakes per address under load: a fleet behind one NAT.",
            many=True, reloadable=True, example="203.0.113.7"),
    Setting("ipv4", values.ipv4_range, "CIDR",
            "The devices' IPv4 range; its first address is the gateway's.", default="10.90.0.0/24"),
    Setting("no_ipv4", values.switch, "", "Give devices IPv6 addresses only.", default="false", kind="switch"),
    Setting("ipv6", values.ipv6_range, "PREFIX|random",
            "The devices' IPv6 range. random: a fd00::/8 prefix, drawn once and kept.",
            default="fd7a:115c:a1e0:9909::/64"),
    Setting("mtu", values.mtu, "BYTES", "Largest packet inside the tunnel, from 1280 to 9000.", default="1420",
            kind="integer"),
    Setting("dns_route", values.dns_route, "SUFFIX=ADDR[:PORT][,…]",
            "Resolvers for the names under a suffix; an empty suffix is for all others.", many=True, reloadable=True,
            example="corp.example=192.168.1.53"),
    Setting("https_resolver", values.https_resolver, "URL",
            "DNS over HTTPS, by address, asked when resolv.conf names no resolver.", many=True, reloadable=True,
            default="https://8.8.8.8/dns-query https://1.1.1.1/dns-query"),
    Setting("https_ca", values.path, "FILE",
            "Certificates (PEM) to trust for `https_resolver`. Default: the system's.", kind="path", reloadable=True,
            example="/etc/lopower/resolver-ca.pem"),
    Setting("resolv_conf", values.path, "FILE", "The list of this host's resolvers; read again when it changes.",
            default="/etc/resolv.conf", kind="path", reloadable=True),
    Setting("search_domain", values.domain, "DOMAIN",
            "What bare names are tried under. Default: resolv.conf's search list.", many=True, reloadable=True,
            example="home.example"),
    Setting("control_group", values.group, "GROUP",
            "Group that may use the control socket, and so administer devices.", example="lopower"),
    Setting("control_mode", values.mode, "MODE",
            "Rights of the control socket: 0600 or 0660. Default: 0660 with `control_group`, else 0600.",
            example="0660"),
    Setting("without", values.choice("gro", "gso", "pktinfo", "epoll"), "FEATURE",
            "Do without a feature of the kernel: gro, gso, pktinfo or epoll.", many=True, example="gso"),
    Setting("log_format", values.choice("text", "json"), "FORMAT", "text or json.", default="text", reloadable=True),
    Setting("verbose", values.switch, "", "Log details.", default="false", kind="switch", reloadable=True),
)  # fmt: skip

BY_NAME: Final = {setting.name: setting for setting in SETTINGS}


def changes(old: Settings, new: Settings) -> tuple[list[str], list[str]]:
    """Names of settings that differ: those that a reload puts into force, and those that need a restart."""
    differing = [
        field.name
        for field in fields(Settings)
        if field.name in BY_NAME and getattr(old, field.name) != getattr(new, field.name)
    ]
    return (
        [name for name in differing if BY_NAME[name].reloadable],
        [name for name in differing if not BY_NAME[name].reloadable],
    )


def parse_item(setting: Setting, text: str, where: str) -> Any:
    """One value, or one item of a list.

    Raises:
        SettingsError: naming `where` it was found.
    """
    try:
        return setting.parse(text)
    except ValueError as error:
        raise SettingsError(f"{where}: {error}") from None
