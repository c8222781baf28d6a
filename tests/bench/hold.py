"""`ADDR PORT COUNT`: opens so many connections, a byte to and fro on each; says "ready"; holds them."""

from __future__ import annotations

import resource
import socket
import sys


def hold(host: str, port: int, count: int) -> None:
    """See the module."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, count + 100), hard))
    held = []
    for _ in range(count):
        connection = socket.create_connection((host, port), timeout=20)
        connection.send(b"x")
        if connection.recv(1) != b"x":
            raise RuntimeError("no answer")
        held.append(connection)
    print("ready", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    hold(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
