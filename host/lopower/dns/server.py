"""The devices' DNS server, over the messages that the bridge hands it; what carries them is the bridge's matter.

`answer_now` is the hot path: a cached answer, a name of our own, or an error, without a task. What it cannot answer is
for `resolve`, which waits for others and so delays nobody else.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any, Final, Literal

from lopower.dns import message
from lopower.dns.cache import Cache
from lopower.dns.config import DnsConfig
from lopower.dns.local_names import LocalNames, LocalZone
from lopower.dns.message import (
    CLASSIC_UDP_BYTES,
    EDNS_UDP_BYTES,
    MAX_MESSAGE_BYTES,
    SERVFAIL,
    TC,
    Query,
    QueryError,
    parse_query,
)
from lopower.dns.resolver import Resolver, TailnetQuery

Transport = Literal["udp", "tcp"]

_TOO_BUSY: Final = message.write_extended_error(0, "too many queries are being resolved")


class DnsServer:
    """One server for all devices.

    Args:
        config: the settings.
        names: the devices' names.
        tailnet: sends one DNS message to the tailnet's resolver; what it raises becomes SERVFAIL.
        entropy: `entropy(n)` gives n random bytes that nobody can guess.
        clock: monotonic seconds; `now` elsewhere is of the same clock.

    Attributes:
        counters: queries, what became of them, and what was wrong with them.
    """

    def __init__(
        self,
        config: DnsConfig,
        *,
        names: LocalNames,
        tailnet: TailnetQuery,
        entropy: Callable[[int], bytes],
        clock: Callable[[], float],
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._names = names
        self._tailnet = tailnet
        self._entropy = entropy
        self._clock = clock
        self._in_flight: Counter[Hashable] = Counter()
        self._in_flight_total = 0
        self._closing: set[asyncio.Task[None]] = set()
        self._start(config)

    def _start(self, config: DnsConfig) -> None:
        cache = Cache(max_entries=config.cache_entries, max_bytes=config.cache_bytes)
        resolver = Resolver(config, cache=cache, tailnet=self._tailnet, entropy=self._entropy, clock=self._clock)
        zone = LocalZone(config, self._names)
        self._config, self._cache, self._resolver, self._zone = config, cache, resolver, zone

    def answer_now(self, query: message.Message, transport: Transport, client: Hashable, now: float) -> bytes | None:
        """Answer without waiting.

        Args:
            query: the device's message; not needed afterwards.
            transport: decides how long the answer may be.
            client: whose query it is, for the limits.
            now: monotonic seconds.

        Returns:
            The response; empty: there is none, and the query is dropped; None: ask `resolve`.
        """
        counters = self.counters
        counters["queries"] += 1
        try:
            parsed = parse_query(query)
        except QueryError as exc:
            counters[exc.reason] += 1
            return exc.response
        local = self._zone.answer(parsed)
        if local is not None:
            counters["local"] += 1
            return local
        cached = self._cache.get(parsed.question, now)
        if cached is not None:
            counters["hits"] += 1
            return cached[0].render(parsed, cached[1], _limit(parsed, transport))
        return self._refusal(parsed, client)

    async def resolve(self, query: bytes, transport: Transport, client: Hashable) -> bytes:
        """Answer a query that `answer_now` could not: within 5 seconds, with SERVFAIL if nobody knows.

        Cancelling it is harmless: what is under way goes on for others who wait, and for the cache.
        """
        try:
            parsed = parse_query(query)
        except QueryError as exc:
            return exc.response
        refusal = self._refusal(parsed, client)
        if refusal is not None:
            return refusal
        self._in_flight[client] += 1
        self._in_flight_total += 1
        try:
            answer, age = await self._resolver.resolve(parsed.question)
        finally:
            self._in_flight_total -= 1
            self._in_flight[client] -= 1
            if not self._in_flight[client]:
                del self._in_flight[client]
        if answer.flags & TC and transport == "tcp":
            return message.write_error(parsed, SERVFAIL)  # there is no larger transport left to point to
        return answer.render(parsed, age, _limit(parsed, transport))

    def reload(self, config: DnsConfig | None = None) -> None:
        """Take other settings, or the same ones again; forgets all answers. Queries under way end as they began."""
        retired = self._resolver
        self._start(config or self._config)
        task = asyncio.get_running_loop().create_task(retired.retire())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Give up everything under way and close all sockets."""
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        await self._resolver.close()

    def status(self) -> dict[str, Any]:
        """For `lopower status`: counters, cache, queries in flight, and the resolvers."""
        return {
            "counters": dict(self.counters + self._resolver.counters),
            "cache": {"entries": len(self._cache), "bytes": self._cache.size, "evicted": self._cache.evicted},
            "in_flight": self._in_flight_total,
            **self._resolver.status(),
        }

    def _refusal(self, query: Query, client: Hashable) -> bytes | None:
        """SERVFAIL if too much is under way: a device that floods us must neither fill memory nor block the others."""
        if self._in_flight_total >= self._config.max_in_flight:
            self.counters["too_many"] += 1
        elif self._in_flight[client] >= self._config.max_in_flight_per_client:
            self.counters["too_many_of_client"] += 1
        else:
            return None
        return message.write_error(query, SERVFAIL, options=_TOO_BUSY)


def _limit(query: Query, transport: Transport) -> int:
    """How many bytes the device takes (RFC 6891 section 6.2.5); over UDP never more than travels in one packet."""
    if transport == "tcp":
        return MAX_MESSAGE_BYTES
    return min(query.udp_bytes, EDNS_UDP_BYTES) or CLASSIC_UDP_BYTES
