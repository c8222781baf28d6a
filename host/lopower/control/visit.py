"""A visit to a board through the tunnel: lines of JSON both ways, as docs/updates.md has them.

The board is hostile: what it says is bounded, and believed only in what concerns itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final

from lopower.control.client import ControlClient
from lopower.control.errors import ControlError
from lopower.control.stream import DeviceStream

PORT: Final = 9909
ANSWER_SECONDS: Final = 60.0
"""The longest that a board takes for one answer by far: to remove a set of files from a slow flash."""
FILES_UNDER_WAY: Final = 4
MAX_LINE: Final = 4096
MAX_LOG_LINES: Final = 200


class Visit:
    """One connection to the board of a device; a context manager that ends it.

    Raises ControlError if the daemon or the board cannot be reached.
    """

    def __init__(self, client: ControlClient, name: str) -> None:
        self._name = name
        self._stream = client.stream(name, PORT, ANSWER_SECONDS)
        self._received = bytearray()

    def __enter__(self) -> Visit:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stream.close()

    def ask(self, what: str, **members: Any) -> dict[str, Any]:
        """A request and its answer. Raises ControlError for a refusal, and if the connection breaks."""
        self._send(what, members)
        return self._answer()

    def facts(self) -> dict[str, Any]:
        """What the board says of itself. Raises as `ask`."""
        return self.ask("facts")

    def send_files(self, files: Mapping[str, bytes], progress: Callable[[float], None]) -> None:
        """Files of an update, each of them checked there; some are under way while the first is. Raises as `ask`."""
        total = sum(map(len, files.values())) or 1
        done = under_way = 0
        for path, content in files.items():
            digest = hashlib.sha256(content).hexdigest()
            try:
                self._send("file", {"path": path, "size": len(content), "sha256": digest})
                self._stream.send(content)
            except ControlError:
                while True:
                    self._answer()  # a board that refuses says so before it hangs up
            done += len(content)
            under_way += 1
            if under_way == FILES_UNDER_WAY:
                self._answer()
                under_way -= 1
            progress(done / total)
        for _ in range(under_way):
            self._answer()

    def log(self) -> list[tuple[int, int, str]]:
        """The board's log, the oldest first: seconds since 1970, or 0; milliseconds since its start; what happened."""
        self._send("log", {})
        entries: list[tuple[int, int, str]] = []
        for _ in range(MAX_LOG_LINES):
            try:
                entry = json.loads(self._text())
            except (ValueError, RecursionError):
                continue  # what a power cut left of one
            if isinstance(entry, dict):
                self._check(entry)
                return entries
            if isinstance(entry, list) and [type(member) for member in entry] == [int, int, str]:
                entries.append((entry[0], entry[1], entry[2]))
        raise self._strange()

    def open_console(self) -> tuple[DeviceStream, bytes]:
        """The board's REPL from here on, and what it has said already. Raises as `ask`."""
        self.ask("repl")
        return self._stream, bytes(self._received)

    def _send(self, what: str, members: dict[str, Any]) -> None:
        self._stream.send(json.dumps({"do": what, **members}).encode() + b"\n")

    def _answer(self) -> dict[str, Any]:
        answer = self._line()
        if not isinstance(answer, dict):
            raise self._strange()
        self._check(answer)
        return answer

    def _check(self, answer: dict[str, Any]) -> None:
        if "error" in answer:
            text = "".join(letter for letter in str(answer["error"])[:300] if letter.isprintable())
            raise ControlError(f"{self._name} says: {text}", _HINTS.get(text, ""))

    def _line(self) -> Any:
        try:
            return json.loads(self._text())
        except (ValueError, RecursionError):
            raise self._strange() from None

    def _text(self) -> bytes:
        """A line. Raises ControlError if there is none."""
        while (at := self._received.find(b"\n")) < 0:
            if len(self._received) > MAX_LINE:
                raise self._strange()
            data = self._stream.receive()
            if not data:
                raise ControlError(f"{self._name} ended the connection", "lopower device logs may say why")
            self._received += data
        line = bytes(self._received[:at])
        del self._received[: at + 1]
        return line

    def _strange(self) -> ControlError:
        return ControlError(f"{self._name} says something that is not understood", "is it lopower's firmware?")


_HINTS: Final = {
    "the flash is full": "the board runs what it ran before; send less with --main, or remove files from it",
    "this board was not flashed with --remote-repl": "lopower flash PORT --remote-repl turns it on",
    "the set of files that runs is on trial itself": "wait until it is confirmed by a handshake",
}
