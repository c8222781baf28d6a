"""WireGuard of the device against itself: handshakes, sessions, timers, and what must not be accepted."""

import sys

from lopower_device import counters as c
from lopower_device import peer as p
from worlds import Random, Tunnel, ipv4


def test_session_and_data():
    """Packets wait for the session; all sizes come through, with and without a preshared key."""
    for psk in (None, bytes(range(32))):
        tunnel = Tunnel(psk)
        tunnel.send(0, ipv4(100))
        assert tunnel.settle() == [(1, ipv4(100))]
        for size in (20, 21, 100, 1000, 1419, 1420):
            for side in (0, 1):
                tunnel.send(side, ipv4(size))
                assert tunnel.settle() == [(1 - side, ipv4(size))], size
        assert tunnel.one.counters[c.HANDSHAKES_COMPLETED] == 1
        assert tunnel.other.counters[c.HANDSHAKES_COMPLETED] == 1
        assert max(len(datagram) for _, datagram in tunnel.wires) == 1420 + 32


def test_another_preshared_key():
    """No session, and both sides know why."""
    tunnel = Tunnel()
    tunnel.one.static.preshared_key = bytes(31) + b"x"
    tunnel.connect()
    assert tunnel.one.counters[c.RESPONSE_NOT_AUTHENTIC] == 1
    assert tunnel.one.current is None


def test_each_side_may_begin():
    """The responder's first packet waits until the initiator has confirmed."""
    tunnel = Tunnel()
    tunnel.other.connect(tunnel.now)
    tunnel.settle()
    tunnel.send(0, ipv4())
    tunnel.send(1, ipv4())
    assert len(tunnel.settle()) == 2


def test_both_begin_at_once():
    """They settle on sessions that carry data both ways."""
    tunnel = Tunnel()
    tunnel.one.connect(tunnel.now)
    tunnel.other.connect(tunnel.now)
    tunnel.settle()
    tunnel.wait(6000)
    for side in (0, 1):
        tunnel.send(side, ipv4())
        assert tunnel.settle() == [(1 - side, ipv4())]


def test_replayed_data():
    """Once only, in any order, and not from before the window."""
    tunnel = Tunnel()
    tunnel.connect()
    for i in range(5):
        tunnel.send(0, ipv4(40 + i))
    waiting = [datagram for _, datagram in tunnel.flying]
    tunnel.flying.clear()
    for datagram in reversed(waiting):
        assert tunnel.deliver(1, datagram)
    for datagram in waiting:
        assert not tunnel.deliver(1, datagram)
    assert tunnel.other.counters[c.REPLAYED] == 5


def test_replayed_initiation():
    """Its time stamp is not newer, so it is not answered."""
    tunnel = Tunnel()
    tunnel.connect()
    initiation = tunnel.wires[0][1]
    tunnel.now += 5000
    tunnel.deliver(1, initiation)
    assert tunnel.other.counters[c.TIMESTAMP_NOT_NEWER] == 1
    assert tunnel.other.counters[c.RESPONSES_SENT] == 1
    tunnel.send(0, ipv4())
    assert tunnel.settle()


def test_mutated_messages():
    """Every bit of every kind of message counts; nothing raises, and the session lives."""
    tunnel = Tunnel()
    tunnel.one.connect(tunnel.now)
    random = Random(3)
    tunnel.compute(tunnel.one)
    for kind in (1, 2, 4):
        side, datagram = tunnel.flying.pop(0)
        assert datagram[0] == kind
        for _ in range(20):
            changed = bytearray(datagram)
            changed[random(len(datagram))] ^= 1 << random(8)
            if bytes(changed) == datagram or (kind == 1 and changed[132:] != datagram[132:]):
                continue
            if kind == 2 and changed[76:] != datagram[76:]:  # mac2 is looked at under load only
                continue
            assert tunnel.deliver(side, bytes(changed)) is None
            tunnel.now += 1001
        for length in range(0, len(datagram), 13):
            tunnel.deliver(side, datagram[:length])
        tunnel.deliver(side, datagram + b"x")
        tunnel.deliver(side, random.bytes(200))
        tunnel.deliver(side, datagram)
        tunnel.compute(tunnel.peers[side])
        if kind == 2:
            tunnel.send(0, ipv4())
    for side in (0, 1):
        tunnel.send(side, ipv4())
    assert len(tunnel.settle()) >= 2


