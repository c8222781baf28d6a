"""Micro-benchmarks of the hot path's parts, with pyperf: `python -m tests.bench.micro --fast -o FILE`.

What is timed handles many packets at once, as the data path does; `PER` says how many, by name.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import dnslib
import pyperf

from lopower.netstack.rows import RunFinder
from lopower.netstack.tcp.segments import RowHeaders, SegmentBuilder
from lopower.wire.checksum import checksum
from lopower.wire.rows import PacketRows
from tests.bench.bench_netstack_packets import batch_of, tcp
from tests.bench.bench_wireguard import connected
from tests.bench.dns_rows import zone
from tests.support.dns_resolver import LoopbackResolver
from tests.support.dns_world import ask_wire, make_config, make_server

PER: Final = {"seal": 360, "open": 360, "parse": 200, "checksum": 1, "segment": 45, "dns_hit": 1}
_SIZE: Final = 1420


def wireguard() -> tuple[Callable[[int], float], Callable[[int], float]]:
    """Sealing rows, and opening what was sealed: loops of so many turns, and the seconds they took."""
    device, to_server, up, server, _ = connected()
    rows = PacketRows(PER["seal"], 1440)
    for row in range(PER["seal"]):
        packet = rows.packet(row, _SIZE)
        packet[:20] = bytes.fromhex("450000000000400040060000") + bytes((10, 90, 0, 2, 10, 90, 0, 1))
        packet[2:4] = _SIZE.to_bytes(2, "big")

    def seal_once() -> None:
        up.batch.clear()
        device.send_rows(to_server, rows, 0, PER["seal"], _SIZE, _SIZE, 1.0)

    def seal(loops: int) -> float:
        took = 0.0
        for _ in range(loops):
            began = pyperf.perf_counter()
            seal_once()
            took += pyperf.perf_counter() - began
        return took

    def open_(loops: int) -> float:
        took = 0.0
        for _ in range(loops):
            seal_once()
            began = pyperf.perf_counter()
            server.receive(up.batch, 1.0)
            took += pyperf.perf_counter() - began
        return took

    return seal, open_


def dns_hit() -> Callable[[], object]:
    """A query whose answer is in the cache."""
    query = bytes(dnslib.DNSRecord.question("name1.bench.example", "A").pack())

    async def fill(directory: Path) -> Callable[[], object]:
        async with LoopbackResolver() as resolver:
            resolver.add(zone())
            server = make_server(make_config(directory, f"nameserver [127.0.0.1]:{resolver.port}\n"))
            await ask_wire(server, query)
            return lambda: server.answer_now(query, "udp", "device", 1e9)

    with tempfile.TemporaryDirectory() as directory:
        return asyncio.run(fill(Path(directory)))


def read(path: Path) -> dict[str, list[float]]:
    """Microseconds for one packet or query, by name, of a file that pyperf wrote."""
    suite = pyperf.BenchmarkSuite.load(str(path))
    return {
        one.get_name(): [value * 1e6 / PER[one.get_name()] for value in one.get_values()]
        for one in suite.get_benchmarks()
    }


def main() -> None:
    """Run them all."""
    runner = pyperf.Runner()
    seal, open_ = wireguard()
    runner.bench_time_func("seal", seal)
    runner.bench_time_func("open", open_)
    packets = [tcp(4, row * 1340, 1340) for row in range(PER["parse"])]
    finder, batch = RunFinder(), batch_of(packets)
    runner.bench_func("parse", lambda: list(finder.find(batch)))
    data = os.urandom(_SIZE)
    runner.bench_func("checksum", checksum, data)
    headers = RowHeaders(SegmentBuilder(bytes((10, 90, 0, 1)), bytes((10, 90, 0, 2)), 80, 40_000), 1380, False)
    rows, count = PacketRows(PER["segment"], 1424), PER["segment"]
    runner.bench_func("segment", headers.write, rows, 0, count, 1380, 1, 1, 512, False, 0, 0)
    runner.bench_func("dns_hit", dns_hit())


if __name__ == "__main__":
    main()
