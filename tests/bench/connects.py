"""Connection rate: `server ADDR PORT` answers each byte with a byte; `client ADDR PORT SECONDS` counts connections.

Eight at a time, one byte each way, one connection after the other; the client prints connections per second and, after
a blank, the time that all but one in a hundred of them took, in ms.
"""

from __future__ import annotations

import resource
import selectors
import socket
import sys
import threading
import time

AT_A_TIME = 8


def serve(host: str, port: int) -> None:
    """Answer until killed."""
    listener = socket.create_server((host, port), backlog=1024, family=_family(host))
    listener.setblocking(False)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                try:
                    accepted, _ = listener.accept()
                except BlockingIOError:
                    continue
                selector.register(accepted, selectors.EVENT_READ)
                continue
            connection = key.fileobj
            assert isinstance(connection, socket.socket)
            try:
                data = connection.recv(16)
                if data:
                    connection.send(data)
                    continue
            except OSError:
                pass
            selector.unregister(connection)
            connection.close()


def load(host: str, port: int, seconds: float) -> tuple[float, float]:
    """Connections per second, and the 99th percentile of what one takes, in ms."""
    took: list[float] = []
    until = time.monotonic() + seconds

    def work() -> None:
        while (began := time.monotonic()) < until:
            with socket.create_connection((host, port), timeout=5) as connection:
                connection.send(b"x")
                if connection.recv(1) != b"x":
                    raise RuntimeError("no answer")
            took.append(time.monotonic() - began)

    threads = [threading.Thread(target=work) for _ in range(AT_A_TIME)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rate = len(took) / (time.monotonic() - began)
    return rate, sorted(took)[len(took) * 99 // 100] * 1e3


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


if __name__ == "__main__":
    if sys.argv[1] == "server":
        serve(sys.argv[2], int(sys.argv[3]))
    else:
        rate, slow = load(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
        print(f"{rate:.0f} {slow:.2f}")
