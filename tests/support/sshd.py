"""A real sshd on loopback for the user that runs the tests, with keys and configuration of its own."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.support.requirements import missing, require_program

START_SECONDS = 10.0


class Sshd:
    """`port` of 127.0.0.1; `environment`: a PATH whose ssh has the key and knows the host."""

    def __init__(self, directory: Path, session: Mapping[str, str]) -> None:
        self._directory = directory
        program = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
        if program is None:
            missing("program 'sshd' is not installed")
        client = require_program("ssh")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        for name in ("host_key", "user_key"):
            key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name)]
            subprocess.run(key, check=True, timeout=30)
        (directory / "authorized_keys").write_text((directory / "user_key.pub").read_text())
        host_key = " ".join((directory / "host_key.pub").read_text().split()[:2])
        (directory / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {host_key}\n")
        variables = " ".join(f'"{name}={value}"' for name, value in session.items())
        (directory / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1\nPort {self.port}\nHostKey {directory}/host_key\nPidFile none\nUsePAM no\n"
            f"AuthorizedKeysFile {directory}/authorized_keys\nStrictModes no\nPermitRootLogin yes\n"
            f"PasswordAuthentication no\nSetEnv {variables}\n"
        )
        (directory / "ssh_config").write_text(
            f"Host 127.0.0.1\nIdentityFile {directory}/user_key\nIdentitiesOnly yes\n"
            f"UserKnownHostsFile {directory}/known_hosts\nStrictHostKeyChecking yes\n"
        )
        wrapper = directory / "bin" / "ssh"
        wrapper.parent.mkdir()
        wrapper.write_text(f'#!/bin/sh\nexec {client} -F {directory}/ssh_config "$@"\n')
        wrapper.chmod(0o755)
        self.path = str(wrapper.parent)
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd's privilege separation asks for it
        self._log = (directory / "sshd.log").open("w")
        self._process = subprocess.Popen(
            [program, "-D", "-e", "-f", str(directory / "sshd_config")], stdout=self._log, stderr=self._log
        )

    @property
    def url(self) -> str:
        """For --daemon."""
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}"

    def wait(self) -> None:
        """Until it listens."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1.0).close()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError((self._directory / "sshd.log").read_text()) from None
                time.sleep(0.05)

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(10)
        self._log.close()


@contextmanager
def sshd(directory: Path, session: Mapping[str, str]) -> Iterator[Sshd]:
    """One that listens.

    Args:
        session: variables of the sessions that it starts.
    """
    directory.mkdir(mode=0o700)
    made = Sshd(directory, session)
    try:
        made.wait()
        yield made
    finally:
        made.close()