def test_source_that_is_not_allowed():
    """AllowedIPs bind the inner source; malformed packets are counted apart."""
    tunnel = Tunnel()
    tunnel.connect()
    tunnel.send(0, ipv4(40, (192, 168, 1, 1)))
    assert tunnel.settle() == []
    assert tunnel.other.counters[c.SOURCE_NOT_ALLOWED] == 1
    for bad in (b"\x45" + bytes(20), b"\x75" + bytes(30), b"\x44" + bytes(39), ipv4(40)[:30], b"\x60" + bytes(20)):
        tunnel.send(0, bad)
    longer = bytearray(ipv4(40))
    longer[3] = 200
    tunnel.send(0, bytes(longer))
    assert tunnel.settle() == []
    assert tunnel.other.counters[c.MALFORMED_PACKET] == 6


def test_rekey_by_time():
    """After 120 s the initiator rekeys, once, when it sends; nothing is lost."""
    tunnel = Tunnel()
    tunnel.connect()
    sent = received = 0
    for _ in range(300):
        tunnel.wait(1000, 1000)
        for side in (0, 1):
            tunnel.send(side, ipv4())
            sent += 1
        received += len(tunnel.settle())
    assert received == sent
    assert tunnel.one.counters[c.INITIATIONS_SENT] == 3
    assert tunnel.one.counters[c.HANDSHAKES_COMPLETED] == 3


def test_an_old_session_is_refused():
    """At 180 s, in both directions."""
    tunnel = Tunnel()
    tunnel.connect()
    tunnel.send(0, ipv4())
    _, late = tunnel.flying.pop(0)
    tunnel.now += p.REKEY_AFTER_TIME + 60_000 - 1
    assert tunnel.one.has_session(tunnel.now)
    tunnel.now += 1
    assert not tunnel.one.has_session(tunnel.now)
    assert not tunnel.deliver(1, late)
    assert tunnel.other.counters[c.SESSION_EXPIRED] == 1


def test_retransmission():
    """Every five seconds and a little, as long as nobody answers; then the waiting packets leave."""
    tunnel = Tunnel()
    for i in range(6):
        tunnel.send(0, ipv4(40 + i))
    tunnel.compute(tunnel.one)
    tunnel.flying.clear()
    times = []
    for _ in range(200):
        before = tunnel.one.counters[c.INITIATIONS_SENT]
        tunnel.now += 100
        tunnel.one.handle_timers(tunnel.now)
        tunnel.compute(tunnel.one)
        if tunnel.one.counters[c.INITIATIONS_SENT] > before:
            times.append(tunnel.now)
            tunnel.flying.clear()
    gaps = [b - a for a, b in zip(times, times[1:])]
    assert gaps and all(5000 <= gap <= 5500 for gap in gaps)
    assert tunnel.one.attempts == 1 + len(times)
    tunnel.now += 6000
    tunnel.one.handle_timers(tunnel.now)
    packets = tunnel.settle()
    assert [len(packet) for _, packet in packets] == [42, 43, 44, 45]
    assert tunnel.one.counters[c.QUEUE_DROPPED] == 2
    assert tunnel.one.attempts == 0


def test_passive_keepalive():
    """Ten seconds after data that was not answered, once; and never in answer to a keepalive."""
    tunnel = Tunnel()
    tunnel.connect()
    tunnel.wait(1000)
    tunnel.send(0, ipv4())
    tunnel.settle()
    before = len(tunnel.wires)
    tunnel.wait(9000)
    assert len(tunnel.wires) == before
    tunnel.wait(60_000)
    assert [len(datagram) for _, datagram in tunnel.wires[before:]] == [32]


def test_silence_starts_a_handshake():
    """Data that nothing answers for 15 s."""
    tunnel = Tunnel()
    tunnel.connect()
    tunnel.wait(6000)
    tunnel.send(0, ipv4())
    tunnel.flying.clear()
    for _ in range(149):
        tunnel.now += 100
        tunnel.one.handle_timers(tunnel.now)
    tunnel.compute(tunnel.one)
    assert tunnel.one.counters[c.INITIATIONS_SENT] == 1
    tunnel.now += 100
    tunnel.one.handle_timers(tunnel.now)
    tunnel.compute(tunnel.one)
    assert tunnel.one.counters[c.INITIATIONS_SENT] == 2


