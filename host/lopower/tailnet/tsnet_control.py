"""The sidecar's control socket: what a node is to be, what it is, and the stream of its events."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from lopower.http1.client import ClientError, UnixClient
from lopower.tailnet.driver import IPAddress
from lopower.tailnet.routes import IPNetwork

PROTOCOL: Final = 1
# The sidecar writes an empty line every 15 s.
EVENT_SECONDS: Final = 40.0
_SECONDS: Final = 15.0
_MAX_EVENT: Final = 1 << 20
# What an OAuth client's secret begins with.
OAUTH_SECRET: Final = "tskey-client-"


class SidecarError(Exception):
    """The sidecar could not be asked, or refused; the text is for people.

    Attributes:
        code: its word for it, or empty.
    """

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """What a node is to be; docs/sidecar-protocol.md says what each means.

    Attributes:
        auth_key: used only to log in; never shown.
    """

    hostname: str
    control_url: str = ""
    auth_key: str = field(default="", repr=False)
    advertise_tags: tuple[str, ...] = ()
    ephemeral: bool = False
    accept_routes: bool = True
    exit_node: str = ""
    advertise_routes: tuple[IPNetwork, ...] = ()
    inbound_destinations: tuple[IPNetwork, ...] = ()

    def document(self) -> dict[str, Any]:
        """As the sidecar takes it."""
        document: dict[str, Any] = {
            "hostname": self.hostname,
            "advertise_tags": list(self.advertise_tags),
            "ephemeral": self.ephemeral,
            "accept_routes": self.accept_routes,
            "exit_node": self.exit_node,
            "advertise_routes": [str(prefix) for prefix in self.advertise_routes],
            "inbound_destinations": [str(prefix) for prefix in self.inbound_destinations],
        }
        if self.control_url:
            document["control_url"] = self.control_url
        if self.auth_key:
            document["auth_key"] = self.auth_key
        return document


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeResolver:
    """A resolver that the tailnet's settings name.

    Attributes:
        address: IP address and port, or a URL.
        via_tailnet: only the node reaches it.
    """

    address: str
    via_tailnet: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """What a node is; docs/sidecar-protocol.md says what each means. Missing values are empty."""

    name: str
    state: str
    login_url: str = ""
    error: str = ""
    health: tuple[str, ...] = ()
    hostname: str = ""
    dns_name: str = ""
    tailnet: str = ""
    magic_dns_suffix: str = ""
    addresses: tuple[IPAddress, ...] = ()
    tags: tuple[str, ...] = ()
    user: str = ""
    key_expiry: str = ""
    certificate_domains: tuple[str, ...] = ()
    routes_advertised: tuple[IPNetwork, ...] = ()
    routes_approved: tuple[IPNetwork, ...] = ()
    routes_accepted: tuple[IPNetwork, ...] = ()
    exit_node: str = ""
    exit_node_online: bool = False
    peers: int = 0
    search_domains: tuple[str, ...] = ()
    resolvers: tuple[NodeResolver, ...] = ()
    dns_routes: tuple[tuple[str, tuple[NodeResolver, ...]], ...] = ()

    @property
    def running(self) -> bool:
        """Whether it is in the tailnet."""
        return self.state == "running"

    @classmethod
    def parse(cls, document: Any) -> NodeStatus:
        """The status in a document of the sidecar.

        Raises:
            SidecarError: it is none.
        """
        try:
            dns = document.get("dns") or {}
            exit_node = document.get("exit_node") or {}
            return cls(
                name=_text(document["name"]),
                state=_text(document["state"]),
                login_url=_text(document.get("login_url")),
                error=_text(document.get("error")),
                health=_texts(document.get("health")),
                hostname=_text(document.get("hostname")),
                dns_name=_text(document.get("dns_name")).rstrip("."),
                tailnet=_text(document.get("tailnet")),
                magic_dns_suffix=_text(document.get("magic_dns_suffix")).strip("."),
                addresses=tuple(ip_address(text) for text in _texts(document.get("addresses"))),
                tags=_texts(document.get("tags")),
                user=_text(document.get("user")),
                certificate_domains=_texts(document.get("certificate_domains")),
                key_expiry=_text(document.get("key_expiry")),
                routes_advertised=_networks(document.get("routes_advertised")),
                routes_approved=_networks(document.get("routes_approved")),
                routes_accepted=_networks(document.get("routes_accepted")),
                exit_node=_text(exit_node.get("name")),
                exit_node_online=exit_node.get("online") is True,
                peers=int(document.get("peers") or 0),
                search_domains=tuple(text.strip(".") for text in _texts(dns.get("search"))),
                resolvers=_resolvers(dns.get("resolvers")),
                dns_routes=tuple(
                    (_text(suffix).strip(".").lower(), _resolvers(servers))
                    for suffix, servers in (dns.get("routes") or {}).items()
                ),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise SidecarError(f"the sidecar's status of a node is malformed: {exc!r}") from None


def with_attributes(key: str, *, ephemeral: bool) -> str:
    """An OAuth client's secret with what the node is to be, as far as it does not say so; other keys as they are.

    Without a word the library would ask for an ephemeral node, whose identity is gone after a restart, and for one that
    an admin must approve besides, although whoever made the secret has said that these tags may join.
    """
    secret, _, attributes = key.partition("?")
    if not secret.startswith(OAUTH_SECRET):
        return key
    for name, value in (("ephemeral", str(ephemeral).lower()), ("preauthorized", "true")):
        if f"&{name}=" not in f"&{attributes}":
            attributes += f"{'&' if attributes else ''}{name}={value}"
    return f"{secret}?{attributes}"


def _text(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not text")
    return value


def _texts(values: object) -> tuple[str, ...]:
    if values is None:
        return ()
    if not isinstance(values, list):
        raise ValueError(f"{values!r} is not a list")
    return tuple(map(_text, values))


def _networks(values: object) -> tuple[IPNetwork, ...]:
    return tuple(ip_network(text) for text in _texts(values))


def _resolvers(values: Any) -> tuple[NodeResolver, ...]:
    return tuple(
        NodeResolver(address=_text(entry["address"]), via_tailnet=entry["via"] == "tailnet") for entry in values or ()
    )


class SidecarControl:
    """Requests to the sidecar. To be made and closed on the loop."""

    def __init__(self, path: Path) -> None:
        self._client = UnixClient(path)

    async def close(self) -> None:
        """Give up what is under way."""
        self._client.close()

    async def hello(self) -> dict[str, Any]:
        """The sidecar's `GET /`."""
        return await self._request("GET", "/")

    async def put_node(self, name: str, config: NodeConfig) -> NodeStatus:
        """Make a node what it is to be."""
        return NodeStatus.parse(await self._request("PUT", f"/nodes/{name}", config.document()))

    async def login(self, name: str, auth_key: str = "") -> None:
        """Begin to log in, with a key or by URL."""
        await self._request("POST", f"/nodes/{name}/login", {"auth_key": auth_key} if auth_key else {})

    async def logout(self, name: str) -> None:
        """Give the node's identity up."""
        await self._request("POST", f"/nodes/{name}/logout")

    async def remove_node(self, name: str, forget: bool) -> None:
        """Stop a node; with `forget` it is logged out, and its keys are removed."""
        await self._request("DELETE", f"/nodes/{name}" + ("?forget=true" if forget else ""))

    async def peers(self, name: str) -> list[dict[str, Any]]:
        """The other nodes that this one knows."""
        document = await self._request("GET", f"/nodes/{name}/peers")
        peers: list[dict[str, Any]] = document.get("peers") or []
        return peers

    async def ping(self, name: str, address: IPAddress, timeout: float) -> float | None:
        """Seconds until the echo reply, or None."""
        document = await self._request("POST", f"/nodes/{name}/ping", {"address": str(address), "timeout": timeout})
        seconds = document.get("seconds")
        return float(seconds) if isinstance(seconds, int | float) else None

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """The stream of events, until the sidecar ends.

        Raises:
            SidecarError: it cannot be had, or says nothing any more.
        """
        try:
            async with aclosing(self._client.stream("/events", EVENT_SECONDS)) as chunks:
                buffer = b""
                async for chunk in chunks:
                    *lines, buffer = (buffer + chunk).split(b"\n")
                    if len(buffer) > _MAX_EVENT:
                        raise SidecarError("an event of the sidecar is too long")
                    for line in lines:
                        if line.strip():
                            event = json.loads(line)
                            if isinstance(event, dict):
                                yield event
        except (ClientError, ValueError) as exc:
            raise SidecarError(f"the sidecar's events ended: {exc}") from None

    async def _request(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        try:
            status, content = await self._client.request(method, quote(path, safe="/?="), body, _SECONDS)
        except ClientError as exc:
            raise SidecarError(f"the tailnet's sidecar does not answer: {exc}") from None
        try:
            document = json.loads(content) if content else {}
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise SidecarError("the tailnet's sidecar answered with something else than JSON")
        if status >= 400:
            raise SidecarError(str(document.get("error") or f"status {status}"), str(document.get("code") or ""))
        return document
