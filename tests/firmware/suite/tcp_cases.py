"""TCP, UDP and ICMP of the device, two stacks over seeded links."""

import errno

from lopower_device import counters as c
from lopower_device import tcp
from worlds import Net, checksum_is_right

CONDITIONS = (
    {},
    {"ipv6": True},
    {"loss": 5},
    {"loss": 20},
    {"duplicate": 10, "reorder": 20},
    {"loss": 3, "duplicate": 3, "reorder": 10, "ipv6": True},
    {"rings": (600, 500)},
    {"rings": (4140, 2760), "loss": 2, "delay": 60},
)


def _pattern(start, length):
    return bytes([(start + i) * 31 & 255 for i in range(length)])


def _pull(connection, now):
    buffer = bytearray(700)
    n = connection.read(buffer, 700, now)
    return bytes(buffer[:n])


def _transfer(net, sender, receiver, total):
    """Bytes from one to the other, then FIN; what came."""
    state = [0, b""]

    def done():
        if state[0] < total:
            data = _pattern(state[0], min(900, total - state[0]))
            if sender.can_write:
                state[0] += sender.write(data, 0, len(data), net.now)
            if state[0] == total:
                sender.shutdown(net.now)
        state[1] += _pull(receiver, net.now)
        return receiver.peer_closed and not receiver.received.length

    net.run(done, 400_000)
    return state[1]


def test_bulk_over_bad_links():
    """What is sent comes, whole and in order; all checksums on the way are right."""
    for seed, conditions in enumerate(CONDITIONS):
        net = Net(seed=seed + 1, **conditions)
        client, server = net.connected()
        total = 8_000 if conditions else 20_000
        assert _transfer(net, client, server, total) == _pattern(0, total), conditions
        assert _transfer(net, server, client, 5000) == _pattern(0, 5000), conditions
        assert all(checksum_is_right(packet) for _, packet in net.seen)


def test_nothing_is_left():
    """After both have closed, and time has passed, no connection and no timer; rings are used again."""
    net = Net(loss=5)
    listener = net.other.listen(80, 4)
    for _ in range(6):
        client = net.one.connect((net.addresses[1], 80), net.now)
        net.run(lambda: listener.ready and client.is_open)
        server = listener.ready.pop(0)
        client.write(b"hello", 0, 5, net.now)
        net.run(lambda: server.received.length == 5)
        assert _pull(server, net.now) == b"hello"
        client.close(net.now)
        net.run(lambda: server.peer_closed)
        server.close(net.now)
    net.run(lambda: not net.one.connections and not net.other.connections, 200_000)
    assert len(net.one._rings) <= 2
    assert net.one.next_timer(net.now) == 60_000


def test_ports_come_in_turn():
    """The far end has the last connections in TIME-WAIT: none of their ports is used again before all others were."""
    net = Net()
    ports = set()
    for _ in range(40):
        client = net.one.connect((net.addresses[1], 80), net.now)
        ports.add(client.local[1])
        client.abort(net.now)
    assert len(ports) == 40 and min(ports) >= 49152
    assert max(ports) - min(ports) in (39, 16383)


def test_half_close():
    """FIN one way; data the other way goes on."""
    net = Net()
    client, server = net.connected()
    client.shutdown(net.now)
    net.run(lambda: server.peer_closed)
    server.write(b"still here", 0, 10, net.now)
    net.run(lambda: client.received.length == 10)
    assert not client.can_write
    server.close(net.now)
    net.run(lambda: client.peer_closed)
    assert client.state == tcp.TIME_WAIT


def test_zero_window():
    """The reader sleeps for minutes; probes keep the connection, and data goes on afterwards."""
    net = Net(rings=(1000, 2760))
    client, server = net.connected()
    client.write(_pattern(0, 2700), 0, 2700, net.now)
    for _ in range(10_000):
        net.step(20)
    assert server.received.length == 1000
    assert client.is_open
    got = [b""]

    def all_there():
        got[0] += _pull(server, net.now)
        return len(got[0]) == 2700

    net.run(all_there, 70_000)
    assert got[0] == _pattern(0, 2700)


def test_refused_and_reset():
    """RST for a port where nobody listens, to a lost connection, and on close with unread data."""
    net = Net()
    client = net.one.connect((net.addresses[1], 81), net.now)
    net.run(lambda: client.state == tcp.CLOSED)
    assert client.error == errno.ECONNREFUSED
    client, server = net.connected()
    client.write(b"unread", 0, 6, net.now)
    net.run(lambda: server.received.length)
    server.close(net.now)
    net.run(lambda: client.state == tcp.CLOSED)
    assert client.error == errno.ECONNRESET


def test_time_out():
    """A SYN, and data, that nothing answers."""
    net = Net(loss=100)
    client = net.one.connect((net.addresses[1], 80), net.now)
    net.run(lambda: client.state == tcp.CLOSED, 200_000)
    assert client.error == errno.ETIMEDOUT