def test_persistent_keepalive():
    """After 25 s without traffic, again and again; traffic puts it off."""
    tunnel = Tunnel(keepalive=25_000)
    tunnel.connect()
    before = len(tunnel.wires)
    tunnel.wait(100_000)
    assert 3 <= len([1 for side, _ in tunnel.wires[before:] if side == 0]) <= 5


def test_keys_are_forgotten():
    """After 540 s without a new session."""
    tunnel = Tunnel()
    tunnel.connect()
    tunnel.one.current.created = tunnel.now
    for _ in range(539):
        tunnel.now += 1000
        tunnel.one.handle_timers(tunnel.now)
    assert tunnel.one.current is not None
    tunnel.now += 2000
    tunnel.one.handle_timers(tunnel.now)
    assert tunnel.one.current is None


def test_initiations_are_limited():
    """Who knows our public key gets one answer per second, at most."""
    tunnel = Tunnel()
    for _ in range(5):
        tunnel.one._initiation_sent = None
        tunnel.one.connect(tunnel.now)
        tunnel.compute(tunnel.one)
    tunnel.settle()
    assert tunnel.other.counters[c.RESPONSES_SENT] == 1
    assert tunnel.other.counters[c.RATE_LIMITED] == 4


def test_nothing_is_computed_for_a_wrong_mac1():
    """Before any multiplication, once the own keys are known; what is needed for the check is loaded in slices."""
    tunnel = Tunnel()
    tunnel.connect()
    peer = tunnel.other
    changed = bytearray(tunnel.wires[0][1])
    changed[120] ^= 1
    peer.rx[:148] = changed
    peer.receive(148, tunnel.now)
    assert peer._job is None
    assert peer.counters[c.WRONG_MAC1] == 1
    tunnel.wait(60_000)
    assert peer._program is None
    peer.receive(148, tunnel.now)
    slices = 0
    while peer.step(tunnel.now):
        slices += 1
    assert slices == len(p.PROGRAM)
    assert peer.counters[c.WRONG_MAC1] == 2


def _modules():
    """Those of handshakes that are there."""
    return [name for name in p.PROGRAM if p.__name__.replace("peer", name) in sys.modules]


def test_handshakes_are_loaded_and_dropped():
    """A file at each slice; gone some seconds later, while the session goes on; there again for the next one."""
    tunnel = Tunnel()
    tunnel.one._unload()  # the tests themselves have used them
    tunnel.one.connect(tunnel.now)
    for number in range(len(p.PROGRAM)):
        tunnel.one.step(tunnel.now)
        assert _modules() == list(p.PROGRAM[: number + 1])
    tunnel.settle()
    for _ in range(3):
        tunnel.wait(p.KEEP_PROGRAM + 1000)
        assert _modules() == []
        for side in (0, 1):
            tunnel.send(side, ipv4())
            assert tunnel.settle() == [(1 - side, ipv4())]
        assert _modules() == []
        tunnel.one.restart(tunnel.now)
        tunnel.settle()
        assert _modules() == list(p.PROGRAM)
    assert tunnel.one.counters[c.HANDSHAKES_COMPLETED] == 4


def test_a_handshake_that_is_not_loaded():
    """Counted by reason and tried again; the session lives on."""
    tunnel = Tunnel()
    tunnel.connect()
    tunnel.wait(60_000)
    real = p._load
    for error, reason in ((MemoryError("none"), c.NO_MEMORY), (OSError(5), c.NOT_LOADED)):
        for last in range(len(p.PROGRAM)):

            def load(name):
                if name == p.PROGRAM[last]:
                    raise error
                return real(name)

            p._load = load
            try:
                tunnel.one.restart(tunnel.now)
                before = tunnel.one.counters[reason]
                tunnel.compute(tunnel.one)
            finally:
                p._load = real
            assert tunnel.one.counters[reason] == before + 1
            assert tunnel.one.error is error
            assert _modules() == []
            assert not tunnel.flying
            tunnel.send(0, ipv4())
            assert tunnel.settle() == [(1, ipv4())]
    assert tunnel.one.counters[c.HANDSHAKES_COMPLETED] == 1
    tunnel.wait(p.REKEY_TIMEOUT + 1000)
    assert tunnel.one.counters[c.HANDSHAKES_COMPLETED] == 2
    assert tunnel.one.error is None
