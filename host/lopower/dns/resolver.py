"""Finds the answer to a question: whom to ask, in which order, how long; and asks only once for all who wait."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from lopower.dns import names, rewriting
from lopower.dns.answer import Answer, failure, prepare
from lopower.dns.cache import Cache
from lopower.dns.config import DnsConfig, ServerAddress
from lopower.dns.doh import HttpsClient, HttpsUpstream
from lopower.dns.message import AAAA, NOERROR, NXDOMAIN, TC, YXDOMAIN, A, MessageError, Question, Response
from lopower.dns.routing import Routing, System, Tailnet
from lopower.dns.system_resolvers import SystemResolvers
from lopower.dns.upstreams import PlainUpstream, TailnetUpstream, Upstream, UpstreamError

log = logging.getLogger(__name__)

# The next resolver is asked when the one before has not answered for so long; the earlier one may still win.
NEXT_UPSTREAM_SECONDS: Final = 1.0
# Resolvers of a route that are asked; each holds a socket for as long as the question is open.
MAX_UPSTREAMS: Final = 3

# Extended error codes (RFC 8914 section 4).
_OTHER: Final = 0
_NOT_READY: Final = 14
_NO_REACHABLE_AUTHORITY: Final = 22

TailnetQuery = Callable[[bytes], Awaitable[bytes]]


class Resolver:
    """Everything that needs somebody else's knowledge.

    Args:
        config: the settings.
        cache: where answers are kept; cleared when the resolvers change.
        tailnet: sends a message to the tailnet's resolver.
        entropy: for ids.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        config: DnsConfig,
        *,
        cache: Cache,
        tailnet: TailnetQuery,
        entropy: Callable[[int], bytes],
        clock: Callable[[], float],
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._config = config
        self._cache = cache
        self._entropy = entropy
        self._clock = clock
        self._routing = Routing(config)
        self._search = tuple(names.from_text(domain) for domain in config.search_domains)
        own = {*config.gateway_addresses, *config.own_addresses}
        self._system = SystemResolvers(config.resolv_conf, own, self._system_changed)
        self._https_client = HttpsClient(config.https_ca)
        self._https: list[Upstream] = [HttpsUpstream(url, self._https_client) for url in config.https_resolvers]
        self._tailnet: list[Upstream] = [TailnetUpstream(tailnet, entropy)]
        self._plain: dict[ServerAddress, PlainUpstream] = {}
        self._last_good: dict[str, Upstream] = {}
        self._pending: dict[Question, asyncio.Task[Answer]] = {}

    async def resolve(self, question: Question) -> tuple[Answer, int]:
        """The answer and its age in s; SERVFAIL if there is none in time. Never raises for what others do."""
        cached = self._cache.get(question, self._clock())
        if cached is not None:  # it came between the query and this task
            return cached
        task = self._pending.get(question)
        if task is None:
            task = asyncio.create_task(self._resolve(question), name=f"dns {names.to_text(question.name)}")
            self._pending[question] = task
            task.add_done_callback(lambda _: self._pending.pop(question, None))
        else:
            self.counters["joined"] += 1
        # One who waits may give up; the others, and the cache, still want the answer.
        await asyncio.wait([task])
        if task.cancelled():
            return failure(question, _NOT_READY, "the resolver is being closed"), 0
        return task.result(), 0

    async def retire(self) -> None:
        """Close after what is under way has ended; `Resolver.resolve` must not be called any more."""
        try:
            if self._pending:
                await asyncio.wait(self._pending.values())
        finally:
            await self.close()

    async def close(self) -> None:
        """Give up what is under way, which becomes SERVFAIL, and close all connections."""
        tasks = list(self._pending.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._https_client.close()

    def status(self) -> dict[str, Any]:
        """The resolvers in use, and how they fare."""
        system = self._system.current(self._clock())
        upstreams: list[Upstream] = [*self._tailnet, *self._plain.values(), *self._https]
        return {
            "system_resolvers": [str(server) for server in system.servers],
            "own_addresses_skipped": system.ourselves,
            "over_https": not system.servers,
            "search_domains": [names.to_text(domain) for domain in self._search_domains()],
            "upstreams": {upstream.name: dict(upstream.counters) for upstream in upstreams if upstream.counters},
            "pending": len(self._pending),
        }

    def _system_changed(self) -> None:
        log.info("%s changed: names are looked up anew", self._config.resolv_conf)
        self._cache.clear()
        self._plain.clear()
        self._last_good.clear()

    def _search_domains(self) -> tuple[bytes, ...]:
        return self._search or self._system.current(self._clock()).search

    async def _resolve(self, question: Question) -> Answer:
        try:
            async with asyncio.timeout(self._config.timeout):
                response = await self._find(question)
                answer = prepare(response)
        except TimeoutError:
            self.counters["timeouts"] += 1
            answer = failure(question, _NO_REACHABLE_AUTHORITY, "no resolver answered in time")
        except UpstreamError as exc:
            self.counters["failures"] += 1
            answer = failure(question, _NO_REACHABLE_AUTHORITY, str(exc))
        except MessageError as exc:
            self.counters["failures"] += 1
            answer = failure(question, _OTHER, str(exc))
        self._cache.put(question, answer, self._clock())
        return answer

    async def _find(self, question: Question) -> Response:
        """The response, for a bare name by way of the search domains, as a libc does (resolver(3), RES_DNSRCH)."""
        name = question.name
        if question.qtype in (A, AAAA) and names.is_bare(name) and not self._routing.has_route(name):
            failed = None
            for domain in self._search_domains():
                if len(name) - 1 + len(domain) > names.MAX_NAME_BYTES:
                    continue
                try:
                    response = await self._ask(question._replace(name=name[:-1] + domain))
                except UpstreamError as exc:
                    failed = exc
                    continue
                if response.rcode == NOERROR:
                    return rewriting.under_alias(response, name)
            response = await self._ask(question)
            if response.rcode != NOERROR and failed is not None:
                raise failed  # it may exist in the domain that could not be asked
            return response
        return await self._ask(question)

    async def _ask(self, question: Question) -> Response:
        response = await self._race(self._upstreams(question.name), question)
        if not self._config.ipv4:
            response = rewriting.without_ipv4(response, self._routing.is_tailnet)
        return response

    def _upstreams(self, name: bytes) -> list[Upstream]:
        route = self._routing.route(name)
        if isinstance(route, Tailnet):
            return self._tailnet
        servers = self._system.current(self._clock()).servers if isinstance(route, System) else route
        if not servers and isinstance(route, System):
            return self._https[:MAX_UPSTREAMS]
        return [self._plain_upstream(server) for server in servers[:MAX_UPSTREAMS]]

    def _plain_upstream(self, server: ServerAddress) -> PlainUpstream:
        upstream = self._plain.get(server)
        if upstream is None:
            upstream = self._plain[server] = PlainUpstream(server, self._entropy)
        return upstream

    async def _race(self, upstreams: Sequence[Upstream], question: Question) -> Response:
        """The first good answer. Each next resolver starts when those before have failed, or are slow.

        Raises:
            UpstreamError: all failed.
        """
        if not upstreams:
            raise UpstreamError("no resolver is configured for this name")
        group = upstreams[0].name
        best = self._last_good.get(group)
        waiting = sorted(upstreams, key=lambda upstream: upstream is not best)
        running: dict[asyncio.Task[Response], Upstream] = {}
        errors: list[str] = []
        truncated: Response | None = None
        try:
            while waiting or running:
                if waiting:
                    upstream = waiting.pop(0)
                    running[asyncio.create_task(upstream.exchange(question))] = upstream
                timeout = NEXT_UPSTREAM_SECONDS if waiting else None
                done, _ = await asyncio.wait(running, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    upstream = running.pop(task)
                    try:
                        response = task.result()
                    except UpstreamError as exc:
                        errors.append(str(exc))
                        continue
                    if response.rcode not in (NOERROR, NXDOMAIN, YXDOMAIN):
                        upstream.counters[f"rcode_{response.rcode}"] += 1
                        errors.append(f"{upstream.name}: response code {response.rcode}")
                    elif response.flags & TC:
                        truncated = response
                    else:
                        self._last_good[group] = upstream
                        return response
        finally:
            for task in running:
                task.cancel()
            if running:
                await asyncio.gather(*running, return_exceptions=True)
        if truncated is not None:
            return truncated
        raise UpstreamError("; ".join(errors))
