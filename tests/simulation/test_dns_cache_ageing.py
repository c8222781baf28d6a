"""The cache under a day of simulated questions: never stale, never longer than promised, never beyond its bounds."""

from __future__ import annotations

import random

import dnslib
import pytest

from lopower.dns import names
from lopower.dns.answer import Answer, prepare
from lopower.dns.cache import Cache
from lopower.dns.message import Query, Question, Response

DAY = 86_400.0
MAX_ENTRIES = 200
MAX_BYTES = 150_000


class Zone:
    """The truth: an address per name and time, and TTLs that the truth keeps to."""

    def __init__(self, rng: random.Random) -> None:
        self._ttls = [rng.choice([0, 1, 5, 30, 60, 300, 3600, 86_400]) for _ in range(500)]

    def address(self, number: int, now: float) -> str:
        """Changes every TTL, at its multiples."""
        ttl = self._ttls[number]
        return f"10.{number >> 8}.{number & 255}.{int(now / ttl) % 256 if ttl else 1}"

    def answer(self, number: int, now: float) -> Answer:
        """What an authority says that knows when its data change."""
        reply = dnslib.DNSRecord.question(f"n{number}.example").reply()
        ttl = self._ttls[number]
        remaining = int(ttl - now % ttl) if ttl else 0
        if number % 7 == 0:
            reply.header.rcode = 3
            reply.add_auth(*dnslib.RR.fromZone(f"example 900 SOA a.example b.example 1 2 3 4 {ttl}"))
        else:
            reply.add_answer(*dnslib.RR.fromZone(f"n{number}.example {remaining} A {self.address(number, now)}"))
        return prepare(Response(bytes(reply.pack())))


@pytest.mark.parametrize("seed", range(3))
def test_a_day(seed: int) -> None:
    rng = random.Random(seed)
    zone, cache = Zone(rng), Cache(max_entries=MAX_ENTRIES, max_bytes=MAX_BYTES)
    now, hits, misses = 0.0, 0, 0
    stored: dict[int, float] = {}
    while now < DAY:
        now += rng.expovariate(1 / 6)
        number = min(int(rng.expovariate(1 / 60)), 499)
        question = Question(names.from_text(f"n{number}.example"), 1)
        found = cache.get(question, now)
        if found is None:
            misses += 1
            cache.put(question, zone.answer(number, now), now)
            stored[number] = now
        else:
            hits += 1
            answer, age = found
            assert age <= now - stored[number] < answer.lifetime
            wire = answer.render(Query(1, 0x0100, question.name, question, 0), age, 512)
            reply = dnslib.DNSRecord.parse(wire)
            if number % 7:
                assert str(reply.rr[0].rdata) == zone.address(number, now), "a stale address"
                assert 0 < reply.rr[0].ttl <= answer.lifetime - age
        assert len(cache) <= MAX_ENTRIES
        assert cache.size <= MAX_BYTES
    assert hits > misses / 4
    cache.clear()
    assert cache.size == 0
