"""A board around MicroPython's unix port: time that is told to pass, and `machine`. Imported before the package.

What it does is what the ESP32's port does: ports/esp32/machine_rtc.c (a memory of 2,048 bytes, of which a shorter
content leaves the rest), modmachine.c (reset causes), machine_timer.c.
"""

import sys
import time as real


class Reset(BaseException):
    """The board starts again; nothing of the program is left but flash and the RTC."""


class Board:
    """`step` is called before whatever leaves a trace outside the heap; from `reset_at` on it resets the board once."""

    def __init__(self):
        self.now = 5_000_000  # milliseconds
        self.booted = 0
        self.clock = 700_000_000_000  # milliseconds of the RTC since the port's epoch
        self.rtc_memory = bytearray(2048)
        self.rtc_length = 0
        self.cause = 1
        self.steps = 0
        self.reset_at = -1
        self.on_reset = None
        self.asleep = 0
        self.timers = []
        self.scheduled = []

    def step(self):
        self.steps += 1
        if self.steps == self.reset_at:
            raise Reset

    def pass_time(self, milliseconds):
        """It passes; timers run."""
        for timer in self.timers:
            if timer.period:
                timer.left -= milliseconds
                while timer.left <= 0:
                    timer.left += timer.period
                    timer.callback(timer)
        self.now += milliseconds
        self.clock += milliseconds

    def boot(self, cause):
        """Nothing of the package is left."""
        self.cause = cause
        self.timers.clear()
        self.booted = self.now
        for name in list(sys.modules):
            if name in ("lopower", "socket", "usocket", "lopower_original_socket") or name.startswith("lopower."):
                del sys.modules[name]


board = Board()


class Time:
    """`time`."""

    def ticks_ms(self):
        return board.now - board.booted

    def ticks_us(self):
        return (board.now - board.booted) * 1000

    def time(self):
        return board.clock // 1000

    def sleep_ms(self, milliseconds):
        board.pass_time(milliseconds)

    def sleep(self, seconds):
        board.pass_time(int(seconds * 1000))

    def __getattr__(self, name):
        return getattr(real, name)


class Poll:
    """Of `select`: to wait is to let time pass."""

    def __init__(self):
        self.streams = []

    def register(self, stream, events):
        self.streams.append((stream, events))

    def poll(self, timeout=-1):
        assert timeout >= 0
        ready = self._ready()
        if not ready:
            board.pass_time(max(timeout, 1))
            ready = self._ready()
        return ready

    def ipoll(self, timeout=-1):
        return self._ready() if timeout == 0 else self.poll(timeout)

    def _ready(self):
        return [(stream, events) for stream, events in self.streams if stream.ioctl(3, events)]


class Select:
    """`select`."""

    POLLIN, POLLOUT, POLLERR, POLLHUP = 1, 4, 8, 16
    poll = Poll


class RTC:
    """Of `machine`."""

    def memory(self, content=None):
        board.step()
        if content is None:
            return bytes(board.rtc_memory[: board.rtc_length])
        if len(content) > 2048:
            raise ValueError("buffer too long")
        half = len(content) // 2
        board.rtc_memory[:half] = content[:half]
        board.step()  # in the middle of it
        board.rtc_memory[: len(content)] = content
        board.step()
        board.rtc_length = len(content)
        return None

    def datetime(self, told=None):
        if told is not None:
            year, month, day, _, hour, minute, second, microseconds = told
            board.clock = real.mktime((year, month, day, hour, minute, second, 0, 0)) * 1000 + microseconds // 1000


class Timer:
    """Of `machine`: number -1 is none of the ESP32's."""

    PERIODIC = 1

    def __init__(self, number):
        if not 0 <= number < 4:
            raise ValueError("invalid Timer number")
        self.number, self.period = number, 0
        board.timers.append(self)

    def init(self, period, callback, mode=1):
        self.period = self.left = period
        self.callback = callback

    def deinit(self):
        self.period = 0


class Machine:
    """`machine`."""

    PWRON_RESET, HARD_RESET, WDT_RESET, DEEPSLEEP_RESET, SOFT_RESET = 1, 2, 3, 4, 5
    RTC, Timer = RTC, Timer

    def reset_cause(self):
        board.step()
        return board.cause

    def deepsleep(self, milliseconds=0):
        board.step()
        board.asleep = milliseconds
        raise Reset

    def reset(self):
        raise Reset


def install():
    """From here on `import time` and `import machine` give this."""
    sys.modules["time"] = sys.modules["utime"] = Time()
    sys.modules["machine"] = Machine()
    sys.modules["select"] = sys.modules["uselect"] = Select()