def test_blind_segments():
    """RFC 5961: a RST or SYN that does not fit exactly is answered with an ACK, and changes nothing."""
    net = Net()
    client, server = net.connected()
    client.write(b"x", 0, 1, net.now)
    net.run(lambda: server.received.length)
    for _ in range(100):
        net.step()
    template = [packet for side, packet in net.seen if side == 0][-1]
    sequence = int.from_bytes(template[24:28], "big")
    for flags in (tcp.RST, tcp.SYN, tcp.RST | tcp.ACK, tcp.ACK, tcp.FIN | tcp.ACK):
        for offset in (-70000, -1, 5, 3000, 70000, 1 << 30, 1 << 31):
            if offset == -1 and flags == tcp.ACK:
                continue
            packet = bytearray(template[:40])
            packet[2:4] = b"\x00\x28"
            packet[24:28] = (sequence + 1 + offset & 0xFFFFFFFF).to_bytes(4, "big")
            packet[32:34] = bytes((0x50, flags))
            net.deliver(1, packet)
            assert server.is_open, (flags, offset)
    packet[24:28] = (sequence + 1 & 0xFFFFFFFF).to_bytes(4, "big")
    packet[32:34] = bytes((0x50, tcp.ACK))
    for offset in (-200000, 5, 1 << 30):
        acknowledgment = int.from_bytes(template[28:32], "big")
        packet[28:32] = (acknowledgment + offset & 0xFFFFFFFF).to_bytes(4, "big")
        net.deliver(1, packet)
        assert server.is_open
    packet[33] = tcp.RST
    net.deliver(1, packet)
    assert server.state == tcp.CLOSED


def test_any_bytes():
    """Random and mutated packets are counted, never raise, and the connection goes on."""
    for ipv6 in (False, True):
        net = Net(ipv6=ipv6)
        client, server = net.connected()
        client.write(_pattern(0, 2000), 0, 2000, net.now)
        for _ in range(50):
            net.step()
        samples = [packet for side, packet in net.seen if side == 0]
        start = 40 if ipv6 else 20
        for i in range(600):
            packet = bytearray(samples[i % len(samples)])
            for _ in range(1 + net.random(4)):
                at = start + net.random(len(packet) - start)
                if not 0 <= at - start - 13 < 1:  # flags may end a connection by right
                    packet[at] ^= 1 << net.random(8)
            net.deliver(1, bytes(packet))
            junk = net.random.bytes(60)
            head = bytes(packet[:start])
            net.deliver(1, head + junk)
        net.wires[1].sent = []


def test_backlog():
    """More connections than the backlog wait for the next SYN."""
    net = Net()
    listener = net.other.listen(80, 2)
    clients = [net.one.connect((net.addresses[1], 80), net.now) for _ in range(3)]
    for _ in range(200):
        net.step()
    assert len(listener.ready) == 2
    assert net.other.counters[c.BACKLOG_FULL] >= 1
    listener.ready.pop(0)
    net.run(lambda: len(listener.ready) == 2, 20_000)
    assert all(client.is_open for client in clients)


def test_no_memory():
    """Too many connections: ENOMEM for that one; the others live."""
    net = Net(rings=(100, 100))
    net.other.listen(80, 50)
    connections = []
    try:
        for _ in range(50):
            connections.append(net.one.connect((net.addresses[1], 80), net.now))
        raise AssertionError
    except OSError as error:
        assert error.args[0] == errno.ENOMEM
    assert len(connections) == 12
    for _ in range(100):
        net.step()
    assert any(connection.is_open for connection in connections)


def test_udp():
    """Both families; a queue that is full drops; a connected one takes nothing from others."""
    for ipv6 in (False, True):
        net = Net(ipv6=ipv6)
        size = 16 if ipv6 else 4
        one, other = net.one.open_udp(size, 4000), net.other.open_udp(size, 5000)
        for length in (0, 1, 1300):
            one.send(bytes(length), (net.addresses[1], 5000), net.now)
            net.run(lambda: other.queue)
            assert other.queue.pop(0) == (bytes(length), net.addresses[0], 4000)
        for _ in range(10):
            one.send(b"x", (net.addresses[1], 5000), net.now)
        for _ in range(20):
            net.step()
        assert len(other.queue) == 6
        assert net.other.counters[c.UDP_QUEUE_DROPPED] == 4
        other.remote = (net.addresses[0], 4001)
        other.queue.clear()
        one.send(b"x", (net.addresses[1], 5000), net.now)
        for _ in range(20):
            net.step()
        assert not other.queue
        try:
            one.send(bytes(1420), (net.addresses[1], 5000), net.now)
            raise AssertionError
        except ValueError:
            pass
        assert all(checksum_is_right(packet) for _, packet in net.seen)


def test_fragments_are_counted():
    """And dropped; so is what is for somebody else."""
    net = Net()
    packet = bytearray(
        b"\x45\x00\x00\x28\x00\x00\x20\x00\x40\x11\x00\x00" + net.addresses[0] + net.addresses[1] + bytes(20)
    )
    net.deliver(1, packet)
    packet[6] = 0
    packet[7] = 1
    net.deliver(1, packet)
    assert net.other.counters[c.FRAGMENTS] == 2
    packet[7] = 0
    packet[19] = 99
    net.deliver(1, packet)
    assert net.other.counters[c.NOT_FOR_US] == 1
