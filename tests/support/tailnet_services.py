"""What a machine of the real test tailnet serves, and a client for the same, as a program for a network namespace.

    serve NAME                     until it is ended; prints "ready"
    exchange HOST PORT TEXT        TCP: sends it and FIN, prints what came back until the other's FIN
    datagram HOST PORT TEXT        UDP: sends it, thrice at most, prints the answer, or why there is none
    upload HOST BYTES              to port 9; prints both hashes
    download HOST BYTES            from port 19; prints number and hash
    trickle HOST SECONDS           port 7, in small pieces; prints how many came back, and how it ended

An error is printed by its name.

Ports: 7 (TCP, UDP) gives back what comes; 9 takes all until FIN and says its SHA-256; 19 is told "N\\n" and sends N
bytes; 53 (UDP) answers every A with 192.0.2.53; 80 says the machine's name, and at /address the client's address.
"""

from __future__ import annotations

import errno
import hashlib
import json
import socket
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from dnslib import QTYPE, RR, A, DNSRecord

ECHO, HASH, SOURCE, DNS, HTTP = 7, 9, 19, 53, 80
ANSWER = "192.0.2.53"
PIECE = bytes(range(256)) * 1024
SECONDS = 15.0  # longer than the proxy waits for a dial


def echo(connection: socket.socket) -> None:
    while data := connection.recv(1 << 18):
        connection.sendall(data)


def digest(connection: socket.socket) -> None:
    connection.sendall(_receive(connection)[1].encode())


def source(connection: socket.socket) -> None:
    wanted = int(connection.makefile("rb").readline())
    for position in range(0, wanted, len(PIECE)):
        connection.sendall(PIECE[: wanted - position])


def answer_dns(message: bytes) -> bytes:
    question = DNSRecord.parse(message)
    reply = question.reply()
    if question.q.qtype == QTYPE.A:
        reply.add_answer(RR(question.q.qname, QTYPE.A, rdata=A(ANSWER), ttl=5))
    return bytes(reply.pack())


def serve(name: str) -> None:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = (self.client_address[0] if self.path == "/address" else name).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6

    for port, handler in ((ECHO, echo), (HASH, digest), (SOURCE, source)):
        listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64)
        threading.Thread(target=_accept, args=(listener, handler), daemon=True).start()
    for port, answer in ((ECHO, bytes), (DNS, answer_dns)):
        # One socket an address would be needed to answer from it: without it an answer leaves from the device's first.
        flow = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        flow.bind(("::", port))
        threading.Thread(target=_answer, args=(flow, answer), daemon=True).start()
    server = Server(("::", HTTP), Page)
    print("ready", flush=True)
    server.serve_forever()


def _accept(listener: socket.socket, handler: Callable[[socket.socket], None]) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_handle, args=(connection, handler), daemon=True).start()


def _handle(connection: socket.socket, handler: Callable[[socket.socket], None]) -> None:
    with connection:
        try:
            handler(connection)
        except (OSError, ValueError):
            pass  # whoever asked has gone


def _answer(flow: socket.socket, answer: Callable[[bytes], bytes]) -> None:
    while True:
        try:
            data, whence = flow.recvfrom(1 << 16)
            flow.sendto(answer(data), whence)
        except OSError:
            continue  # a port unreachable that came back


def exchange(host: str, port: str, text: str) -> str:
    with socket.create_connection((host, int(port)), SECONDS) as connection:
        connection.sendall(text.encode())
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(1 << 16), b"")).decode()


def datagram(host: str, port: str, text: str) -> str:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as flow:
        flow.connect((host, int(port)))
        flow.settimeout(SECONDS / 3)
        said = ""
        for _ in range(3):  # a datagram, or the ICMP error about it, may be lost
            flow.send(text.encode())
            try:
                return flow.recv(1 << 16).decode()
            except OSError as exc:
                said = outcome(exc)
                if said != "SILENCE":
                    break
        return said


def outcome(exc: OSError) -> str:
    """The error's name, such as ECONNREFUSED; SILENCE if nothing came in SECONDS."""
    return (
        "SILENCE"
        if isinstance(exc, TimeoutError) and exc.errno is None
        else errno.errorcode.get(exc.errno or 0, str(exc))
    )


def upload(host: str, count: str) -> str:
    sent = hashlib.sha256()
    with socket.create_connection((host, HASH), SECONDS) as connection:
        connection.settimeout(60)
        for position in range(0, int(count), len(PIECE)):
            piece = PIECE[: int(count) - position]
            connection.sendall(piece)
            sent.update(piece)
        connection.shutdown(socket.SHUT_WR)
        received = b"".join(iter(lambda: connection.recv(1 << 16), b"")).decode()
    return json.dumps({"sent": sent.hexdigest(), "received": received})


def download(host: str, count: str) -> str:
    with socket.create_connection((host, SOURCE), SECONDS) as connection:
        connection.settimeout(60)
        connection.sendall(f"{count}\n".encode())
        number, received = _receive(connection)
    return json.dumps({"bytes": number, "received": received})


def expected(count: int) -> str:
    """The hash of what port 19 sends."""
    digest, whole = hashlib.sha256(), count // len(PIECE)
    for _ in range(whole):
        digest.update(PIECE)
    digest.update(PIECE[: count % len(PIECE)])
    return digest.hexdigest()


def trickle(host: str, seconds: str) -> str:
    ended, rounds, pause = "in order", 0, 0.0
    try:
        with socket.create_connection((host, ECHO), SECONDS) as connection:
            connection.settimeout(60)
            print("ready", flush=True)
            until = time.monotonic() + float(seconds)
            while time.monotonic() < until:
                began = time.monotonic()
                connection.sendall(b"x" * 1000)
                missing = 1000
                while missing:
                    data = connection.recv(missing)
                    if not data:
                        raise OSError(errno.ECONNRESET, "the other side ended")
                    missing -= len(data)
                rounds += 1
                pause = max(pause, time.monotonic() - began)
                time.sleep(0.02)
    except OSError as exc:
        ended = outcome(exc)
    return json.dumps({"rounds": rounds, "ended": ended, "longest_pause": pause})


def _receive(connection: socket.socket) -> tuple[int, str]:
    total, digest, buffer = 0, hashlib.sha256(), memoryview(bytearray(1 << 18))
    while count := connection.recv_into(buffer):
        digest.update(buffer[:count])
        total += count
    return total, digest.hexdigest()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        work: dict[str, Callable[..., str]] = {
            "exchange": exchange, "datagram": datagram, "upload": upload, "download": download, "trickle": trickle,
        }  # fmt: skip
        try:
            print(work[sys.argv[1]](*sys.argv[2:]))
        except OSError as exc:
            print(outcome(exc))
