"""labgrid's coordinator and exporter as processes, from the environment that `make lab` makes."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.requirements import missing

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / ".venv-lab" / "bin"
START_SECONDS = 60.0


class Lab:
    """A coordinator with one exporter.

    Attributes:
        coordinator: HOST:PORT.
    """

    def __init__(self, directory: Path) -> None:
        if not (PROGRAMS.parent / ".installed").is_file():
            missing("labgrid is not installed: make lab")
        self.directory = directory
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.coordinator = f"127.0.0.1:{probe.getsockname()[1]}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("LG_", "PYTEST_"))}
        self.environment = {**kept, "LG_COORDINATOR": self.coordinator, "LG_USERNAME": "tests", "LG_HOSTNAME": "here"}
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, resources: str) -> None:
        """Start both; `resources` is the exporter's configuration."""
        configuration = self.directory / "exporter.yaml"
        configuration.write_text(resources)
        self._start("labgrid-coordinator", "--listen", self.coordinator)
        self._until_listening()
        self._start("labgrid-exporter", "--name", "shelf", "--hostname", "127.0.0.1", str(configuration))

    def client(self, *arguments: str) -> str:
        """`labgrid-client …`; what it printed."""
        done = self.run("labgrid-client", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def place(self, name: str, match: str) -> None:
        """A place with what the exporter has under `match`, locked for this user."""
        self.client("-p", name, "create")
        self.client("-p", name, "add-match", match)
        deadline = time.monotonic() + START_SECONDS
        while match.partition("/")[2].partition("/")[0] not in self.client("resources"):
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.2)
        self.client("-p", name, "lock")

    def run(
        self, program: str, *arguments: str, cwd: Path | None = None, variables: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """A program of that environment."""
        return subprocess.run(
            [str(PROGRAMS / program), *arguments],
            env={**self.environment, **(variables or {})}, cwd=cwd or self.directory,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=110,
        )  # fmt: skip

    def said(self) -> str:
        """What coordinator and exporter logged."""
        return "".join(path.read_text() for path in sorted(self.directory.glob("labgrid-*.log")))

    def stop(self) -> None:
        """End both."""
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()

    def _start(self, program: str, *arguments: str) -> None:
        with (self.directory / f"{program}.log").open("w") as log:
            command: Sequence[str] = [str(PROGRAMS / program), *arguments]
            self._processes.append(
                subprocess.Popen(command, env=self.environment, cwd=self.directory, stdout=log, stderr=log)
            )

    def _until_listening(self) -> None:
        host, _, port = self.coordinator.partition(":")
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection((host, int(port)), 1.0).close()
                return
            except OSError:
                assert time.monotonic() < deadline, self.said()
                time.sleep(0.1)


@contextmanager
def running_lab(directory: Path, resources: str) -> Iterator[Lab]:
    """A lab that runs."""
    lab = Lab(directory)
    try:
        lab.start(resources)
        yield lab
    finally:
        lab.stop()
