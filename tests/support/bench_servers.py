"""What the boards talk to: servers on loopback that the gateway offers, each in a thread of its own."""

from __future__ import annotations

import hashlib
import http.server
import shutil
import socket
import socketserver
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lopower_hil.loopback import HOST, free_port

PATTERN = bytes(range(251))


class _Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"a page of the bench\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nobody reads it."""


class _Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        data, sock = self.request
        sock.sendto(data, self.client_address)


class _Bulk(socketserver.StreamRequestHandler):
    """`get N\\n`: N bytes of the pattern. `put N\\n` and N bytes: their SHA-256 in hexadecimal."""

    def handle(self) -> None:
        verb, count = self.rfile.readline().split()
        left = int(count)
        if verb == b"get":
            while left:
                left -= self.wfile.write((PATTERN * 400)[: min(left, 400 * len(PATTERN))])
            return
        digest = hashlib.sha256()
        while left:
            data = self.rfile.read1(left)
            if not data:
                return
            digest.update(data)
            left -= len(data)
        self.wfile.write(digest.hexdigest().encode())


@contextmanager
def http_server(context: ssl.SSLContext | None = None) -> Iterator[int]:
    """A page at any path; its port."""
    server = http.server.ThreadingHTTPServer((HOST, 0), _Page)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    with _serving(server) as port:
        yield port


@contextmanager
def udp_echo() -> Iterator[int]:
    """Sends each datagram back; its port."""
    with _serving(socketserver.ThreadingUDPServer((HOST, 0), _Echo)) as port:
        yield port


@contextmanager
def bulk() -> Iterator[int]:
    """Sends and takes a lot; its port."""
    with _serving(socketserver.ThreadingTCPServer((HOST, 0), _Bulk)) as port:
        yield port


@contextmanager
def _serving(server: socketserver.TCPServer) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        port: int = server.socket.getsockname()[1]
        yield port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def mosquitto(directory: Path) -> Iterator[int]:
    """The broker of Debian's package; its port. Raises FileNotFoundError if it is not installed."""
    program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
    port = free_port(socket.SOCK_STREAM)
    settings = directory / "mosquitto.conf"
    settings.write_text(f"listener {port} {HOST}\nallow_anonymous true\npersistence false\n")
    broker = subprocess.Popen([program, "-c", str(settings)], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection((HOST, port), 1.0).close()
                break
            except OSError:
                assert broker.poll() is None, "mosquitto has ended"
                assert time.monotonic() < deadline, "mosquitto does not accept"
                time.sleep(0.05)
        yield port
    finally:
        broker.terminate()
        broker.wait(20)
