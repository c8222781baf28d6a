"""The link emulator keeps what it promises, and the same seed does the same."""

from __future__ import annotations

from tests.support.link_emulator import Link, LinkConditions


def cross(conditions: LinkConditions, count: int, seed: int = 7, interval: float = 0.001) -> list[tuple[float, bytes]]:
    """`count` packets of 100 bytes enter one by one; when each came out, and which."""
    link = Link(conditions, seed)
    out: list[tuple[float, bytes]] = []
    for number in range(count):
        link.offer(number.to_bytes(4, "big") * 25, number * interval)
    while (at := link.next_due()) is not None:
        out += [(at, packet) for packet in link.due(at)]
    assert link.counters["delivered"] == len(out)
    return out


def test_a_perfect_link_changes_nothing() -> None:
    out = cross(LinkConditions(), 50)
    assert [at for at, _ in out] == [number * 0.001 for number in range(50)]
    assert [int.from_bytes(packet[:4], "big") for _, packet in out] == list(range(50))


def test_the_same_seed_does_the_same_and_another_does_not() -> None:
    conditions = LinkConditions(loss=0.2, duplication=0.1, reordering=0.1, jitter=0.01)
    assert cross(conditions, 500) == cross(conditions, 500)
    assert cross(conditions, 500) != cross(conditions, 500, seed=8)


def test_loss_and_duplication_come_as_often_as_asked() -> None:
    assert 1900 < len(cross(LinkConditions(loss=0.5), 4000)) < 2100
    assert 4900 < len(cross(LinkConditions(duplication=0.25), 4000)) < 5100


def test_delay_and_jitter_keep_the_order() -> None:
    out = cross(LinkConditions(delay=0.05, jitter=0.02), 200)
    assert [packet for _, packet in out] == [number.to_bytes(4, "big") * 25 for number in range(200)]
    assert all(0.05 <= at - number * 0.001 <= 0.0700001 for number, (at, _) in enumerate(out))


def test_reordering_lets_later_ones_overtake() -> None:
    numbers = [int.from_bytes(packet[:4], "big") for _, packet in cross(LinkConditions(reordering=0.1), 300)]
    assert numbers != sorted(numbers)
    assert sorted(numbers) == list(range(300))


def test_the_rate_spaces_packets_and_the_queue_overflows() -> None:
    out = cross(LinkConditions(rate=10_000, queue=1000), 100, interval=0.0)
    assert len(out) == 10
    assert [round(at, 9) for at, _ in out] == [round((number + 1) * 0.01, 9) for number in range(10)]
