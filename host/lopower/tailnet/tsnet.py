"""The `tsnet` driver: a node of the proxy's own in the tailnet, in user space, held by the sidecar.

The sidecar is a process (`Supervisor`), its sockets carry the flows (`tsnet_streams`) and questions (`tsnet_dns`), and
its control socket says what the node is (`tsnet_control`). Everything that was asked for is kept here and told to the
sidecar again after each of its starts, so that it may end at any time: established flows end with it, new ones are
refused with the reason, and all goes on when it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import shutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from lopower.tailnet.driver import DialError, DialUnreachable, IPAddress, in_tailnet_ranges
from lopower.tailnet.routes import IPNetwork
from lopower.tailnet.supervisor import SidecarUnusableError, Supervisor, environment, printable
from lopower.tailnet.tsnet_control import (
    PROTOCOL,
    NodeConfig,
    NodeStatus,
    SidecarControl,
    SidecarError,
    with_attributes,
)
from lopower.tailnet.tsnet_dns import TailnetResolver
from lopower.tailnet.tsnet_echo import EchoListener, InboundEcho, Verdict
from lopower.tailnet.tsnet_inbound import PROXY_NODE, InboundListener, InboundRequest
from lopower.tailnet.tsnet_places import socket_directory
from lopower.tailnet.tsnet_streams import FramedUdp, TsnetTcpDial, open_udp

log = logging.getLogger(__name__)

# After the stream of events broke although the sidecar lives, seconds.
_RECONNECT_SECONDS: Final = 0.5
_SETTLED_POLL_SECONDS: Final = 0.1
# What to do; after a complaint, such as about a key, the same key again is no way out.
_LOGIN_ADVICE: Final = {
    False: "lopower login",
    True: "lopower login for a URL, or lopower login --auth-key-file FILE with another key",
}
_DEVICE_NODE: Final = re.compile(r"device-[0-9]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class TsnetConfig:
    """What the driver is told.

    Attributes:
        program: the sidecar.
        state_dir: where the nodes' keys are kept.
        node: what the proxy's node is to be, without a key.
        auth_key_file: where a key to log in with is read from when it is needed.
        verbose: the Tailscale library's own messages are wanted.
    """

    program: Path
    state_dir: Path
    node: NodeConfig
    auth_key_file: Path | None = None
    verbose: bool = False


class TsnetDriver:
    """See the module.

    Args:
        config: what it is told.
        inbound: called on the loop with each flow from the tailnet.
        echo: finds out what becomes of an echo request from the tailnet to a device.
        changed: called on the loop when a node's state, the sidecar's, or what either says has changed.

    Attributes:
        sockets: the directory of the sockets that are shared with the sidecar.
        nodes: what the sidecar says of its nodes, by name.
        accepted: the subnet routes that the proxy's node accepts, or did when it was in the tailnet last: meanwhile a
            device is told "unreachable", not "forbidden", and its configuration is the right one.
        has_exit_node: as `Driver.has_exit_node`.
        memory_bytes: resident memory of the sidecar, when it was asked last; None: it was not, or does not know.
    """

    name = "tsnet"
    host_network = False

    def __init__(
        self,
        config: TsnetConfig,
        *,
        changed: Callable[[], None],
        inbound: Callable[[InboundRequest], None],
        echo: Callable[[InboundEcho], Awaitable[Verdict]],
    ) -> None:
        self.nodes: dict[str, NodeStatus] = {}
        self._config = config
        self._changed = changed
        self._inbound = inbound
        self.sockets = socket_directory(config.state_dir)
        self._wanted: dict[str, NodeConfig] = {PROXY_NODE: config.node}
        # Nodes that are to be logged out, as soon as the sidecar can be asked.
        self._unwanted: set[str] = set()
        self._telling: set[asyncio.Task[None]] = set()
        self._logged_out = False
        self._problem = ""
        self._hello: dict[str, Any] = {}
        self.accepted: tuple[IPNetwork, ...] = ()
        self.has_exit_node = False
        self.memory_bytes: int | None = None
        self._control: SidecarControl | None = None
        self._session: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._resolver = TailnetResolver(self.sockets / "dns", PROXY_NODE)
        self._listener: InboundListener | None = None
        self._echoes = EchoListener(self.sockets / "echo", echo)
        self._starting: asyncio.Task[None] | None = None
        arguments = ["--sockets", str(self.sockets), "--state", str(config.state_dir)]
        self.supervisor = Supervisor(
            command=[str(config.program), *arguments, *(["--debug"] if config.verbose else [])],
            environment=environment(),
            hello=self._take_hello,
            check=self._check,
            started=self._started,
            ended=self._ended,
        )

    def start(self) -> None:
        """Start the sidecar, on the running loop."""
        self._config.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Nodes of devices that were removed when their node could not be logged out.
        kept = {entry.name for entry in self._config.state_dir.iterdir() if entry.is_dir()}
        self._unwanted.update(name for name in kept - set(self._wanted) if _DEVICE_NODE.fullmatch(name))
        self._listener = InboundListener(self.sockets / "inbound", self._inbound)
        self._starting = asyncio.get_running_loop().create_task(self._echoes.start())
        self.supervisor.start()

    @property
    def proxy(self) -> NodeStatus | None:
        """The proxy's node; None while the sidecar says nothing of it."""
        return self.nodes.get(PROXY_NODE)

    @property
    def control_url(self) -> str:
        """The control server; empty: Tailscale's."""
        return self._config.node.control_url

    # What the bridge asks.

    def routes(self, address: IPAddress) -> bool:
        """As `Driver.routes`."""
        node = self.proxy
        return node is not None and node.running and in_tailnet_ranges(address)

    def accepts(self, address: IPAddress) -> bool:
        """As `Driver.accepts`: by a subnet route that the node has accepted."""
        return any(address.version == prefix.version and address in prefix for prefix in self.accepted)

    def dial_tcp(self, destination: IPAddress, port: int, node: str | None = None) -> TsnetTcpDial:
        """As `Driver.dial_tcp`."""
        name = node or PROXY_NODE
        self._require_running(name)
        return TsnetTcpDial(self.sockets / "socks", name, destination, port)

    def open_udp(self, destination: IPAddress, port: int, node: str | None = None) -> FramedUdp:
        """As `Driver.open_udp`."""
        name = node or PROXY_NODE
        self._require_running(name)
        return open_udp(self.sockets / "udp", name, destination, port)

    async def query(self, message: bytes) -> bytes:
        """As `Driver.query`."""
        self._require_running()
        return await self._resolver.query(message)

    async def ping(self, destination: IPAddress, timeout: float) -> bool:
        """As `Driver.ping`."""
        self._require_running()
        control = self._control
        if control is None:
            return False
        try:
            return await control.ping(PROXY_NODE, destination, timeout) is not None
        except SidecarError as exc:
            raise DialError(str(exc)) from None

    def status(self) -> dict[str, Any]:
        """As `Driver.status`; further `state`, `login_url`, `sidecar` and the node as far as it is known."""
        node = self.proxy
        state, detail, advice = self._summary(node)
        document: dict[str, Any] = {
            "driver": self.name,
            "connected": state == "running",
            "detail": detail,
            "advice": advice,
            "state": state,
            "login_url": _login_url(node, state),
            "sidecar": {
                "state": self.supervisor.state,
                "process": self.supervisor.process,
                "restarts": self.supervisor.restarts,
                "version": self._hello.get("version"),
                "tailscale": self._hello.get("tailscale"),
            },
        }
        if node is not None:
            document["node"] = {
                "hostname": node.hostname,
                "dns_name": node.dns_name,
                "tailnet": node.tailnet,
                "addresses": [str(address) for address in node.addresses],
                "tags": list(node.tags),
                "user": node.user,
                "key_expiry": node.key_expiry or None,
                "peers": node.peers,
                "routes_accepted": [str(prefix) for prefix in node.routes_accepted],
                "exit_node": node.exit_node or None,
                "health": [printable(text) for text in node.health],
            }
        return document

    async def close(self) -> None:
        """As `Driver.close`: the node leaves the tailnet, and keeps its identity."""
        for task in self._telling:
            task.cancel()
        await self.supervisor.stop()
        if self._listener is not None:
            self._listener.close()
        if self._starting is not None:
            await self._starting
        await self._echoes.close()
        if self._closing is not None:
            await self._closing
        await self._resolver.close()
        await asyncio.to_thread(shutil.rmtree, self.sockets, ignore_errors=True)

    # What the control plane asks.

    async def login(self, auth_key: str = "", name: str = PROXY_NODE) -> None:
        """Log a node in, with a key or by a URL, which its status has when it is there.

        Raises:
            SidecarError: it cannot be asked.
        """
        if name == PROXY_NODE:
            self._logged_out = False
        key = with_attributes(auth_key, ephemeral=self._config.node.ephemeral)
        await self._require_control().login(name, key)

    async def logout(self) -> None:
        """Give the identity up of the proxy's node. Nothing logs it in again but `login`, and a restart of the daemon.

        Raises:
            SidecarError: it cannot be asked.
        """
        self._logged_out = True
        await self._require_control().logout(PROXY_NODE)

    async def settled(self, name: str, timeout: float) -> None:
        """Wait until a node is in, or somebody must do something for it: `timeout` seconds at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await asyncio.sleep(_SETTLED_POLL_SECONDS)  # what it was before the change was told is no answer
                while not self._is_settled(self.nodes.get(name)):  # noqa: ASYNC110 (several things change it; a few polls)
                    await asyncio.sleep(_SETTLED_POLL_SECONDS)

    @staticmethod
    def _is_settled(node: NodeStatus | None) -> bool:
        return node is not None and bool(
            node.running or node.login_url or node.error or node.state in ("needs-approval", "failed")
        )

    async def set_node(self, name: str, config: NodeConfig) -> None:
        """Have a node be there, and be this. What cannot be told to the sidecar now is told when it is back."""
        self._wanted[name] = config
        if self._control is not None:
            await self._put(self._control, name)

    async def configure(self, **changes: Any) -> None:
        """Change what the proxy's node is to be, such as its `inbound_destinations`."""
        await self.set_node(PROXY_NODE, replace(self._wanted[PROXY_NODE], **changes))

    def set_nodes(self, nodes: Mapping[str, NodeConfig]) -> None:
        """Have these nodes beside the proxy's, and no others: any other is logged out, and its identity given up."""
        gone = [name for name in self._wanted if name != PROXY_NODE and name not in nodes]
        for name in gone:
            del self._wanted[name]
        self._unwanted.update(gone)
        self._unwanted.difference_update(nodes)
        changed = [name for name, config in nodes.items() if self._wanted.get(name) != config]
        self._wanted.update(nodes)
        if self._control is not None and (gone or changed):
            control = self._control

            async def tell() -> None:
                for name in changed:
                    await self._put(control, name)
                await self._forget_unwanted(control)

            task = asyncio.get_running_loop().create_task(tell())
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def peers(self) -> list[dict[str, Any]]:
        """The tailnet's other nodes, as the sidecar tells of them.

        Raises:
            SidecarError: it cannot be asked.
        """
        return await self._require_control().peers(PROXY_NODE)

    def node_document(self, name: str | None) -> dict[str, Any]:
        """What is to be said of a node; None: of the proxy's."""
        node = self.nodes.get(name or PROXY_NODE)
        state, detail, _ = self._summary(node)
        return {
            "driver": self.name,
            "connected": state == "running",
            "state": state,
            "detail": detail,
            "login_url": _login_url(node, state),
            "dns_name": printable(node.dns_name) if node is not None else "",
            "certificates": node is not None and bool(node.certificate_domains),
            "addresses": [] if node is None else [str(address) for address in node.addresses],
        }

    # The sidecar.

    def _take_hello(self, said: Any) -> None:
        number = said.get("protocol") if isinstance(said, dict) else None
        if not isinstance(number, int):
            raise SidecarUnusableError(f"{self._config.program} is no sidecar of lopower")
        if number != PROTOCOL:
            older = "the sidecar" if number < PROTOCOL else "this daemon"
            raise SidecarUnusableError(
                f"{self._config.program} speaks protocol {number} and this daemon {PROTOCOL}: {older} is the older "
                "one; install both from one version of lopower"
            )
        self._hello = said

    async def _check(self) -> None:
        control = self._control
        if control is not None:
            try:
                await self._measure(control)
            except SidecarError as exc:
                raise OSError(str(exc)) from None

    async def _measure(self, control: SidecarControl) -> None:
        said = (await control.hello()).get("rss_bytes")
        self.memory_bytes = said if isinstance(said, int) else None

    def _started(self) -> None:
        log.info("the tailnet's sidecar runs (Tailscale %s)", printable(str(self._hello.get("tailscale"))))
        self._control = SidecarControl(self.sockets / "control")
        self._session = asyncio.get_running_loop().create_task(self._follow(self._control))
        self._changed()

    def _ended(self, reason: str) -> None:
        session, control = self._session, self._control
        self._session = self._control = None
        self.nodes.clear()
        self.memory_bytes = None
        self._problem = ""
        if session is not None:
            session.cancel()
        if control is not None:
            self._closing = asyncio.get_running_loop().create_task(control.close())
        self._changed()

    async def _follow(self, control: SidecarControl) -> None:
        """Tell the sidecar what is wanted, and hear what becomes of it."""
        while True:
            try:
                for name in tuple(self._wanted):
                    await self._put(control, name)
                await self._forget_unwanted(control)
                await self._measure(control)
                async for event in control.events():
                    self._heard(event)
            except SidecarError as exc:
                log.warning("%s", exc)
                self._problem = str(exc)
                self._changed()
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def _put(self, control: SidecarControl, name: str) -> None:
        config = self._wanted[name]
        if name != PROXY_NODE or not self._logged_out:
            config = replace(config, auth_key=await asyncio.to_thread(self._auth_key))
        try:
            self._know(await control.put_node(name, config))
        except SidecarError as exc:
            log.error("node %s: %s", name, exc)
            self._problem = str(exc)
            self._changed()

    async def _forget_unwanted(self, control: SidecarControl) -> None:
        for name in tuple(self._unwanted):
            try:
                if name not in self.nodes:
                    # One that the sidecar has not started since its own start must be there to be logged out.
                    await control.put_node(name, replace(self._config.node, hostname=name))
                await control.remove_node(name, forget=True)
            except SidecarError as exc:
                log.warning("node %s could not be logged out: %s", name, exc)
                continue
            self._unwanted.discard(name)

    def _auth_key(self) -> str:
        file = self._config.auth_key_file
        if file is None:
            return ""
        try:
            return with_attributes(file.read_text().strip(), ephemeral=self._config.node.ephemeral)
        except (OSError, ValueError) as exc:
            log.error("the auth key file %s cannot be read: %s", file, exc)
            return ""

    def _heard(self, event: dict[str, Any]) -> None:
        kind = event.get("event")
        if kind == "node":
            self._know(NodeStatus.parse(event.get("node")))
        elif kind == "removed" and self.nodes.pop(str(event.get("name")), None) is not None:
            self._changed()

    def _know(self, status: NodeStatus) -> None:
        before = self.nodes.get(status.name)
        if status == before:
            return
        self.nodes[status.name] = status
        if status.name == PROXY_NODE and status.running:
            self.accepted = tuple(prefix for prefix in status.routes_accepted if prefix.prefixlen)
            self.has_exit_node = bool(status.exit_node)
        self._problem = ""
        if before is None or before.state != status.state:
            detail = f": {printable(status.error)}" if status.error else ""
            log.info("node %s in the tailnet: %s%s", status.name, status.state, detail)
        if status.login_url and (before is None or before.login_url != status.login_url):
            log.warning("node %s waits to be logged in: %s", status.name, printable(status.login_url))
        self._changed()

    def _require_running(self, name: str = PROXY_NODE) -> None:
        node = self.nodes.get(name)
        if node is None or not node.running:
            raise DialUnreachable(self._summary(node)[1])

    def _require_control(self) -> SidecarControl:
        if self._control is None:
            raise SidecarError(self.supervisor.detail or "the tailnet's sidecar does not run")
        return self._control

    def _summary(self, node: NodeStatus | None) -> tuple[str, str, str | None]:
        """State, what it means, and what to do."""
        supervisor = self.supervisor
        if supervisor.state != "running":
            return "no-sidecar", supervisor.detail or "the tailnet's sidecar does not run", None
        if node is None:
            return "starting", self._problem or "the node is being started", None
        error = printable(node.error)
        because = f" ({error})" if error else ""
        if node.state == "running":
            addresses = ", ".join(str(address) for address in node.addresses)
            detail = f"in the tailnet {node.tailnet or node.magic_dns_suffix} as {node.dns_name}, {addresses}"
            told = [printable(text) for text in node.health]
            label = node.dns_name.partition(".")[0].lower()
            if label and node.hostname and label != node.hostname.lower():
                told.append(f"another node is called {printable(node.hostname)}; --hostname chooses a name")
            return node.state, printable(detail), "; ".join(told) or None
        texts: dict[str, tuple[str, str | None]] = {
            "needs-login": (
                f"not logged in to the tailnet{because}",
                f"open {printable(node.login_url)}" if node.login_url else _remedy(error) or _LOGIN_ADVICE[bool(error)],
            ),
            "needs-approval": (
                "waits for an admin of the tailnet to approve this node",
                "https://login.tailscale.com/admin/machines, or your control server's list of nodes",
            ),
            "expired": ("the node's key has expired", "lopower login"),
            "stopped": (f"the node is not in the tailnet{because}", "lopower login"),
            "failed": (f"the node could not be started{because}", "lopower login, after the reason is gone"),
        }
        detail, advice = texts.get(node.state, (f"joining the tailnet{because}", _remedy(error)))
        return node.state, detail, advice


# What the library and control servers say when a node does not get in, and what helps; the first that fits.
_REMEDIES: Final = (
    (
        "certificate has expired or is not yet valid",
        "set this host's clock, by which the control server's certificate is out of date; it is tried again by itself",
    ),
    (
        "certificate",
        "have this host trust the control server's certificate (SSL_CERT_FILE names other authorities than the "
        "system's), or correct --control-url",
    ),
    ("NodeKeyExpired", "remove the node at the control server, which takes no new key of it; then: lopower login"),
    *((sign, _LOGIN_ADVICE[True]) for sign in ("authkey", "auth key", "AuthKey")),
    *(
        (sign, "see that this host has a network and that --control-url is right; it is tried again by itself")
        for sign in ("fetch control key", "dial tcp", "network is down")
    ),
)


def _remedy(error: str) -> str | None:
    """What helps against an error of logging in; None if we do not know it."""
    return next((remedy for sign, remedy in _REMEDIES if sign in error), None)


def _login_url(node: NodeStatus | None, state: str) -> str | None:
    """Where somebody must log the node in; None: nowhere, now."""
    return printable(node.login_url) or None if node is not None and state == "needs-login" else None
