"""The sidecar's supervisor: starts, ends, back-off, logs, processes that do not answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from lopower.tailnet import supervisor as supervisor_module
from lopower.tailnet.supervisor import SidecarUnusableError, Supervisor, environment, forward, printable

HELLO = "import sys; print('{}', flush=True); "


class Supervised:
    """A supervisor of a Python program, and what it told."""

    def __init__(self, program: str, *, command: list[str] | None = None, healthy: bool = True) -> None:
        self.hellos: list[Any] = []
        self.started = 0
        self.reasons: list[str] = []
        self.healthy = healthy
        self.supervisor = Supervisor(
            command=command or [sys.executable, "-S", "-c", program],
            environment=environment(),
            hello=self._hello,
            check=self._check,
            started=self._start,
            ended=self.reasons.append,
            first_delay=0.01,
            check_interval=0.05,
            check_seconds=0.1,
        )

    def _hello(self, said: Any) -> None:
        self.hellos.append(said)
        if said != {}:
            raise SidecarUnusableError("not one of ours")

    async def _check(self) -> None:
        if not self.healthy:
            await asyncio.sleep(60)

    def _start(self) -> None:
        self.started += 1


@contextlib.asynccontextmanager
async def supervised(program: str = "", **options: Any) -> AsyncIterator[Supervised]:
    made = Supervised(program, **options)
    made.supervisor.start()
    try:
        yield made
    finally:
        await made.supervisor.stop()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_it_runs_until_it_is_stopped_and_leaves_nothing() -> None:
    async with supervised(HELLO + "sys.stdin.read()") as made:
        await until(lambda: made.started)
        assert made.supervisor.state == "running"
        process = made.supervisor.process
        assert process is not None
    assert (made.supervisor.state, made.supervisor.process) == ("stopped", None)
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    assert made.reasons == ["was stopped"]


async def test_one_that_ignores_everything_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module, "STOP_SECONDS", 0.1)
    program = HELLO + "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    async with supervised(program) as made:
        await until(lambda: made.started)
        process = made.supervisor.process
        assert process is not None
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


async def test_one_that_dies_is_started_again() -> None:
    async with supervised(HELLO + "sys.stdin.read()") as made:
        for count in (1, 2, 3):
            await until(lambda count=count: made.started == count)  # type: ignore[misc]
            process = made.supervisor.process
            assert process is not None
            os.kill(process, signal.SIGKILL)
        await until(lambda: made.started == 4)
        assert made.supervisor.restarts == 3
        assert made.reasons == ["was ended by SIGKILL"] * 3


async def test_one_that_does_not_answer_any_more_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module, "STOP_SECONDS", 0.1)
    async with supervised(HELLO + "sys.stdin.read()") as made:
        await until(lambda: made.started)
        assert made.supervisor.process is not None
        os.kill(made.supervisor.process, signal.SIGSTOP)
        made.healthy = False
        await until(lambda: made.reasons)
        made.healthy = True
        await until(lambda: made.started == 2)
        assert "did not answer" in made.reasons[0]


async def test_waits_grow_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module, "LAST_DELAY", 0.04)
    waits = []
    sleep = asyncio.sleep

    async def record(seconds: float) -> None:
        if seconds in (0.01, 0.02, 0.04):
            waits.append(seconds)
        await sleep(seconds)

    monkeypatch.setattr(asyncio, "sleep", record)
    async with supervised("import sys; sys.exit(1)") as made:
        async with asyncio.timeout(10):
            while made.supervisor.restarts < 4:
                await sleep(0.01)
    assert waits[:4] == [0.01, 0.02, 0.04, 0.04]
    assert not made.started
    assert not made.reasons


async def test_why_it_ended_is_told_with_its_last_error() -> None:
    program = (
        "import sys, json; print(json.dumps({'level': 'ERROR', 'msg': 'disk full'}), file=sys.stderr); sys.exit(3)"
    )
    async with supervised(program) as made:
        await until(lambda: "disk full" in made.supervisor.detail)
        assert "ended with code 3 (disk full)" in made.supervisor.detail


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import sys; sys.exit(2)", "does not understand"),
        ("print('usage')", "does not say hello"),
        ("print('x' * 100_000)", "does not say hello"),
        ("print('[1]')", "not one of ours"),
    ],
)
async def test_what_starting_again_would_not_change(program: str, said: str) -> None:
    async with supervised(program) as made:
        await until(lambda: made.supervisor.state == "unusable")
        assert said in made.supervisor.detail
        assert not made.started


@pytest.mark.parametrize("kind", ["missing", "forbidden", "text"])
async def test_a_program_that_is_none(tmp_path: Path, kind: str) -> None:
    program = tmp_path / "lopower-sidecar"
    if kind != "missing":
        program.write_bytes(b"\x7fnothing that runs")
        program.chmod(0o755 if kind == "text" else 0o644)
    async with supervised(command=[str(program)]) as made:
        await until(lambda: made.supervisor.state == "unusable")
        assert str(program) in made.supervisor.detail


async def test_one_that_is_never_ready_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module, "START_SECONDS", 0.3)
    async with supervised("import sys; sys.stdin.read()") as made:
        await until(lambda: made.supervisor.restarts)
        assert not made.started


@pytest.mark.parametrize(
    ("line", "level", "text"),
    [
        ({"level": "WARN", "msg": "slow", "node": "proxy", "time": "now"}, logging.WARNING, "slow node=proxy"),
        ({"level": "INFO", "msg": "\x1b[2Jhello\nyou"}, logging.INFO, "�[2Jhello�you"),
        ({}, logging.INFO, ""),
    ],
)
def test_its_log_is_ours(line: dict[str, str], level: int, text: str) -> None:
    assert forward(json.dumps(line).encode() + b"\n") == (level, text)


@pytest.mark.parametrize("line", [b"panic: nil map\n", b"[1]\n", b"{\n", b"\xff\n", b"[" * 5000])
def test_what_is_no_log_is_an_error(line: bytes) -> None:
    assert forward(line)[0] == logging.ERROR


def test_only_what_it_needs_of_our_environment() -> None:
    ours = {"PATH": "/bin", "TS_AUTHKEY": "secret", "TS_DISABLE_PORTMAPPER": "1", "https_proxy": "p", "LD_PRELOAD": "x"}
    assert environment(ours) == {"PATH": "/bin", "TS_DISABLE_PORTMAPPER": "1", "https_proxy": "p"}


def test_nothing_steers_a_terminal() -> None:
    assert printable("a\x1b]0;b\x07\r\nü") == "a�]0;b���ü"
