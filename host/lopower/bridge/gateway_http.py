"""The page at http://gateway/ that tells a device what the proxy knows about it: HTML, JSON or text, by Accept.

Read-only, small, without scripts or anything from elsewhere. It answers only to the gateway's own names and addresses,
so that a web page on a phone cannot read it under a name of its own (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from lopower.bridge.streams import ConnectionTransport
from lopower.http1.messages import HttpError, Request, Response
from lopower.http1.server import Server

if TYPE_CHECKING:
    from lopower.bridge.device_state import DeviceState
    from lopower.bridge.flow import FlowTable
    from lopower.netstack.tcp.connection import Connection

_TYPES: Final = ("text/html", "application/json", "text/plain")
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept",
}
# The page takes no body, and no header that matters is long: a device cannot make the host hold more.
_MAX_HEAD: Final = 8192
_STYLE: Final = """
:root{color-scheme:light dark}
body{font:1rem/1.5 system-ui,sans-serif;max-width:34rem;margin:0 auto;padding:1.5rem 1rem}
h1{font-size:1.5rem;margin:0}p{margin:.25rem 0 1.25rem;opacity:.75}
dt{font-size:.85rem;opacity:.7;margin-top:.9rem}dd{margin:0;overflow-wrap:anywhere}
ul{margin:0;padding-left:1.1rem}code{font-family:ui-monospace,monospace}
"""


@dataclass(frozen=True, slots=True)
class PageFacts:
    """What the page says.

    Attributes:
        device: the device's name.
        addresses: its inner addresses.
        gateway: the gateway's addresses: DNS server, time server, this page.
        time: UTC, ISO 8601; time_synchronized: whether to believe it.
        policy: what it may reach, a sentence each.
        services: what the host offers at the gateway's address, as `1883/tcp`.
        tailnet: how the tailnet is.
    """

    device: str
    addresses: Sequence[str]
    gateway: Sequence[str]
    time: str
    time_synchronized: bool
    policy: Sequence[str]
    services: Sequence[str]
    tailnet: str


def choose_type(accept: str) -> str:
    """The best of HTML, JSON and text for an Accept header (RFC 9110 section 12.5.1); text when it does not matter."""
    qualities: dict[str, tuple[int, float]] = {}
    for item in accept.split(",")[:32]:
        media, _, parameters = item.strip().lower().partition(";")
        quality = 1.0
        for parameter in parameters.split(";"):
            name, _, value = parameter.strip().partition("=")
            if name == "q":
                try:
                    quality = float(value)
                except ValueError:
                    quality = 0.0
        for offered in _TYPES:
            media = media.strip()
            wildcard = offered.split("/")[0] + "/*"
            specificity = 3 if media == offered else 2 if media == wildcard else 1 if media == "*/*" else 0
            if specificity > qualities.get(offered, (0, 0.0))[0]:
                qualities[offered] = (specificity, quality)
    # Among equals text comes first: that is what tools without an Accept header show well.
    best = max(reversed(_TYPES), key=lambda offered: qualities.get(offered, (0, 0.0))[1])
    return best if qualities.get(best, (0, 0.0))[1] > 0 else "text/plain"


def render(facts: PageFacts, media: str) -> str:
    """The page, in one of the three types."""
    if media == "application/json":
        return json.dumps(asdict(facts), indent=2) + "\n"
    time = facts.time if facts.time_synchronized else f"{facts.time} (the host's clock is not synchronised)"
    rows: list[tuple[str, Sequence[str]]] = [
        ("Addresses", facts.addresses),
        ("Gateway: DNS, time, this page", facts.gateway),
        ("Time", [time]),
        ("May reach", facts.policy),
        ("Services at the gateway", facts.services or ["none; the host offers some with: lopower serve PORT"]),
        ("Tailnet", [facts.tailnet]),
    ]
    if media == "text/plain":
        lines = [f"{facts.device}, connected through lopower"]
        for label, values in rows:
            lines += ["", f"{label}:"] + [f"  {value}" for value in values]
        return "\n".join(lines) + "\n"
    import html  # brings the table of all entities along, which only a browser has need of

    name = html.escape(facts.device)
    body = []
    for label, values in rows:
        items = [html.escape(value) for value in values]
        content = items[0] if len(items) == 1 else "<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>"
        body.append(f"<dt>{html.escape(label)}</dt><dd>{content}</dd>")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{name} · lopower</title><style>{_STYLE}</style></head>"
        f"<body><h1>{name}</h1><p>connected through lopower</p><dl>{''.join(body)}</dl></body></html>\n"
    )


def utc_text(wall_clock: float) -> str:
    """A Unix time in ISO 8601, to the second."""
    return datetime.fromtimestamp(wall_clock, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


class PageService:
    """The page on TCP port 80.

    Args:
        table: the flows.
        facts: what to say to a device.
        is_own_host: whether a name or address in a Host header is the gateway's.
        loop: runs the requests.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        table: FlowTable,
        facts: Callable[[DeviceState], PageFacts],
        is_own_host: Callable[[str], bool],
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
    ) -> None:
        self._table = table
        self._facts = facts
        self._is_own_host = is_own_host
        self._clock = clock
        self._server = Server(
            self._handle,
            loop,
            max_head=_MAX_HEAD,
            idle_seconds=table.config.connection_timeout / 2,  # a FIN, before the flow's own limit means a RST
        )

    def accept(self, state: DeviceState, connection: Connection, now: float) -> None:
        """As `TcpService.accept`."""
        ConnectionTransport(self._table, state, connection, self._server(), self._clock, now)

    async def close(self) -> None:
        """End all requests."""
        await self._server.close(0.0)

    async def _handle(self, request: Request) -> Response:
        if not self._is_own_host(_host_of(request.headers.get("host", ""))):
            raise HttpError(421, "this is lopower's gateway, and not the host asked for")
        if request.method not in ("GET", "HEAD"):
            raise HttpError(405, "this page is for reading", {"Allow": "GET, HEAD"})
        if request.path != "/":
            raise HttpError(404, "there is one page here: /")
        media = choose_type(request.headers.get("accept", ""))
        text = render(self._facts(request.transport.get_extra_info("device_state")), media)
        return Response(200, text.encode(), f"{media}; charset=utf-8", _HEADERS)


def _host_of(field: str) -> str:
    """A Host header without its port and brackets, in lower case."""
    host = field.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".")
