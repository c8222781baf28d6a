"""Starts MicroPython's unix port in this process, with what it lacks of a board's. Run by virtual_board.firmware.

    python -I -S launcher.py LIBRARY WIRES FLASH HEAP SHIMS PULSES

LIBRARY: the file with MicroPython. WIRES, FLASH, PULSES: descriptors. HEAP: bytes. SHIMS: directory of the shims.

What comes from outside the program (timers, Ctrl-C) is MicroPython's to run between two steps of its own. A thread of
this process, of which MicroPython knows nothing, hands it over: it touches nothing but the queue of what is scheduled,
which has a lock, and the word that says which exception is pending. Then a signal ends the system call that the program
waits in, if it does: select, poll and sleep always, and a read of standard input, because that has a time-out; a
collection of garbage goes on waiting for other threads (signal(7)).
"""

import ctypes
import math
import mmap
import os
import select
import signal
import struct
import sys
import threading
import time

PR_SET_PDEATHSIG = 1
WIRES_SIZE = 1 << 16

PULSE = struct.Struct("<QI")
"""What PULSES brings: the address of the function to schedule and in how many milliseconds, or NEVER, until the next
one says otherwise; or INTERRUPT."""

INTERRUPT = 0
NEVER = 0xFFFFFFFF

SIGNAL_AGAIN = 0.002
"""Seconds that the program has to take what is scheduled by itself. Only in a system call it needs a signal, and one
just before a system call is lost."""

SCHEDULE_AGAIN = 0.5
"""Seconds. Ctrl-C can end the function before it has said when it wants to be called next."""

INTERRUPT_AFTER = 0.5
"""Seconds after which Ctrl-C does not wait any more for the function that is scheduled to end."""

INTERRUPT_FOR = 0.02
"""Seconds of signals for Ctrl-C."""

TICK = 0.1
"""Seconds. What a thread of the program schedules waits no longer for a main thread that sleeps."""


def main() -> int:
    """MicroPython's exit code."""
    path, wires, flash, heap, shims, pulses = sys.argv[1:]
    os.chdir(shims)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    library = ctypes.CDLL(path)
    page = mmap.mmap(int(wires), WIRES_SIZE)
    os.environ["BOARD_WIRES"] = str(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    os.environ["BOARD_FLASH"] = flash
    # MicroPython's handler is there while a program runs and only then: whoever sends Ctrl-C looks first whether it is.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.siginterrupt(signal.SIGALRM, False)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # the clock takes none
    Clock(library, int(pulses), threading.get_ident()).start()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    words = [b"micropython", b"-X", b"heapsize=" + heap.encode(), b"-i", b"_start.py"]
    # So, and not by the function that the module has for Python, it runs without CPython's lock.
    code: int = library.micropython_unix_main(len(words), (ctypes.c_char_p * (len(words) + 1))(*words))
    return code


class Clock(threading.Thread):
    """Hands over what is due."""

    def __init__(self, library: ctypes.CDLL, pulses: int, program: int) -> None:
        """`program`: the thread that runs MicroPython."""
        super().__init__(name="clock", daemon=True)
        self._schedule = library.mp_sched_schedule
        self._schedule.argtypes, self._schedule.restype = (ctypes.c_void_p, ctypes.c_void_p), ctypes.c_bool
        self._raise_interrupt = library.mp_sched_keyboard_interrupt
        self._raise_interrupt.argtypes, self._raise_interrupt.restype = (), None
        self._pulses = pulses
        self._program = program
        self._function = 0
        self._due = math.inf
        self._signals_end = -math.inf
        self._interrupted: float | None = None

    def run(self) -> None:
        """Until the process ends."""
        while True:
            now = time.monotonic()
            if now >= self._due:
                taken = self._schedule(self._function, 1)  # 1: MicroPython's 0
                self._due = now + (SCHEDULE_AGAIN if taken else SIGNAL_AGAIN)
                self._signals_end = math.inf
            if self._interrupted is not None:
                self._interrupt(now, self._interrupted)
            wait = SIGNAL_AGAIN if now < self._signals_end else min(TICK, self._due - now)
            if select.select([self._pulses], [], [], wait)[0]:
                for function, milliseconds in PULSE.iter_unpack(os.read(self._pulses, 64 * PULSE.size)):
                    self._take(function, milliseconds)
            elif wait in (SIGNAL_AGAIN, TICK):
                signal.pthread_kill(self._program, signal.SIGALRM)

    def _take(self, function: int, milliseconds: int) -> None:
        now = time.monotonic()
        if function == INTERRUPT:
            self._interrupted = now
            return
        self._function = function
        self._due = math.inf if milliseconds == NEVER else now + milliseconds / 1000
        self._signals_end = -math.inf

    def _interrupt(self, now: float, since: float) -> None:
        """KeyboardInterrupt for the program, soon: within the function that is scheduled it would end that alone."""
        if self._signals_end == math.inf and now - since < INTERRUPT_AFTER:
            return
        self._interrupted = None
        if runs_a_program():
            self._raise_interrupt()
            self._signals_end = max(self._signals_end, now + INTERRUPT_FOR)


def runs_a_program() -> bool:
    """Whether MicroPython has set its handler for Ctrl-C. At the prompt nothing would catch the exception."""
    action = ctypes.create_string_buffer(256)  # struct sigaction; it begins with the handler
    ctypes.CDLL(None).sigaction(signal.SIGINT, None, action)
    return ctypes.c_void_p.from_buffer(action).value is not None


if __name__ == "__main__":
    os._exit(main())
