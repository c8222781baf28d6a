"""The client of the control API: HTTP over a unix socket, here or through ssh, with the standard library alone."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

from lopower.control.errors import ControlError, DaemonNotRunningError, ProtocolError, SocketForbiddenError
from lopower.control.ssh import SshConnection, SshDestination
from lopower.control.stream import DeviceStream

API: Final = "/v1"
# The longest that a change of the registry, or a ping's default wait, takes by far.
TIMEOUT_SECONDS: Final = 30.0
_START_HINT: Final = (
    "start it with `lopower up`, or for good with `sudo lopower service install`; "
    "one with its own --state-dir or --socket is found with the same option"
)


class ControlClient:
    """Talks to one daemon. Every request is a connection of its own.

    Args:
        sockets: control sockets to try, in order; the first at which a daemon listens is used.
        timeout: seconds to wait for an answer, and between two items of a watch.
        remote: the daemon is on another host; `sockets` are not used then.
    """

    def __init__(
        self, sockets: Sequence[Path], timeout: float = TIMEOUT_SECONDS, *, remote: SshDestination | None = None
    ) -> None:
        self._sockets = list(sockets)
        self._timeout = timeout
        self._remote = remote

    def get(self, *path: str, **query: str) -> Any:
        """The JSON at a path.

        Raises:
            ControlError: the daemon refused, or could not be asked.
        """
        return self.request("GET", path, query=query)

    def request(
        self,
        method: str,
        path: Sequence[str],
        body: object = None,
        *,
        query: dict[str, str] | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Ask, and return the answer's JSON; `path` are its segments behind the version.

        Raises:
            ControlError: the daemon refused, or could not be asked.
        """
        connection, response = self._send(method, path, body, query, timeout or self._timeout)
        with closing(connection):
            return _answer(response)

    def watch(self, *path: str, interval: float, **query: str) -> Generator[Any, None, None]:
        """The JSON at a path, and again every `interval` seconds, until the daemon ends.

        Raises:
            ControlError: as `get`.
        """
        query["watch"] = f"{interval:g}"
        connection, response = self._send("GET", path, None, query, self._timeout + interval)
        with closing(connection):
            if response.status != 200:
                _answer(response)
            try:
                for line in response:
                    yield json.loads(line)
            except (http.client.HTTPException, OSError, ValueError) as error:
                raise ControlError(f"the daemon ended the connection: {error}") from None

    def stream(self, device: str, port: int, timeout: float | None = None) -> DeviceStream:
        """A connection to a TCP port of a device, from the gateway's address.

        Args:
            device: its name.
            timeout: seconds to wait for the device, and for each answer of its; None: the client's.

        Raises:
            ControlError: it does not come about; or the daemon could not be asked.
        """
        target = "/".join([API, "devices", quote(device, safe=""), "stream"]) + f"?port={port}"
        seconds = timeout or self._timeout
        connection = self._connect(seconds)
        try:
            connection.putrequest("POST", target)
            connection.putheader("Transfer-Encoding", "chunked")
            connection.endheaders()
            response = connection.getresponse()
        except (http.client.HTTPException, OSError) as error:
            raise _broken(connection, error, seconds) from None
        if response.status != 200:
            with closing(connection):
                _answer(response)
        return DeviceStream(connection, response)

    def _send(
        self, method: str, path: Sequence[str], body: object, query: dict[str, str] | None, timeout: float
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        target = "/".join([API, *(quote(segment, safe="") for segment in path)])
        if query:
            target += "?" + urlencode(query)
        content = None if body is None else json.dumps(body).encode()
        headers = {} if content is None else {"Content-Type": "application/json"}
        connection = self._connect(timeout)
        try:
            connection.request(method, target, content, headers)
            return connection, connection.getresponse()
        except (http.client.HTTPException, OSError) as error:
            raise _broken(connection, error, timeout) from None

    def _connect(self, timeout: float) -> http.client.HTTPConnection:
        if self._remote is not None:
            remote = SshConnection(self._remote, timeout)
            remote.connect()
            return remote
        connection = http.client.HTTPConnection("localhost", timeout=timeout)
        connection.sock = self.dial(timeout)
        return connection

    def dial(self, timeout: float | None) -> socket.socket:
        """A connection to the daemon's socket on this host.

        Raises:
            ControlError: there is none.
        """
        forbidden: Path | None = None
        for path in self._sockets:
            try:
                return _dial(path, timeout)
            except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
                continue
            except PermissionError:
                forbidden = forbidden or path
            except OSError as error:
                raise ControlError(f"the control socket {path} cannot be used: {error.strerror or error}") from None
        if forbidden is not None:
            raise SocketForbiddenError(
                f"you may not use the daemon's control socket {forbidden}", _join_hint(forbidden)
            )
        tried = " or ".join(map(str, self._sockets))
        raise DaemonNotRunningError(f"no lopower daemon is running: nobody listens at {tried}", _START_HINT)


def _dial(path: Path, timeout: float | None) -> socket.socket:
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connected.settimeout(timeout)
        connected.connect(str(path))
    except BaseException:
        connected.close()
        raise
    return connected


def _broken(connection: http.client.HTTPConnection, error: Exception, timeout: float) -> ControlError:
    """Close a connection that failed, and say why."""
    reason = None
    if isinstance(connection, SshConnection) and not isinstance(error, TimeoutError):
        reason = connection.failure()
    connection.close()
    if isinstance(error, TimeoutError):
        return ControlError(f"the daemon did not answer within {timeout:g} s", "see its log: journalctl -u lopower")
    return reason or ProtocolError(f"the connection to the daemon broke: {error}", "see its log")


def _answer(response: http.client.HTTPResponse) -> Any:
    try:
        content = response.read()
        answer = json.loads(content) if content else None
    except (http.client.HTTPException, OSError, ValueError):
        raise ProtocolError("what listens at the control socket is no lopower daemon") from None
    if response.status < 400:
        return answer
    if not isinstance(answer, dict) or not isinstance(answer.get("error"), str):
        raise ProtocolError("what listens at the control socket is no lopower daemon")
    raise ControlError(answer["error"], str(answer.get("hint") or ""), response.status)


def _join_hint(path: Path) -> str:
    """Which group may use the socket, as far as that can be seen."""
    import grp
    import os

    for place in (path, path.parent):
        try:
            status = os.stat(place)
        except OSError:
            continue
        if status.st_gid == 0 or not status.st_mode & 0o060:
            break
        try:
            group = grp.getgrgid(status.st_gid).gr_name
        except KeyError:
            break
        return f"join the group {group} (sudo usermod -aG {group} $USER, then log in again), or use sudo"
    return "use sudo, or have its administrator set control_group"
