"""Keeps the sidecar running: starts it, reads its log into ours, restarts it with back-off, and stops it in order.

What it is asked and what it says is the driver's matter. Here it is a process that says hello when it is ready, answers
when it is asked whether it lives, and ends. docs/sidecar-protocol.md has the rules ("The process").
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Literal

log = logging.getLogger(__name__)
sidecar_log = logging.getLogger("lopower.sidecar")

State = Literal["stopped", "starting", "running", "waiting", "unusable"]

# Seconds. A start takes tens of milliseconds on a PC, and a few seconds on a small board with a slow card.
START_SECONDS: Final = 20.0
CHECK_INTERVAL: Final = 5.0
CHECK_SECONDS: Final = 10.0  # a busy machine may be slow; one that is stopped answers never
STOP_SECONDS: Final = 5.0
FIRST_DELAY: Final = 0.2
LAST_DELAY: Final = 30.0
# After so long a run an end is a new event, not the next of a row.
STABLE_SECONDS: Final = 60.0
# A line of the log; a longer one is cut. What the sidecar logs is partly what others sent it.
MAX_LINE: Final = 16_384
_BAD_ARGUMENTS: Final = 2
# Proxies and certificates are the user's choice. The two of TS_* are for tests; any other could change what we tell it.
_ENVIRONMENT: Final = (
    *("PATH", "HOME", "LANG", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
    *("TS_PANIC_IF_HIT_MAIN_CONTROL", "TS_DISABLE_PORTMAPPER"),
)
_LEVELS: Final = {
    "DEBUG": logging.DEBUG,
    "INFO": logging.INFO,
    "WARN": logging.WARNING,
    "WARNING": logging.WARNING,
    "ERROR": logging.ERROR,
}


class SidecarUnusableError(Exception):
    """The sidecar cannot be used, and starting it again would not change that; the text says why and what to do."""


class Supervisor:
    """One sidecar process after the other.

    Args:
        command: program and arguments.
        environment: its whole environment.
        hello: takes what it said when it was ready; raises SidecarUnusableError if that is none of ours.
        check: asks whether it lives; raises OSError or TimeoutError if it does not.
        started: called once it is ready.
        ended: called with the reason when it has ended, or is about to be ended, after it was ready.

    Attributes:
        state: `stopped`, `starting`, `running`, `waiting` (for the next start), `unusable` (no further start).
        detail: why it does not run, for a person; empty if it does.
        restarts: how often it was started again.
        process: the process id while there is one.
    """

    def __init__(
        self,
        *,
        command: Sequence[str],
        environment: Mapping[str, str],
        hello: Callable[[Any], None],
        check: Callable[[], Awaitable[None]],
        started: Callable[[], None],
        ended: Callable[[str], None],
        first_delay: float = FIRST_DELAY,
        check_interval: float = CHECK_INTERVAL,
        check_seconds: float = CHECK_SECONDS,
    ) -> None:
        self.state: State = "stopped"
        self.detail = ""
        self.restarts = 0
        self.process: int | None = None
        self._command = list(command)
        self._environment = dict(environment)
        self._hello = hello
        self._check = check
        self._started = started
        self._ended = ended
        self._first_delay = first_delay
        self._check_interval = check_interval
        self._check_seconds = check_seconds
        self._last_error = ""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to keep it running, in a task of the running loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """End it: SIGTERM, and SIGKILL if it has not ended within STOP_SECONDS. No start follows."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self.state = "stopped"

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        delay = self._first_delay
        while True:
            began = loop.time()
            self.state, self.detail = "starting", "the tailnet's sidecar is being started"
            try:
                reason = await self._run_once()
            except SidecarUnusableError as exc:
                self.state, self.detail = "unusable", str(exc)
                log.error("%s", exc)
                return
            if loop.time() - began >= STABLE_SECONDS:
                delay = self._first_delay
            self.state, self.detail = "waiting", f"the tailnet's sidecar {reason}; it is started again"
            log.warning("the tailnet's sidecar %s; it is started again in %.1f s", reason, delay)
            await asyncio.sleep(delay)
            delay = min(delay * 2, LAST_DELAY)
            self.restarts += 1

    async def _run_once(self) -> str:
        """Start it, wait for its end; returns what happened, to be read behind "the sidecar".

        Raises:
            SidecarUnusableError: it is of no use.
        """
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                env=self._environment,
                # It ends when this pipe does: not even a killed daemon leaves one behind.
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                limit=MAX_LINE,
                process_group=0,  # Ctrl-C is for us: it ends when the flows have ended
            )
        except FileNotFoundError:
            raise SidecarUnusableError(f"there is no {self._command[0]}") from None
        except PermissionError:
            raise SidecarUnusableError(f"{self._command[0]} cannot be executed") from None
        except OSError as exc:
            if exc.errno == errno.ENOEXEC:
                raise SidecarUnusableError(f"{self._command[0]} is not a program for this machine") from None
            return f"could not be started: {exc.strerror}"
        self.process = process.pid
        assert process.stdout is not None
        assert process.stderr is not None
        self._last_error = ""
        pipes = [asyncio.create_task(self._read_log(process.stderr))]
        waiting = asyncio.create_task(process.wait())
        was_ready = False
        reason = "was stopped"
        try:
            try:
                problem = await self._until_ready(process.stdout, waiting)
            finally:
                # asyncio has a process end when its pipes have: whatever it says beyond its hello must be read.
                pipes.append(asyncio.create_task(_discard(process.stdout)))
            if problem is not None:
                reason = problem
                return reason
            was_ready = True
            self.state, self.detail = "running", ""
            self._started()
            reason = await self._watch(waiting)
            return reason
        finally:
            if was_ready:
                self._ended(reason)
            await self._end(process, waiting)
            self.process = None
            await asyncio.wait(pipes, timeout=1.0)
            for task in pipes:
                task.cancel()

    async def _until_ready(self, stdout: asyncio.StreamReader, waiting: asyncio.Task[int]) -> str | None:
        """None once it is ready; else what was wrong."""
        try:
            async with asyncio.timeout(START_SECONDS):
                line = await stdout.readline()
                if not line:
                    return self._how_it_ended(await asyncio.shield(waiting))
        except TimeoutError:
            return f"was not ready within {START_SECONDS:g} s"
        except ValueError:
            line = b""
        try:
            said = json.loads(line)
        except (ValueError, RecursionError):
            raise SidecarUnusableError(f"{self._command[0]} is no sidecar of lopower: it does not say hello") from None
        self._hello(said)
        return None

    async def _watch(self, waiting: asyncio.Task[int]) -> str:
        """Until it ends, or does not answer any more."""
        while True:
            done, _ = await asyncio.wait([waiting], timeout=self._check_interval)
            if done:
                return self._how_it_ended(waiting.result())
            try:
                async with asyncio.timeout(self._check_seconds):
                    await self._check()
            except (OSError, TimeoutError):
                if waiting.done():
                    return self._how_it_ended(waiting.result())
                return f"did not answer for {self._check_seconds:g} s"

    async def _end(self, process: asyncio.subprocess.Process, waiting: asyncio.Task[int]) -> None:
        """However it is, see it ended. Cancelling this is put off until it has."""
        if not waiting.done():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            # One that is stopped takes SIGTERM when it goes on, and never otherwise.
            done, _ = await asyncio.wait([waiting], timeout=STOP_SECONDS)
            if not done:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await asyncio.wait([waiting])
        if process.stdin is not None:
            process.stdin.close()

    def _how_it_ended(self, code: int) -> str:
        """Raises SidecarUnusableError if it will always end so."""
        if code < 0:
            with contextlib.suppress(ValueError):
                return f"was ended by {signal.Signals(-code).name}"
        said = f" ({self._last_error})" if self._last_error else ""
        if code == _BAD_ARGUMENTS:
            raise SidecarUnusableError(f"{self._command[0]} does not understand how it is started{said}")
        return f"ended with code {code}{said}"

    async def _read_log(self, stream: asyncio.StreamReader) -> None:
        """Its log, one JSON object per line, into ours; anything else, such as a Go traceback, as errors."""
        while True:
            try:
                line = await stream.readline()
            except ValueError:
                continue  # longer than MAX_LINE: the reader has thrown it away
            if not line:
                return
            level, text = forward(line)
            if level >= logging.ERROR:
                self._last_error = text


async def _discard(stream: asyncio.StreamReader) -> None:
    while await stream.read(MAX_LINE):
        pass


def forward(line: bytes) -> tuple[int, str]:
    """Log one line of the sidecar's log; its level and text."""
    try:
        record: Any = json.loads(line)
    except (ValueError, RecursionError):
        record = None
    if isinstance(record, dict):
        level = _LEVELS.get(str(record.pop("level", "")).upper(), logging.INFO)
        words = [str(record.pop("msg", ""))]
        record.pop("time", None)
        words += [f"{key}={value}" for key, value in record.items()]
    else:
        level, words = logging.ERROR, [line.decode("utf-8", "replace")]
    text = printable(" ".join(words).strip())
    sidecar_log.log(level, "%s", text)
    return level, text


def printable(text: str) -> str:
    """The text without control characters: what others named must not steer somebody's terminal."""
    return "".join(character if character.isprintable() else "�" for character in text)


def environment(keep: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment for the sidecar: of ours, what it needs."""
    return {name: keep[name] for name in _ENVIRONMENT if name in keep}
