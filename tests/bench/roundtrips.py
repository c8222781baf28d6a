"""One byte to and fro on one connection: `ADDR PORT COUNT PAUSE [SECONDS]`; prints p50, p99, longest, ms, as JSON."""

from __future__ import annotations

import json
import socket
import sys
import time


def measure(host: str, port: int, count: int, pause: float, most: float = float("inf")) -> dict[str, float]:
    """Round trips, `pause` seconds between them, for `most` seconds. Raises OSError if the connection is lost."""
    taken: list[float] = []
    until = time.perf_counter() + most
    with socket.create_connection((host, port), timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while len(taken) < count and (began := time.perf_counter()) < until:
            connection.send(b"x")
            if connection.recv(1) != b"x":
                raise ConnectionResetError("the connection was closed")
            taken.append((time.perf_counter() - began) * 1e3)
            if pause:
                time.sleep(pause)
    taken.sort()
    return {"p50": taken[len(taken) // 2], "p99": taken[len(taken) * 99 // 100], "longest": taken[-1]}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *map(float, sys.argv[4:]))))
