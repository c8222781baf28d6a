"""Token buckets: 20 a second, burst 5, by IPv4 address or IPv6 /64, for at most 65,536 sources."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from lopower.wireguard import ratelimit
from lopower.wireguard.ratelimit import RateLimiter

A, B = ip_address("192.0.2.1").packed, ip_address("192.0.2.2").packed


def test_five_at_once_then_twenty_a_second() -> None:
    limiter = RateLimiter()
    assert [limiter.allow(A, 10.0) for _ in range(6)] == [True] * 5 + [False]
    assert not limiter.allow(A, 10.049)
    assert limiter.allow(A, 10.0501)
    assert sum(limiter.allow(A, 10.1 + i / 1000) for i in range(1000)) in (20, 21)


def test_sources_are_apart_and_an_ipv6_64_is_one() -> None:
    limiter = RateLimiter()
    for _ in range(5):
        assert limiter.allow(A, 0.0)
    assert limiter.allow(B, 0.0)
    first, second, other = (ip_address(x).packed for x in ("2001:db8::1", "2001:db8::ffff", "2001:db8:0:1::1"))
    assert [limiter.allow(first if i % 2 else second, 0.0) for i in range(6)] == [True] * 5 + [False]
    assert limiter.allow(other, 0.0)


def test_exempt_networks_are_always_allowed_and_not_tracked() -> None:
    limiter = RateLimiter([ip_network("192.0.2.0/24"), ip_network("2001:db8::/32")])
    assert all(limiter.allow(A, 0.0) for _ in range(100))
    assert all(limiter.allow(ip_address("2001:db8::1").packed, 0.0) for _ in range(100))
    assert len(limiter) == 0
    other = ip_address("198.51.100.1").packed
    mapped = bytes(12) + A
    for source in (other, mapped):
        assert [limiter.allow(source, 0.0) for _ in range(6)] == [True] * 5 + [False]
    limiter.set_exempt([ip_network("198.51.100.1")])
    assert limiter.allow(other, 0.0)
    assert [limiter.allow(A, 0.0) for _ in range(6)] == [True] * 5 + [False]


def test_full_table_refuses_newcomers_until_sources_fall_idle() -> None:
    assert ratelimit.MAX_SOURCES == 65_536
    limiter = RateLimiter()
    for i in range(ratelimit.MAX_SOURCES):
        assert limiter.allow(i.to_bytes(4, "big"), 1.0)
    assert len(limiter) == ratelimit.MAX_SOURCES
    assert not limiter.allow(b"new!", 1.5)
    assert limiter.allow((5).to_bytes(4, "big"), 1.5)
    assert limiter.allow(b"new!", 2.0)
    assert len(limiter) == 2


def test_a_clock_that_stands_still_gives_nothing() -> None:
    limiter = RateLimiter()
    assert [limiter.allow(A, 3.0) for _ in range(20)].count(True) == 5
