"""The DNS server on real UDP and TCP sockets of loopback, for clients that we did not write."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Any

from lopower.dns.server import DnsServer


class Shim:
    """Carries messages between sockets and a server, as the bridge does between flows and it.

    Attributes:
        port: of UDP and TCP, on 127.0.0.1.
    """

    def __init__(self, server: DnsServer) -> None:
        self.port = 0
        self.server = server
        self.tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Shim:
        self._tcp = await asyncio.start_server(self._serve_tcp, "127.0.0.1", 0)
        self.port = self._tcp.sockets[0].getsockname()[1]
        self._transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: _Datagrams(self), local_addr=("127.0.0.1", self.port)
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._transport.close()
        self._tcp.close()
        await self.server.close()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                query = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
                answer = self.server.answer_now(query, "tcp", "tcp client", time.monotonic())
                if answer is None:
                    answer = await self.server.resolve(query, "tcp", "tcp client")
                writer.write(len(answer).to_bytes(2, "big") + answer)
        except (EOFError, ConnectionError):
            pass
        finally:
            writer.transport.abort()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, shim: Shim) -> None:
        self._shim = shim

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        answer = self._shim.server.answer_now(data, "udp", addr, time.monotonic())
        if answer:
            self._transport.sendto(answer, addr)
        elif answer is None:
            task = asyncio.get_running_loop().create_task(self._resolve(data, addr))
            self._shim.tasks.add(task)
            task.add_done_callback(self._shim.tasks.discard)

    async def _resolve(self, data: bytes, addr: tuple[Any, ...]) -> None:
        answer = await self._shim.server.resolve(data, "udp", addr)
        if not self._transport.is_closing():
            self._transport.sendto(answer, addr)
