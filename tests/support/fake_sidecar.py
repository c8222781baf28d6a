"""A sidecar without a tailnet, as a process: speaks docs/sidecar-protocol.md, and fails the way a test asks for.

What a flow meets is in its port: TCP to 1000 + code is answered with that reply code, to 2000 it gets no reply, to 3000
the flow is reset after its first bytes, to any other it is echoed. UDP to 1000 + code is refused with it, to 2000 +
code every datagram is answered by a notice with that code, to 3000 the flow ends, to any other it is echoed.

`faults` is a word: `protocol` (another number), `no-hello`, `garbage`, `arguments` (exit code 2), `directory` (3).
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from aiohttp import web

from lopower.wire.proxy_protocol import FIXED_LENGTH, ProxyHeader, header_length

SUFFIX = "tail.example"


def write_program(directory: Path, faults: str = "") -> Path:
    """A program to be started in the place of the sidecar."""
    program = directory / "lopower-sidecar"
    root = Path(__file__).parents[2]
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path[:0] = [{str(root)!r}, {str(root / 'host')!r}]\n"
        f"from tests.support.fake_sidecar import main\nmain({faults!r})\n"
    )
    program.chmod(0o755)
    return program


def main(faults: str) -> None:
    """The process."""
    log(f"pid {os.getpid()}", level="DEBUG")
    if faults == "arguments":
        log("bad arguments", level="ERROR")
        sys.exit(2)
    if faults == "directory":
        log("the state directory is another's", level="ERROR")
        sys.exit(3)
    if faults == "no-hello":
        sys.stdin.read()
        sys.exit(0)
    if faults == "garbage":
        print("usage: something else", flush=True)
        sys.exit(0)
    arguments = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    asyncio.run(FakeSidecar(Path(arguments["--sockets"]), Path(arguments["--state"]), faults).run())


def log(message: str, **fields: str) -> None:
    """One line of the log."""
    print(json.dumps({"time": "2026-01-01T00:00:00Z", "level": "INFO", "msg": message, **fields}), file=sys.stderr)


class FakeSidecar:
    """The sockets."""

    def __init__(self, sockets: Path, state: Path, faults: str) -> None:
        self._sockets = sockets
        self._state = state
        self._faults = faults
        self._nodes: dict[str, dict[str, Any]] = {}
        self._configs: dict[str, dict[str, Any]] = {}
        self._news = asyncio.Condition()

    async def run(self) -> None:
        application = web.Application()
        application.add_routes(
            [
                web.get("/", self._hello),
                web.put("/nodes/{name}", self._put),
                web.post("/nodes/{name}/login", self._login),
                web.post("/nodes/{name}/logout", self._logout),
                web.delete("/nodes/{name}", self._delete),
                web.post("/nodes/{name}/ping", self._ping),
                web.get("/nodes/{name}/peers", self._peers),
                web.post("/nodes/{name}/status", self._patch),
                web.get("/nodes/{name}/configuration", self._configuration),
                web.get("/events", self._events),
            ]
        )
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        await web.UnixSite(runner, str(self._sockets / "control")).start()
        for name, handler in (("socks", self._socks), ("udp", self._udp), ("dns", self._dns)):
            await asyncio.start_unix_server(handler, str(self._sockets / name))
        number = 7 if self._faults == "protocol" else 1
        print(json.dumps({"protocol": number, "version": "0", "tailscale": "0", "pid": os.getpid()}), flush=True)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, sys.stdin.read)
        os._exit(0)

    # Control.

    async def _hello(self, request: web.Request) -> web.Response:
        return web.json_response({"protocol": 1, "version": "0", "tailscale": "0", "pid": os.getpid()})

    async def _put(self, request: web.Request) -> web.Response:
        name, config = request.match_info["name"], await request.json()
        (self._state / name).mkdir(parents=True, exist_ok=True)
        self._configs[name] = config
        status = self._nodes.get(name) or new_status(name, "needs-login")
        status = {**status, "hostname": config["hostname"], "routes_advertised": config["advertise_routes"]}
        identity = self._state / name / "identity"
        if identity.exists():
            status.update(new_status(name, "running"))
        elif "auth_key" in config:
            status.update(self._with_key(name, config["auth_key"]))
        else:
            status["login_url"] = "https://login.example/a/1"
        await self._set(name, status)
        return web.json_response(self._nodes[name])

    def _with_key(self, name: str, key: str) -> dict[str, Any]:
        if key != "good":
            return {"error": "invalid authkey"}
        (self._state / name / "identity").touch()
        return new_status(name, "running")

    async def _login(self, request: web.Request) -> web.Response:
        name, body = request.match_info["name"], await request.json()
        change = (
            self._with_key(name, body["auth_key"]) if "auth_key" in body else {"login_url": "https://login.example/a/2"}
        )
        await self._set(name, {**self._nodes[name], **change})
        return web.json_response({}, status=202)

    async def _logout(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        (self._state / name / "identity").unlink(missing_ok=True)
        await self._set(name, new_status(name, "needs-login"))
        return web.json_response({})

    async def _delete(self, request: web.Request) -> web.Response:
        self._nodes.pop(request.match_info["name"], None)
        async with self._news:
            self._news.notify_all()
        return web.json_response({})

    async def _ping(self, request: web.Request) -> web.Response:
        address = (await request.json())["address"]
        if address.endswith(".6"):
            return web.json_response({"seconds": None, "error": "timeout"})
        if address.endswith(".5"):
            return web.json_response({"error": "no such thing", "code": "failed"}, status=500)
        return web.json_response({"seconds": 0.001})

    async def _peers(self, request: web.Request) -> web.Response:
        return web.json_response({"peers": [{"name": "phone"}, {"name": "office", "routes": ["10.90.0.0/16"]}]})

    async def _patch(self, request: web.Request) -> web.Response:
        """For tests: change what the node says of itself."""
        name = request.match_info["name"]
        await self._set(name, {**self._nodes[name], **await request.json()})
        return web.json_response({})

    async def _configuration(self, request: web.Request) -> web.Response:
        """For tests: what the daemon asked for."""
        return web.json_response(self._configs[request.match_info["name"]])

    async def _set(self, name: str, status: dict[str, Any]) -> None:
        hostname = self._configs[name]["hostname"]
        if status["state"] == "running" and status["dns_name"] == f"lopower.{SUFFIX}.":
            status = {**status, "hostname": hostname, "dns_name": f"{hostname}.{SUFFIX}."}
        async with self._news:
            self._nodes[name] = status
            self._news.notify_all()

    async def _events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        told: dict[str, dict[str, Any]] = {}
        ready = False
        while True:
            for name, status in self._nodes.items():
                if told.get(name) != status:
                    told[name] = status
                    await response.write(json.dumps({"event": "node", "node": status}).encode() + b"\n")
            for name in set(told) - set(self._nodes):
                del told[name]
                await response.write(json.dumps({"event": "removed", "name": name}).encode() + b"\n")
            if not ready:
                ready = True
                await response.write(b'{"event": "ready"}\n\n')
            async with self._news:
                await self._news.wait()

    # Flows.

    async def _socks(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(3) == b"\x05\x01\x02"
        node = await reader.readexactly((await reader.readexactly(2))[1])
        await reader.readexactly((await reader.readexactly(1))[0])
        if node.decode() not in self._nodes:
            writer.write(b"\x05\x02\x01\x01")
            writer.close()
            return
        head = await reader.readexactly(4)
        await reader.readexactly(4 if head[3] == 1 else 16)
        port = int.from_bytes(await reader.readexactly(2), "big")
        if port == 2000:
            await reader.read()
            writer.close()
            return
        code = port - 1000 if 1000 < port < 1010 else 0
        for part in (b"\x05", b"\x02\x01\x00\x05", bytes((code, 0, 1, 0, 0, 0, 0, 0, 0))):
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        if code:
            writer.close()
            return
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
            if port == 3000:
                writer.close()
                return
        writer.write_eof()
        await asyncio.sleep(0.01)
        writer.close()

    async def _udp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.readexactly(FIXED_LENGTH)
        size = header_length(data)
        assert size is not None
        header = ProxyHeader.parse(data + await reader.readexactly(size - FIXED_LENGTH))
        assert header.transport == "udp"
        assert (header.value(0xE0) or b"").decode() in self._nodes
        port = header.destination_port
        if 1000 < port < 1010:
            writer.write(bytes((port - 1000,)))
            writer.close()
            return
        writer.write(b"\x00")
        while True:
            try:
                length = await reader.readexactly(2)
                payload = await reader.readexactly(int.from_bytes(length, "big"))
            except asyncio.IncompleteReadError:
                writer.close()
                return
            if 2000 < port < 2010:
                writer.write(bytes((0xFF, 0xFF, port - 2000)))
            elif port == 3000:
                writer.close()
                return
            else:
                writer.write(length + payload)
            await writer.drain()

    async def _dns(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def read() -> bytes:
            return await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))

        assert (await read()).decode() in self._nodes
        while True:
            try:
                question = await read()
            except asyncio.IncompleteReadError:
                writer.close()
                return
            if b"silent" in question:
                continue
            if b"hangup" in question:
                writer.close()
                return
            code = 5 if b"foreign" in question else 0
            answer = question[:2] + bytes((0x84, code)) + question[4:]
            writer.write(len(answer).to_bytes(2, "big") + answer)
            await writer.drain()


def new_status(name: str, state: str) -> dict[str, Any]:
    """A node's status as the protocol has it."""
    running = state == "running"
    return {
        "name": name,
        "state": state,
        "login_url": None,
        "error": None,
        "health": [],
        "hostname": name,
        "dns_name": f"lopower.{SUFFIX}." if running else "",
        "tailnet": "example.org",
        "magic_dns_suffix": SUFFIX if running else "",
        "addresses": ["100.64.0.3", "fd7a:115c:a1e0::3"] if running else [],
        "tags": [],
        "user": "a@example.org",
        "key_expiry": None,
        "routes_advertised": [],
        "routes_approved": [],
        "routes_accepted": ["192.168.7.0/24"] if running else [],
        "exit_node": None,
        "peers": 2,
        "dns": {"magic": True, "search": [SUFFIX], "resolvers": [], "routes": {SUFFIX: []}},
    }
