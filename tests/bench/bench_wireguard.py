"""What sealing and opening cost in CPU time per packet, in one process and without sockets.

    python tests/bench/bench_wireguard.py

Two interfaces hand each other full GSO buffers of 1,420-byte packets, by rows, as the data plane does; then small
turns. The AEAD alone, through the same views, is measured in the same run: the difference is this package's own
share.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from itertools import repeat

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from lopower.wire.datagrams import DatagramBatch, Endpoint
from lopower.wire.rows import PacketRows
from lopower.wireguard.config import InterfaceConfig
from lopower.wireguard.interface import Interface
from lopower.wireguard.peer import Peer

SLOT = 65_536
PACKET = 1420
PACKETS = 360
SERVER, DEVICE = Endpoint("192.0.2.1", 51820), Endpoint("192.0.2.2", 40000)


class Wire:
    """Takes buffers into the slots of the other side's batch, as a socket with GSO and GRO would."""

    def __init__(self, source: Endpoint) -> None:
        self.batch = DatagramBatch(bytearray(16 * SLOT))
        self.source = source

    def __call__(self, datagrams: memoryview[int], segment_size: int, endpoint: Endpoint, /) -> None:
        offset = len(self.batch.offsets) * SLOT
        self.batch.view[offset : offset + len(datagrams)] = datagrams
        self.batch.append(offset, len(datagrams), segment_size, self.source)


def best(action: Callable[[], None], packets: int, repetitions: int = 60) -> float:
    """Microseconds of CPU per packet, of the best repetition."""
    times = []
    for _ in range(repetitions):
        started = time.process_time_ns()
        action()
        times.append(time.process_time_ns() - started)
    return min(times) / packets / 1000


def connected() -> tuple[Interface, Peer, Wire, Interface, Wire]:
    """A device with a session to a server, and what each has on the wire."""

    def interface(wire: Wire, private_key: bytes) -> Interface:
        stamps = iter(range(2**62, 2**63))
        return Interface(
            private_key=private_key,
            config=InterfaceConfig(),
            entropy=os.urandom,
            uniform=lambda a, _: a,
            timestamp=lambda: next(stamps).to_bytes(8, "big") + bytes(4),
            transmit=wire,
        )

    up, down = Wire(DEVICE), Wire(SERVER)
    device, server = interface(up, os.urandom(32)), interface(down, os.urandom(32))
    to_server = device.add_peer(server.public_key, allowed_ips=["0.0.0.0/0"], endpoint=SERVER)
    server.add_peer(device.public_key, allowed_ips=["10.90.0.2/32"])
    device.connect(to_server, 0.0)
    for wire, receiver in ((up, server), (down, device), (up, server)):
        receiver.receive(wire.batch, 0.0)
        for event in receiver.take_events():
            if token := getattr(event, "token", None):
                receiver.timestamps_stored(token, 0.0)
        wire.batch.clear()
    return device, to_server, up, server, down


def aead(count: int) -> tuple[float, float]:
    """Sealing and opening `count` packets by the AEAD alone."""
    plain = PacketRows(count, 1424)
    message = -(-(PACKET + 32) // 4) * 4
    sealed = bytearray(count * message)
    view = memoryview(sealed)
    cipher = ChaCha20Poly1305(os.urandom(32))
    nonces = [view[at + 4 : at + 16] for at in range(0, len(sealed), message)]
    bodies = [view[at + 16 : at + 32 + PACKET] for at in range(0, len(sealed), message)]
    packets = plain.slices(0, PACKET)
    seal = best(lambda: void(deque(map(cipher.encrypt_into, nonces, packets, repeat(None), bodies), 0)), count)
    open_ = best(lambda: void(deque(map(cipher.decrypt_into, nonces, bodies, repeat(None), packets), 0)), count)
    return seal, open_


def void(_: object) -> None:
    """For lambdas that are to return nothing."""


def main() -> None:
    device, to_server, up, server, _ = connected()
    rows = PacketRows(PACKETS, 1424)
    header = bytes.fromhex("450000000000400040060000") + bytes((10, 90, 0, 2, 10, 90, 0, 1))
    for row in range(PACKETS):
        packet = rows.packet(row, PACKET)
        packet[:20] = header
        packet[2:4] = PACKET.to_bytes(2, "big")

    def both(count: int) -> tuple[float, float]:
        sealing, opening = [], []
        for _ in range(60):
            up.batch.clear()
            started = time.process_time_ns()
            device.send_rows(to_server, rows, 0, count, PACKET, PACKET, 1.0)
            between = time.process_time_ns()
            received = server.receive(up.batch, 1.0)
            sealing.append(between - started)
            opening.append(time.process_time_ns() - between)
            if received.count != count or not received.lengths[:count].all():
                raise SystemExit(f"{received.count} of {count} packets arrived: {server.counters}")
        return min(sealing) / count / 1000, min(opening) / count / 1000

    aead_seal, aead_open = aead(PACKETS)
    print(f"1,420-byte packets, {PACKETS} a turn, CPU us per packet")
    print(f"  AEAD alone     seal {aead_seal:5.2f}  open {aead_open:5.2f}  together {aead_seal + aead_open:5.2f}")
    for count in (PACKETS, 45, 4, 1):
        seal, open_ = both(count)
        own = seal + open_ - aead_seal - aead_open
        print(
            f"  {count:4} a turn     seal {seal:5.2f}  open {open_:5.2f}  together {seal + open_:5.2f}  own {own:5.2f}"
        )


if __name__ == "__main__":
    main()
