"""The control API's server: HTTP on a unix socket.

Who may connect, decides the file system: the socket's owner, its group and its mode. Whoever connects may do
everything, so changes are logged with the process and user that asked (SO_PEERCRED). Paths begin with the version,
every error is `{"error": …, "hint": …}`, and `?watch=SECONDS` on a GET repeats the answer, one line of JSON each.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import grp
import json
import logging
import os
import pwd
import socket
import stat
import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from lopower.daemon import streams
from lopower.daemon.endpoints import NoEndpointError
from lopower.daemon.errors import OperationError
from lopower.daemon.operations import Operations
from lopower.daemon.requests import (
    Fields,
    RequestError,
    parse_device,
    parse_exposure,
    parse_format,
    parse_protocol,
    parse_served,
)
from lopower.daemon.settings import SettingsError
from lopower.devices import errors
from lopower.devices.advertising import Advertisement, Zone
from lopower.devices.csv_import import MAX_BYTES, parse_csv
from lopower.devices.keys import parse_key
from lopower.devices.policy import parse_rules
from lopower.http1.messages import Handler, HttpError, Request, Response, Routes, json_response
from lopower.http1.server import Server

log = logging.getLogger(__name__)

# A CSV file of the largest size that is read. Whoever may send one may do anything here: this is against accidents.
MAX_REQUEST_BYTES: Final = MAX_BYTES + (1 << 20)
MIN_WATCH_SECONDS: Final = 0.1
MAX_WATCH_SECONDS: Final = 3600.0
_BACKLOG: Final = 64
# Connections that are open when the daemon ends get this long; a watch is cancelled at once.
SHUTDOWN_SECONDS: Final = 1.0
_SO_PEERCRED: Final = getattr(socket, "SO_PEERCRED", None)

_STATUS_OF: Final = (
    (errors.DeviceNotFound, 404),
    (errors.PortNotServed, 404),
    (errors.NotExposed, 404),
    (errors.PlaceTaken, 409),
    (errors.NameTaken, 409),
    (errors.KeyTaken, 409),
    (errors.AddressTaken, 409),
    (errors.AddressesExhausted, 409),
    (errors.DevicesStranded, 409),
    (errors.DatabaseError, 503),
    (errors.RegistryError, 400),
    (RequestError, 400),
    (SettingsError, 400),
    (OperationError, 409),
    (NoEndpointError, 409),
)


class ControlSocketError(Exception):
    """The control socket cannot be made; the text says why and what to do."""


class ControlServer:
    """Serves operations on a unix socket.

    Args:
        operations: what can be asked.
        path: the socket; its directory exists.
        mode: its rights, such as 0o600.
        group: the group it belongs to; None: the process's.
    """

    def __init__(self, operations: Operations, *, path: Path, mode: int, group: str | None) -> None:
        self._operations = operations
        self._path = path
        self._mode = mode
        self._group = group
        self._http: Server | None = None
        self._listener: asyncio.Server | None = None
        self._watches: set[asyncio.Task[Any]] = set()
        self._inode: tuple[int, int] | None = None

    async def start(self) -> None:
        """Listen.

        Raises:
            ControlSocketError: another process listens there, or the socket cannot be made as it should be.
        """
        listening = _listen(self._path, self._mode, self._group)
        status = os.stat(self._path)
        self._inode = (status.st_dev, status.st_ino)
        loop = asyncio.get_running_loop()
        self._http = Server(_told(self._routes()), loop, refuse=_refuse, max_body=MAX_REQUEST_BYTES)
        self._listener = await loop.create_server(self._http, sock=listening, backlog=_BACKLOG)

    async def close(self) -> None:
        """Listen no longer, end what is under way, and remove the socket. Harmless when it has not started."""
        if self._http is None or self._listener is None:
            return
        self._listener.close()
        for watch in self._watches:
            watch.cancel()
        await self._http.close(SHUTDOWN_SECONDS)
        self._http = self._listener = None
        with contextlib.suppress(OSError):
            status = os.stat(self._path)
            if (status.st_dev, status.st_ino) == self._inode:  # not another daemon's, which replaced ours
                self._path.unlink()

    def _routes(self) -> Routes:
        return Routes(
            ("GET", "/v1/status", self._status),
            ("GET", "/v1/server", self._server),
            ("GET", "/v1/doctor", self._doctor),
            ("POST", "/v1/reload", self._reload),
            ("GET", "/v1/devices", self._devices),
            ("POST", "/v1/devices", self._add_devices),
            ("GET", "/v1/devices/{name}", self._device),
            ("PATCH", "/v1/devices/{name}", self._change_device),
            ("DELETE", "/v1/devices/{name}", self._remove_device),
            ("POST", "/v1/devices/{name}/configuration", self._configuration),
            ("POST", "/v1/devices/{name}/rules", self._change_rules),
            ("POST", "/v1/devices/{name}/reset-clock", self._reset_clock),
            ("POST", "/v1/devices/{name}/ping", self._ping),
            ("POST", "/v1/devices/{name}/stream", self._stream),
            ("POST", "/v1/tailnet/login", self._login),
            ("POST", "/v1/tailnet/logout", self._logout),
            ("GET", "/v1/advertised", self._advertised),
            ("POST", "/v1/advertised", self._advertise),
            ("DELETE", "/v1/advertised", self._withdraw),
            ("GET", "/v1/exposures", self._exposures),
            ("POST", "/v1/exposures", self._expose),
            ("DELETE", "/v1/exposures/{name}", self._unexpose),
            ("GET", "/v1/served", self._served),
            ("POST", "/v1/served", self._serve),
            ("DELETE", "/v1/served/{protocol}/{port}", self._unserve),
        )

    # Reading.

    async def _status(self, request: Request) -> Response | None:
        return await self._answer(request, self._operations.status)

    async def _server(self, request: Request) -> Response | None:
        return await self._answer(request, self._operations.server)

    async def _doctor(self, request: Request) -> Response | None:
        return json_response({"checks": await self._operations.doctor()})

    async def _devices(self, request: Request) -> Response | None:
        return await self._answer(request, lambda: {"devices": self._operations.devices()})

    async def _device(self, request: Request) -> Response | None:
        name = request.parameters["name"]
        return await self._answer(request, lambda: self._operations.device(name))

    async def _served(self, request: Request) -> Response | None:
        return await self._answer(request, lambda: {"served": self._operations.served()})

    async def _advertised(self, request: Request) -> Response | None:
        return await self._answer(request, self._operations.advertising.document)

    async def _exposures(self, request: Request) -> Response | None:
        return await self._answer(request, lambda: {"exposures": self._operations.exposing.exposures()})

    # Changes.

    async def _add_devices(self, request: Request) -> Response | None:
        fields = Fields(await _body(request), "the request")
        form = parse_format(fields.take("format", str, "conf"))
        qr = fields.take("qr", bool, False)
        table = fields.take("csv", str)
        bodies = fields.take("devices", object, [])
        fields.end()
        if not isinstance(bodies, list) or (table is None) == (not bodies):
            raise RequestError("the request must have either 'devices', a list that is not empty, or 'csv', a text")
        # A long list takes seconds, and packets do not wait for it.
        requests = await asyncio.to_thread(
            lambda: list(map(parse_device, bodies)) if table is None else parse_csv(table)
        )
        added = await self._operations.add_devices(requests, form, qr)
        _log_change(request, f"added {', '.join(entry['name'] for entry in added)}")
        return json_response({"devices": added}, status=201)

    async def _change_device(self, request: Request) -> Response | None:
        name = request.parameters["name"]
        fields = Fields(await _body(request), "the request")
        enabled = fields.take("enabled", bool)
        new_name = fields.take("name", str)
        public_key = fields.take("public_key", str)
        fields.end()
        if [enabled, new_name, public_key].count(None) != 2:
            raise RequestError("the request must have one of 'enabled', 'name' and 'public_key'")
        if public_key is not None:
            document = await self._operations.replace_key(name, parse_key(public_key))
            _log_change(request, f"replaced the key of {document['name']}")
        elif enabled is not None:
            document = await self._operations.set_enabled(name, enabled)
            _log_change(request, f"{'enabled' if enabled else 'disabled'} {document['name']}")
        else:
            document = await self._operations.rename_device(name, new_name)
            _log_change(request, f"renamed {name} to {document['name']}")
        return json_response(document)

    async def _remove_device(self, request: Request) -> Response | None:
        document = await self._operations.remove_device(request.parameters["name"])
        _log_change(request, f"removed {document['name']}")
        return json_response(document)

    async def _configuration(self, request: Request) -> Response | None:
        fields = Fields(await _body(request), "the request")
        form = parse_format(fields.take("format", str, "conf"))
        given: bool = fields.take("given", bool, True)
        fields.end()
        document = await self._operations.configuration(request.parameters["name"], form, given)
        _log_change(request, f"took the configuration of {document['name']}")
        return json_response(document)

    async def _change_rules(self, request: Request) -> Response | None:
        fields = Fields(await _body(request), "the request")
        add = parse_rules(fields.take("add", list, []))
        remove = parse_rules(fields.take("remove", list, []))
        fields.end()
        document = await self._operations.change_rules(request.parameters["name"], add, remove)
        _log_change(request, f"set the rules of {document['name']}: {'; '.join(document['rules']) or 'none'}")
        return json_response(document)

    async def _reset_clock(self, request: Request) -> Response | None:
        document = await self._operations.reset_clock(request.parameters["name"])
        _log_change(request, f"reset the clock of {document['name']}")
        return json_response(document)

    async def _ping(self, request: Request) -> Response | None:
        fields = Fields(await _body(request), "the request")
        count: int = fields.take("count", int, 1)
        interval: float = fields.take("interval", float, 1.0)
        timeout: float = fields.take("timeout", float, 5.0)
        fields.end()
        replies = await self._operations.ping(request.parameters["name"], count, interval, timeout)
        return json_response({"replies": replies})

    async def _stream(self, request: Request) -> Response | None:
        """A TCP connection to a device: the request's body goes there, the answer's comes from there, both at once."""
        name, port = request.parameters["name"], _port(request.query.get("port", ""))
        with await self._operations.call(name, port) as device:
            _log_change(request, f"opened a connection to port {port} of {name}")
            write = await request.begin("application/octet-stream")
            await streams.join(request.chunks(), write, device)
            return None

    async def _login(self, request: Request) -> Response | None:
        fields = Fields(await _body(request), "the request")
        auth_key: str = fields.take("auth_key", str, "")
        device: str | None = fields.take("device", str)
        fields.end()
        whose = "" if device is None else f" of {device}"
        if device is None:
            document = await self._operations.login(auth_key)
        else:
            document = await self._operations.exposing.login(device, auth_key)
        _log_change(request, f"logs the node{whose} in to the tailnet {'with a key' if auth_key else 'by URL'}")
        return json_response(document)

    async def _logout(self, request: Request) -> Response | None:
        document = await self._operations.logout()
        _log_change(request, "logged out of the tailnet")
        return json_response(document)

    async def _advertise(self, request: Request) -> Response | None:
        fields = Fields(await _body(request), "the request")
        site: int | None = fields.take("site", int)
        shared: bool = fields.take("shared", bool, False)
        domain: str | None = fields.take("zone", str)
        fields.end()
        zone = None if domain is None else Zone.parse(domain)
        document = await self._operations.advertising.advertise(Advertisement(site), shared=shared, zone=zone)
        names = f", and names under {zone}" if zone is not None else ""
        _log_change(request, f"advertises {', '.join(entry['route'] for entry in document['routes'])}{names}")
        return json_response(document)

    async def _withdraw(self, request: Request) -> Response | None:
        part = request.query.get("part")
        if set(request.query) - {"part"} or part not in (None, "zone"):
            raise RequestError("the only query parameter is part=zone: the routes stay")
        document = await self._operations.advertising.withdraw(names_only=part == "zone")
        _log_change(request, "advertises no names any more" if part else "advertises nothing any more")
        return json_response(document)

    async def _expose(self, request: Request) -> Response | None:
        name, exposure = parse_exposure(await _body(request))
        document = await self._operations.exposing.expose(name, exposure)
        _log_change(request, f"exposed {name} ({document['place']}) to the tailnet")
        return json_response(document)

    async def _unexpose(self, request: Request) -> Response | None:
        name = request.parameters["name"]
        unknown = set(request.query) - {"place"}
        if unknown:
            raise RequestError(f"there is no query parameter {sorted(unknown)[0]!r}; there is: place")
        documents = await self._operations.exposing.unexpose(name, request.query.get("place"))
        _log_change(request, f"exposes {name} no longer ({', '.join(entry['place'] for entry in documents)})")
        return json_response({"exposures": documents})

    async def _serve(self, request: Request) -> Response | None:
        document = await self._operations.serve(parse_served(await _body(request)))
        _log_change(request, f"serves {document['protocol']} port {document['port']} from {document['target']}")
        return json_response(document)

    async def _unserve(self, request: Request) -> Response | None:
        protocol = parse_protocol(request.parameters["protocol"])
        document = await self._operations.unserve(protocol, _port(request.parameters["port"]))
        _log_change(request, f"serves {document['protocol']} port {document['port']} no longer")
        return json_response(document)

    async def _reload(self, request: Request) -> Response | None:
        document = self._operations.reload()
        _log_change(request, "reloaded the settings")
        return json_response(document)

    async def _answer(self, request: Request, read: Callable[[], object]) -> Response | None:
        """What `read` returns, once, or again and again."""
        seconds = _watch_seconds(request)
        document = read()
        if seconds is None:
            return json_response(document)
        write = await request.begin("application/x-ndjson")
        task = asyncio.current_task()
        assert task is not None
        self._watches.add(task)
        try:
            while True:
                await write(json.dumps(document).encode() + b"\n")
                await asyncio.sleep(seconds)
                document = read()
        except (ConnectionError, errors.DeviceNotFound):
            return None  # the client went away, or the device did
        finally:
            self._watches.discard(task)


def _told(handler: Handler) -> Handler:
    """The handler, with what went wrong as the error that its client gets."""

    async def answer(request: Request) -> Response | None:
        try:
            return await handler(request)
        except HttpError as error:
            raise HttpError(error.status, f"{error}: {request.method} {request.path[:200]}", error.headers) from None
        except tuple(kind for kind, _ in _STATUS_OF) as error:
            status = next(code for kind, code in _STATUS_OF if isinstance(error, kind))
            return _refusal(str(error), getattr(error, "hint", ""), status)

    return answer


def _refuse(error: HttpError) -> Response:
    if error.status == 500:
        return _refusal("the daemon made an error of its own", "its log has the details; please report them", 500)
    hint = "docs/control-api.md lists what can be asked" if error.status in (404, 405) else ""
    return _refusal(str(error), hint, error.status, error.headers)


def _refusal(message: str, hint: str, status: int, headers: Mapping[str, str] | None = None) -> Response:
    answer = json_response({"error": message, "hint": hint}, status)
    return answer if not headers else replace(answer, headers=headers)


async def _body(request: Request) -> object:
    content = await request.read()
    if not content:
        return {}
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise RequestError("the request's body is not JSON") from None


def _watch_seconds(request: Request) -> float | None:
    unknown = set(request.query) - {"watch"}
    if unknown:
        raise RequestError(f"there is no query parameter {sorted(unknown)[0]!r}; there is: watch")
    text = request.query.get("watch")
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not MIN_WATCH_SECONDS <= seconds <= MAX_WATCH_SECONDS:
        raise RequestError(f"watch={text}: seconds from {MIN_WATCH_SECONDS} to {MAX_WATCH_SECONDS:g}")
    return seconds


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 6 and 0 < int(text) < 65536):
        raise RequestError(f"{text[:20]!r} is not a port; ports are 1 to 65535")
    return int(text)


def _log_change(request: Request, what: str) -> None:
    log.info("%s %s", _peer(request), what)


def _peer(request: Request) -> str:
    """Who asked: user and process at the other end of the socket."""
    connected = request.transport.get_extra_info("socket")
    if connected is None or _SO_PEERCRED is None:
        return "somebody"
    try:
        process, user, _ = struct.unpack("=iII", connected.getsockopt(socket.SOL_SOCKET, _SO_PEERCRED, 12))
    except OSError:
        return "somebody"
    try:
        name = pwd.getpwuid(user).pw_name
    except KeyError:
        name = str(user)
    return f"user {name} (process {process})"


def _listen(path: Path, mode: int, group: str | None) -> socket.socket:
    """A listening socket with its rights set before anybody can connect."""
    try:
        _remove_stale(path)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError as error:
        raise ControlSocketError(f"the control socket {path} cannot be made: {error.strerror}") from None
    try:
        # bind() takes the rights from the umask; nobody but us may connect until owner and mode are final.
        previous = os.umask(0o177)
        try:
            listening.bind(str(path))
        finally:
            os.umask(previous)
        if group is not None:
            _give_to_group(path, group)
        os.chmod(path, mode)
        listening.listen(_BACKLOG)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        hint = (
            "; choose another place with --socket" if error.errno in (errno.EACCES, errno.EROFS, errno.ENOENT) else ""
        )
        raise ControlSocketError(f"the control socket {path} cannot be made: {error.strerror or error}{hint}") from None
    except ControlSocketError:
        listening.close()
        path.unlink(missing_ok=True)
        raise
    return listening


def _remove_stale(path: Path) -> None:
    """Remove a socket that a daemon left behind when it was killed."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ControlSocketError(f"{path} is in the way: it is no socket; remove it, or choose another with --socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except OSError:
            pass
    raise ControlSocketError(f"another daemon listens at {path}; stop it, or choose another place with --socket")


def _give_to_group(path: Path, group: str) -> None:
    try:
        number = grp.getgrnam(group).gr_gid
    except KeyError:
        raise ControlSocketError(
            f"there is no group {group!r} (setting control_group); make it with: sudo groupadd --system {group}"
        ) from None
    try:
        os.chown(path, -1, number)
    except PermissionError:
        raise ControlSocketError(
            f"the control socket cannot be given to the group {group!r} (setting control_group): "
            "the daemon's user is not a member of it"
        ) from None
