"""Starts MicroPython's unix port in this process, with what it lacks of a board's. Run by virtual_board.firmware.

    python -I -S launcher.py SITE WIRES FLASH HEAP SHIMS

SITE: where micropython_run is installed. WIRES, FLASH: descriptors. HEAP: bytes. SHIMS: directory of the shims.
"""

import ctypes
import mmap
import os
import signal
import sys

TICK = 0.02
"""Seconds. A system call of MicroPython runs scheduled callbacks (timers) when a signal interrupts it; the REPL of the
ESP32 port does so by itself."""

PR_SET_PDEATHSIG = 1
WIRES_SIZE = 1 << 16


def main() -> int:
    """MicroPython's exit code."""
    site, wires, flash, heap, shims = sys.argv[1:]
    os.chdir(shims)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    sys.path.insert(0, site)
    from micropython_run import run_main

    page = mmap.mmap(int(wires), WIRES_SIZE)
    os.environ["BOARD_WIRES"] = str(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    os.environ["BOARD_FLASH"] = flash
    # MicroPython handles SIGINT while a program runs and only then: whoever sends it looks first whether it does.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, TICK, TICK)
    code: int = run_main(["micropython", "-X", f"heapsize={heap}", "-i", "_start.py"])
    return code


if __name__ == "__main__":
    sys.exit(main())
