"""The bridge: takes the stack's new flows, asks policy, and gives each to whoever carries it on.

It is an application of the data path (`daemon.datapath`): `turn` runs between the stack's receiving and its flush. All
state is per device, and so are the limits; what one device does never waits in another's way.
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final

from lopower.bridge.announcements import Announced, AnnouncementService
from lopower.bridge.between import DeviceEcho, DeviceTcp, DeviceUdp
from lopower.bridge.calls import GatewayCalls
from lopower.bridge.config import BridgeConfig
from lopower.bridge.device_state import DeviceState, DeviceTable
from lopower.bridge.exposed import Exposed
from lopower.bridge.flow import Flow, FlowTable
from lopower.bridge.gateway import Gateway, GatewayUdp
from lopower.bridge.gateway_dns import DnsService, Resolver
from lopower.bridge.gateway_http import PageFacts, PageService, utc_text
from lopower.bridge.gateway_time import TimeService
from lopower.bridge.icmp import EchoRelay
from lopower.bridge.inbound import DEVICE_PORT, Contact, Inbound
from lopower.bridge.ping import GatewayPing
from lopower.bridge.policy import Decision, IPAddress, IPNetwork, PolicyTable, Protocol, Via
from lopower.bridge.poller import Poller
from lopower.bridge.sntp import ClockState, SntpServer, kernel_clock_state
from lopower.bridge.special_addresses import is_public
from lopower.bridge.tailnet_echo import TailnetEcho
from lopower.bridge.tailnet_names import TailnetNames
from lopower.bridge.tcp import OutboundTcp, reject_dial
from lopower.bridge.udp import OutboundUdp, ReceiveSlots
from lopower.netstack.errors import FlowError
from lopower.netstack.events import (
    EchoReplyReceived,
    EchoRequested,
    StackEvent,
    TcpSynReceived,
    UdpFlowOpened,
)
from lopower.tailnet.driver import DialError, DialForbidden, DialUnreachable, Driver, TcpDial
from lopower.tailnet.host import HostDialer
from lopower.wire.icmp import UnreachableKind

if TYPE_CHECKING:
    from lopower.devices.device import ServedPort
    from lopower.devices.exposures import Exposure
    from lopower.devices.policy import Rule
    from lopower.netstack.stack import Stack
    from lopower.netstack.tcp.connection import Connection
    from lopower.netstack.udp import UdpFlow
    from lopower.tailnet.routes import HostSnapshot
    from lopower.tailnet.tsnet_inbound import InboundRequest

# What flows may move in one round (about 1 ms) before the socket is looked at again: who waits there is worth more than
# a longer batch.
ROUND_BYTES: Final = 256 << 10
_DNS_PORT: Final = 53
_NTP_PORT: Final = 123
_HTTP_PORT: Final = 80
_CLOSE_POLL_SECONDS: Final = 0.02
_NEVER_SEEN: Final = Decision(
    Via.UNREACHABLE, "refused_device_never_seen", "the device with this address has not connected yet"
)


class Bridge:
    """Everything between the stack and the network.

    Args:
        stack: ends the devices' flows. Its peers' `context` is a `DeviceState`.
        driver: the tailnet.
        dialer: the host's network stack, for what is allowed by name, with the source addresses to use.
        poller: watches upstream sockets; its `on_ready` asks for a turn.
        loop: runs what waits: DNS questions, the page.
        dns: the DNS server.
        clock: monotonic seconds, the same as every `now`.
        gateway: the gateway's addresses.
        ranges: the devices' ranges.
        rules: global rules.
        names: names of the gateway, for the page: bare, and with the search domain.
        has_endpoint: whether it is known where a peer is.
        wall_clock, clock_state: for SNTP and the page.
        contact: whether a device can be talked to (`inbound.Contact`).
        announced: told what a peer's device says of itself.

    Attributes:
        devices: the connected devices.
        flows: all flows and counters.
        policy: the table; tell the bridge of a change with `recheck`.
        gateway: the gateway's services.
        pings: echo requests of the gateway's own.
        names_in_tailnet: what the tailnet is answered at port 53 of the proxy's node.
    """

    def __init__(
        self,
        *,
        stack: Stack,
        driver: Driver,
        dialer: HostDialer,
        poller: Poller,
        loop: asyncio.AbstractEventLoop,
        dns: Resolver,
        clock: Callable[[], float],
        gateway: Iterable[IPAddress],
        ranges: Iterable[IPNetwork],
        rules: Iterable[Rule] = (),
        names: Iterable[str] = ("gateway",),
        has_endpoint: Callable[[Any], bool] = lambda peer: True,
        config: BridgeConfig | None = None,
        wall_clock: Callable[[], float] = time.time,
        clock_state: Callable[[], ClockState] = kernel_clock_state,
        contact: Contact = lambda _peer, _now: True,
        announced: Announced = lambda _peer, _firmware: None,
    ) -> None:
        self._driver = driver
        self.config = config or BridgeConfig()
        self.devices = DeviceTable()
        self.gateway = Gateway()
        self.flows = FlowTable(stack=stack, poller=poller, config=self.config)
        self.policy = PolicyTable(
            gateway=gateway,
            ranges=ranges,
            rules=rules,
            offers=self.gateway.offers,
            device_at=self.devices.device_at,
            tailnet_routes=driver.routes,
            tailnet_accepts=self._tailnet_accepts,
        )
        self._stack = stack
        self._dialer = dialer
        self._serve_dialer = HostDialer(never_self=False)
        self._poller = poller
        self._clock = clock
        self._wall_clock = wall_clock
        self._clock_state = clock_state
        self._has_endpoint = has_endpoint
        self._names = frozenset(name.lower() for name in names)
        self._slots = ReceiveSlots()
        self._echo_relay = EchoRelay(self.flows)
        self._device_echo = DeviceEcho(self.flows)
        self._tailnet_echo = TailnetEcho(self.flows, driver, loop, clock)
        self.pings = GatewayPing(stack, random.randrange(1 << 16), clock, poller.wake)
        self._closing = False
        self.names_in_tailnet = TailnetNames(loop, self.flows.counters)
        self._exposed = Exposed(self.devices.find_by_id, self.devices.find_at)
        own = {4 if len(packed) == 4 else 6: packed for packed in self.policy.gateway}
        self._inbound = Inbound(
            table=self.flows,
            slots=self._slots,
            gateway=own,
            contact=contact,
            exposed=self._exposed,
            names=self.names_in_tailnet,
        )
        self._calls = GatewayCalls(self.flows, own, contact)
        self._dns = DnsService(self.flows, dns, loop, clock)
        self._page = PageService(self.flows, self._page_facts, self._is_own_host, loop, clock)
        self.gateway.tcp = {_DNS_PORT: self._dns, _HTTP_PORT: self._page}
        sntp = SntpServer(wall_clock=wall_clock, clock_state=clock_state)
        self.gateway.udp = {
            _DNS_PORT: self._dns,
            _NTP_PORT: TimeService(sntp),
            DEVICE_PORT: AnnouncementService(announced),
        }

    # Devices and settings.

    def add_peer(self, peer: Any) -> None:
        """A device is there; `peer.context` is its `DeviceState`."""
        self.devices.add(peer.context, peer)

    def device_changed(self, peer: Any, now: float) -> None:
        """The device of `peer.context` is another one now: its name, addresses or rules changed."""
        self.devices.add(peer.context, peer)
        self._recheck(peer.context.flows, now)

    def remove_peer(self, peer: Any, now: float) -> None:
        """A device is gone: its flows end, here and in the stack."""
        state = peer.context
        for flow in list(state.flows):
            flow.abort(now)
        self._device_echo.forget(peer)
        self.devices.remove(state)
        self._stack.forget_peer(peer, now)

    def set_served(self, entries: Iterable[ServedPort], now: float) -> None:
        """The served ports are these from now on; flows to others end.

        Raises:
            ValueError: one is a port that the gateway needs itself.
        """
        before = self.gateway.served
        self.gateway.set_served(entries)
        after = self.gateway.served
        changed = {key for key in before if after.get(key) != before[key]}
        for flow in self.flows:
            if flow.via is Via.GATEWAY and (flow.kind, flow.destination[1]) in changed:
                self.flows.count(flow.state, "policy_changed")
                flow.abort(now)
        self._poller.wake()

    def set_exposures(self, exposures: Iterable[Exposure], now: float) -> None:
        """What the tailnet reaches of devices is this from now on; other flows from there end."""
        self._inbound.set_exposures(exposures, now)
        self._poller.wake()

    def device_behind(self, address: IPAddress) -> tuple[Any, IPAddress] | None:
        """The peer of the device with this address, or with the one that a 4via6 address stands for, and that."""
        found = self._exposed.routed(address)
        return None if found is None else (found[0].peer, found[1])

    def inbound_opened(self, request: InboundRequest) -> None:
        """Somebody in the tailnet wants to reach a device."""
        self._inbound.opened(request, self._clock(), self._closing)
        self._poller.wake()

    async def call(self, peer: Any, port: int) -> socket.socket:
        """A connection to a device's port, from the gateway's own address.

        Raises:
            DialError: it does not come about.
        """
        if self._closing:
            raise DialUnreachable("the daemon is ending")
        return await self._calls.open(peer, port, self._clock())

    def set_rules(self, rules: Iterable[Rule], now: float) -> None:
        """The global rules are these from now on; flows that they refuse end."""
        self.policy.set_rules(rules)
        self.recheck(now)

    def set_dialer(self, dialer: HostDialer) -> None:
        """New flows of the host's network stack leave through this one."""
        self._dialer = dialer

    def host_changed(self, snapshot: HostSnapshot) -> None:
        """The host's addresses are these from now on; flows that are refused now end."""
        self.policy.set_host(snapshot.addresses, snapshot.attached)
        self.recheck(self._clock())

    def recheck(self, now: float) -> None:
        """Policy changed for all: end the flows that it would not allow any more, or would send elsewhere."""
        self._recheck(self.flows, now)

    def _recheck(self, flows: Iterable[Flow], now: float) -> None:
        for flow in tuple(flows):
            if flow.via is Via.INBOUND:
                continue  # rules are about what devices open
            address, port = flow.destination
            decision = self.policy.decide(flow.state.device, address, flow.kind, port)
            if decision.via is not flow.via:
                self.flows.count(flow.state, "policy_changed")
                flow.abort(now)
        self._poller.wake()

    # The turn.

    def turn(self, now: float) -> bool:
        """Handle what is new and move what can be moved; True if there is more to do at once."""
        self._poller.dispatch()
        for event in self._stack.take_events():
            self._handle(event, now)
        ready = self.flows.ready
        for item in self._stack.take_dirty():
            owner = item.owner
            if owner is not None:
                ready[owner] = None
        return self.flows.serve(now, ROUND_BYTES)

    def next_timer(self) -> float | None:
        """When `handle_timer` is next due."""
        return self.flows.next_timer()

    def handle_timer(self, now: float) -> None:
        """End what has been waiting too long."""
        self.flows.handle_timer(now)

    async def close(self, timeout: float) -> None:
        """End: no new flows; those that are there get `timeout` seconds to end by themselves, then a RST.

        The data path must keep turning until this returns.
        """
        self._closing = True
        deadline = self._clock() + timeout
        while any(flow.kind == "tcp" for flow in self.flows) and self._clock() < deadline:  # noqa: ASYNC110 (a few polls)
            await asyncio.sleep(_CLOSE_POLL_SECONDS)
        await self._dns.close()
        await self.names_in_tailnet.close()
        await self._page.close()
        await self._tailnet_echo.close()
        now = self._clock()
        for flow in self.flows:
            flow.abort(now)
        self._stack.flush(now)

    def status(self) -> dict[str, Any]:
        """For `lopower status`."""
        echo = self._echo_relay
        return {
            "flows": len(self.flows),
            "devices": len(self.devices),
            "counters": dict(self.flows.counters),
            "tailnet": self._driver.status(),
            "ping_sockets": echo.permitted,
            "ping_advice": None
            if echo.permitted
            else "pings beyond the gateway are not answered: `sysctl net.ipv4.ping_group_range` excludes this process",
            "served": [
                {"port": entry.port, "protocol": entry.protocol, "target": list(map(str, entry.target))}
                for entry in self.gateway.served.values()
            ],
        }

    # New flows.

    def _handle(self, event: StackEvent, now: float) -> None:
        if isinstance(event, TcpSynReceived):
            self._tcp_opened(event.connection, now)
        elif isinstance(event, UdpFlowOpened):
            self._udp_opened(event.flow, now)
        elif isinstance(event, EchoRequested):
            self._echo_requested(event, now)
        elif isinstance(event, EchoReplyReceived):
            if event.destination in self.policy.gateway:
                self.pings.reply(event, now)
            else:
                self._device_echo.reply(event, now)

    def _decide(self, state: DeviceState, address: bytes, protocol: Protocol, port: int | None) -> Decision:
        """What policy says; and a device that was never seen cannot be sent to."""
        decision = self.policy.decide(state.device, address, protocol, port)
        if decision.via is Via.DEVICE and not self._has_endpoint(self.devices.state_at(address).peer):
            return _NEVER_SEEN
        return decision

    def _tcp_opened(self, connection: Connection, now: float) -> None:
        state = _state_of(connection.peer)
        table, config = self.flows, self.config
        address, port = connection.local
        decision = self._decide(state, address, "tcp", port)
        if self._closing or state.tcp_flows >= config.max_tcp_flows_per_device or len(table) >= config.max_flows:
            table.count(state, "closing" if self._closing else "flow_limit")
            connection.reject(now)
            return
        via = decision.via
        if via is Via.GATEWAY:
            service = self.gateway.tcp.get(port)
            if service is not None:
                service.accept(state, connection, now)
                return
        elif via is Via.CLOSED:
            self._note(state, decision, "tcp", address, port, now)
            connection.reject(now)
            return
        elif via is Via.REFUSED or via is Via.UNREACHABLE:
            self._note(state, decision, "tcp", address, port, now)
            connection.reject_unreachable(_icmp_kind(decision), now)
            return
        if state.dials >= config.max_dials_per_device:
            table.count(state, "dial_limit")
            connection.reject(now)
            return
        try:
            if via is Via.DEVICE:
                DeviceTcp(table, state, connection, self.devices.state_at(address), now)
                return
            if via is Via.GATEWAY:
                target, target_port = self.gateway.served["tcp", port].target
                dial: TcpDial = self._serve_dialer.dial_tcp(target, target_port)
            elif via is Via.TAILNET:
                node = self._exposed.node_for(state.device.id)
                dial = self._driver.dial_tcp(ip_address(address), port, node)
            else:
                dial = self._dialer.dial_tcp(ip_address(address), port)
        except DialError as exc:
            if isinstance(exc, DialForbidden | DialUnreachable):
                self._note_dial(state, exc, "tcp", address, port, now)
            reject_dial(table, state, connection, exc, now)
            return
        except FlowError:
            table.count(state, "dial_failed")
            connection.reject(now)
            return
        OutboundTcp(table, state, connection, dial, via, now)

    def _udp_opened(self, flow: UdpFlow, now: float) -> None:
        state = _state_of(flow.peer)
        table, config = self.flows, self.config
        address, port = flow.local
        decision = self._decide(state, address, "udp", port)
        via = decision.via
        if self._closing or len(table) >= config.max_flows:
            table.count(state, "closing" if self._closing else "flow_limit")
            flow.close()
            return
        if via is Via.CLOSED or via is Via.REFUSED or via is Via.UNREACHABLE:
            self._note(state, decision, "udp", address, port, now)
            flow.unreachable(_icmp_kind(decision), now)
            flow.close()
            return
        if state.udp_flows >= config.max_udp_flows_per_device:
            self._end_oldest_udp(state, now)
        try:
            if via is Via.DEVICE:
                DeviceUdp(table, state, flow, self.devices.state_at(address), now)
            elif via is Via.GATEWAY:
                service = self.gateway.udp.get(port)
                if service is not None:
                    GatewayUdp(table, state, flow, service, now)
                else:
                    target, target_port = self.gateway.served["udp", port].target
                    upstream = self._serve_dialer.open_udp(target, target_port)
                    OutboundUdp(table, state, flow, upstream, via, self._slots, now)
            else:
                if via is Via.TAILNET:
                    node = self._exposed.node_for(state.device.id)
                    carrier = self._driver.open_udp(ip_address(address), port, node)
                else:
                    carrier = self._dialer.open_udp(ip_address(address), port)
                OutboundUdp(table, state, flow, carrier, via, self._slots, now)
        except DialError as exc:
            self._note_dial(state, exc, "udp", address, port, now)
            flow.unreachable("prohibited" if isinstance(exc, DialForbidden) else "host", now)
            flow.close()
            return
        except FlowError:
            table.count(state, "dial_failed")
            flow.close()
            return
        # What arrived with the flow is served in this turn.
        table.ready[flow.owner] = None

    def _echo_requested(self, event: EchoRequested, now: float) -> None:
        state = _state_of(event.peer)
        address = event.destination
        decision = self._decide(state, address, "icmp", None)
        via = decision.via
        if via is Via.DEVICE:
            self._device_echo.request(event, self.devices.state_at(address), now)
        elif via is Via.TAILNET and not self._driver.host_network:
            self._tailnet_echo.request(state, event)
        elif via is Via.DIRECT or (via is Via.TAILNET and self._driver.routes(ip_address(address))):
            self._echo_relay.request(state, event, via, now)
        else:
            if via is Via.TAILNET:
                decision = Decision(Via.UNREACHABLE, "refused_no_tailnet", self._driver.status()["detail"])
            self._note(state, decision, "icmp", address, None, now)
            self._stack.send_unreachable(event.peer, event, _icmp_kind(decision), now)

    def _end_oldest_udp(self, state: DeviceState, now: float) -> None:
        """Make room as a NAT does: the device's flow that it used longest ago goes."""
        oldest = min((flow for flow in state.flows if flow.kind == "udp"), key=_deadline, default=None)
        if oldest is not None:
            self.flows.count(state, "udp_flow_replaced")
            oldest.abort(now)

    # Telling people.

    def _note(
        self, state: DeviceState, decision: Decision, protocol: Protocol, address: bytes, port: int | None, now: float
    ) -> None:
        self.flows.counters[decision.reason] += 1
        key = (protocol, address, port)
        state.note_refusal(key, str(ip_address(address)), decision.reason, decision.message, now)

    def _note_dial(
        self, state: DeviceState, error: DialError, protocol: Protocol, address: bytes, port: int | None, now: float
    ) -> None:
        decision = Decision(Via.UNREACHABLE, "refused_upstream", str(error))
        self._note(state, decision, protocol, address, port, now)

    def _page_facts(self, state: DeviceState) -> PageFacts:
        return PageFacts(
            device=state.device.name,
            addresses=[str(ip_address(address)) for address in state.addresses],
            gateway=[str(ip_address(address)) for address in sorted(self.policy.gateway, key=len)],
            time=utc_text(self._wall_clock()),
            time_synchronized=self._clock_state().synchronized,
            policy=self.policy.describe(state.device),
            services=sorted(f"{entry.port}/{entry.protocol}" for entry in self.gateway.served.values()),
            tailnet=self._driver.status()["detail"],
        )

    def _tailnet_accepts(self, address: IPAddress) -> bool:
        return self._driver.accepts(address) or (self._driver.has_exit_node and is_public(address))

    def _is_own_host(self, host: str) -> bool:
        if host in self._names:
            return True
        try:
            return ip_address(host).packed in self.policy.gateway
        except ValueError:
            return False


def _state_of(peer: Any) -> DeviceState:
    state: DeviceState = peer.context
    return state


def _deadline(flow: Flow) -> float:
    return flow.deadline


def _icmp_kind(decision: Decision) -> UnreachableKind:
    if decision.via is Via.CLOSED:
        return "port"
    return "host" if decision.via is Via.UNREACHABLE else "prohibited"
