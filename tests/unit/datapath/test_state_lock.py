"""One daemon per state directory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lopower.daemon.state_lock import StateLock, StateLockedError


def test_the_second_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    lock = StateLock(tmp_path)
    with pytest.raises(StateLockedError, match=rf"process {os.getpid()}\) uses .*--state-dir"):
        StateLock(tmp_path)
    lock.release()
    StateLock(tmp_path).release()


def test_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    program = (
        "import sys, time, pathlib; from lopower.daemon.state_lock import StateLock;"
        "lock = StateLock(pathlib.Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StateLockedError, match=f"process {holder.pid}"):
            StateLock(tmp_path)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    StateLock(tmp_path).release()
