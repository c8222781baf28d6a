"""What of a device the tailnet reaches, and who there may.

An exposure stands at a place, and a place holds one: the proxy's node as a whole, one port of it, or a node of the
device's own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Final, Literal

from lopower.devices.errors import InvalidExposure

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network
Kind = Literal["all", "port", "node", "https"]
Transport = Literal["tcp", "udp"]

# Each is compared with every flow that comes.
MAX_SOURCES: Final = 64
# Sent to the control server as one list.
MAX_TAGS: Final = 16
_TAG: Final = re.compile(r"tag:[a-zA-Z][a-zA-Z0-9-]*")
_USER: Final = re.compile(r"[^@\s,]{1,256}@[^@\s,]{0,255}")
_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Source:
    """Who may connect: exactly one is set.

    Attributes:
        tag: nodes with this tag, such as `tag:phone`.
        user: nodes of this user, by login name, in lower case.
        network: addresses.
    """

    tag: str = ""
    user: str = ""
    network: IPNetwork | None = None

    @classmethod
    def parse(cls, text: str) -> Source:
        """`tag:…`, a user's login name, or a network.

        Raises:
            InvalidExposure: it is none of them.
        """
        word = text.strip()
        if _TAG.fullmatch(word):
            return cls(tag=word)
        if _USER.fullmatch(word):
            return cls(user=word.lower())
        try:
            return cls(network=ip_network(word))
        except ValueError:
            raise InvalidExposure(
                f"{text!r} is nobody; write a tag (tag:phone), a user (ada@example.org) or a network (100.64.0.7/32)"
            ) from None

    def __str__(self) -> str:
        """What `parse` reads back."""
        return self.tag or self.user or str(self.network)

    def matches(self, address: IPAddress, user: str, tags: Sequence[str]) -> bool:
        """Whether a node with this address, user and tags is meant."""
        if self.tag:
            return self.tag in tags
        if self.user:
            return self.user == user.lower()
        return self.network is not None and address.version == self.network.version and address in self.network


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """One exposure.

    Attributes:
        device_id: whose; exposures end with their device.
        kind: `all`: what arrives for the proxy's node, as far as no port is exposed there; `port`: one port of it;
            `node`: all that arrives for a node of the device's own; `https`: port 443 of the proxy's, which ends TLS.
        transport, port, target_port: of `port` and `https`: the node's and the device's.
        hostname: of `node`: what that is called in the tailnet.
        tags: of `node`: what it asks for; none: the proxy's own.
        sources: who may connect; empty: whoever the tailnet lets through.
    """

    device_id: int
    kind: Kind
    transport: Transport = "tcp"
    port: int = 0
    target_port: int = 0
    hostname: str = ""
    tags: tuple[str, ...] = ()
    sources: tuple[Source, ...] = ()

    @property
    def place(self) -> str:
        """Where it stands; no two stand there."""
        if self.kind in ("port", "https"):
            return f"{self.transport}:{self.port}"
        return self.kind if self.kind == "all" else f"node:{self.device_id}"

    def check(self) -> Exposure:
        """Itself.

        Raises:
            InvalidExposure: a port, name or tag cannot be, or there are too many sources or tags.
        """
        if self.kind in ("port", "https") and not (0 < self.port < 65_536 and 0 < self.target_port < 65_536):
            raise InvalidExposure("ports are 1 to 65535")
        if self.kind == "node" and not _LABEL.fullmatch(self.hostname):
            raise InvalidExposure(f"{self.hostname!r} is not a host's name: letters, digits and hyphens, at most 63")
        odd = [tag for tag in self.tags if not _TAG.fullmatch(tag)]
        if odd:
            raise InvalidExposure(f"{odd[0]!r} is not a tag; tags are written tag:camera")
        if len(self.tags) > MAX_TAGS:
            raise InvalidExposure(f"a node asks for at most {MAX_TAGS} tags, not {len(self.tags)}")
        if len(self.sources) > MAX_SOURCES:
            raise InvalidExposure(f"an exposure names at most {MAX_SOURCES} sources, not {len(self.sources)}")
        return self

    def leads_to(self, transport: Transport, port: int) -> bool:
        """Whether it is about this port of the device."""
        return self.kind in ("all", "node") or (self.transport, self.target_port) == (transport, port)

    def permits(self, address: IPAddress, user: str, tags: Sequence[str]) -> bool:
        """Whether a node with this address, user and tags may connect."""
        return not self.sources or any(source.matches(address, user, tags) for source in self.sources)


def parse_sources(texts: Sequence[str]) -> tuple[Source, ...]:
    """Several, without repetitions.

    Raises:
        InvalidExposure: one is nobody.
    """
    return tuple(dict.fromkeys(map(Source.parse, texts)))
