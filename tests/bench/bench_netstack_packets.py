"""What the IP side of the stack costs, in microseconds: `python tests/bench/bench_netstack_packets.py`."""

from __future__ import annotations

import os
import random
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any

from lopower.netstack.config import StackConfig
from lopower.netstack.rows import RunFinder
from lopower.netstack.stack import Stack
from lopower.wire.ip import ip_header
from lopower.wire.rows import PacketBatch, PacketRows

ADDRESSES = {
    4: (bytes((10, 90, 0, 7)), bytes((192, 0, 2, 1))),
    6: (bytes.fromhex("fd7aa115c1e099090000000000000007"), bytes.fromhex("20010db8000000000000000000000001")),
}
STRIDE = 1424


class Nowhere:
    """Takes packets and forgets them."""

    def send_packets(self, peer: Any, packets: Sequence[Any], now: float) -> None:
        """Nothing."""

    def send_rows(self, peer: Any, rows: Any, first: int, count: int, length: int, last: int, now: float) -> None:
        """Nothing."""


def udp(version: int, size: int) -> bytes:
    source, destination = ADDRESSES[version]
    return ip_header(source, destination, 17, 8 + size) + struct.pack("!HHHH", 1000, 2000, 8 + size, 1) + bytes(size)


def tcp(version: int, sequence: int, size: int, stamps: bool = False, port: int = 80) -> bytes:
    source, destination = ADDRESSES[version]
    options = struct.pack("!III", 0x0101080A, 1, 2) if stamps else b""
    length = 20 + len(options)
    header = struct.pack("!HHIIHHHH", 1000, port, sequence, 5, length << 10 | 0x10, 100, 0, 0)
    return ip_header(source, destination, 6, length + size) + header + options + bytes(size)


def batch_of(packets: Sequence[bytes]) -> PacketBatch:
    batch = PacketBatch(PacketRows(512, STRIDE))
    for row, packet in enumerate(packets):
        batch.rows.view[row * STRIDE : row * STRIDE + len(packet)] = packet
        batch.lengths[row] = len(packet)
    batch.count = len(packets)
    batch.runs = [("device", 0, batch.count)]
    return batch


def best(function: Callable[[], object], times: int = 200, rounds: int = 30) -> float:
    result = float("inf")
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(times):
            function()
        result = min(result, (time.perf_counter() - began) / times)
    return result * 1e6


def measure(version: int) -> None:
    stack = Stack(config=StackConfig(), entropy=os.urandom, uniform=random.uniform, output=Nowhere())

    def receive(batch: PacketBatch) -> None:
        stack.receive(batch, 1.0)
        stack.take_events()
        stack.take_dirty()
        stack.flush(1.0)

    def send(payloads: list[bytes]) -> None:
        flow.send(payloads, 1.0)
        stack.flush(1.0)

    lone, many = batch_of([udp(version, 100)]), batch_of([udp(version, 1200)] * 200)
    receive(lone)
    (flow,) = stack.udp
    show("a turn with one 100-byte datagram in", best(lambda: receive(lone)))
    show("a turn with one 100-byte datagram out", best(lambda: send([bytes(100)])))
    show("200 datagrams of 1,200 bytes in, each", best(lambda: receive(many), 20) / 200)
    show("32 datagrams of 1,200 bytes out, each", best(lambda: send([bytes(1200)] * 32), 50) / 32)
    measure_runs("one flow", [tcp(version, row * 1340, 1340) for row in range(200)])
    measure_runs("one flow, time stamps", [tcp(version, row * 1328, 1328, stamps=True) for row in range(200)])
    measure_runs("two flows alternating", [tcp(version, row // 2 * 9, 9, port=80 + row % 2) for row in range(200)])


def measure_runs(name: str, packets: Sequence[bytes]) -> None:
    finder, batch = RunFinder(), batch_of(packets)
    show(f"finding runs, 200 rows, {name}, each", best(lambda: list(finder.find(batch)), 50) / len(packets))


def show(name: str, cost: float) -> None:
    print(f"  {name:54}{cost:7.2f}")


def main() -> None:
    for version in (4, 6):
        print(f"IPv{version}")
        measure(version)


if __name__ == "__main__":
    main()
