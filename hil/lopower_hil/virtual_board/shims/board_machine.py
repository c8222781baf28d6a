"""`machine` of the ESP32 port, as far as a board without pins has one."""

import sys
import time as _time

import _board
import machine as _machine
import micropython

PWRON_RESET = 1
HARD_RESET = 2
WDT_RESET = 3
DEEPSLEEP_RESET = 4
SOFT_RESET = 5
PIN_WAKE = 2
EXT0_WAKE = 2
EXT1_WAKE = 3
TIMER_WAKE = 4
TOUCHPAD_WAKE = 5
ULP_WAKE = 6

mem8 = _machine.mem8
mem16 = _machine.mem16
mem32 = _machine.mem32
idle = _machine.idle
Signal = _machine.Signal
time_pulse_us = _machine.time_pulse_us
_FREQUENCIES = (20_000_000, 40_000_000, 80_000_000, 160_000_000, 240_000_000)


def unique_id():
    return bytes(_board.mac)


def freq(hz=None):
    if hz is None:
        return _board.wires.frequency
    if hz not in _FREQUENCIES:
        raise ValueError("frequency must be 20MHz, 40MHz, 80Mhz, 160MHz or 240MHz")
    _board.wires.frequency = hz


def reset():
    _board.ask(b"reset")


def soft_reset():
    sys.exit()


def bootloader(timeout=None):
    _board.ask(b"bootloader")


def reset_cause():
    return _board.wires.reset_cause


def wake_reason():
    return TIMER_WAKE if _board.wires.reset_cause == DEEPSLEEP_RESET else 0


def deepsleep(time_ms=-1):
    _board.wires.sleep = time_ms
    _board.ask(b"sleep")


def lightsleep(time_ms=None):
    if time_ms is None:
        while True:
            _time.sleep(1)
    _time.sleep_ms(time_ms)


sleep = lightsleep


def disable_irq():
    return 0


def enable_irq(state=0):
    pass


class RTC:
    """Clock and memory that last as long as there is power."""

    def __init__(self, identifier=0):
        pass

    def datetime(self, value=None):
        if value is None:
            nanoseconds = _board.clock_ns()
            t = _time.gmtime(nanoseconds // 1_000_000_000 + _board.EPOCH)
            return (t[0], t[1], t[2], t[6], t[3], t[4], t[5], nanoseconds // 1000 % 1_000_000)
        year, month, day, _weekday, hour, minute, second, microsecond = value
        seconds = int(_time.mktime((year, month, day, hour, minute, second, 0, 0, 0))) - _board.EPOCH
        _board.set_clock_ns(seconds * 1_000_000_000 + microsecond * 1000)

    def init(self, value):
        self.datetime(value)

    def memory(self, data=None):
        if data is None:
            return bytes(_board.rtc_memory[: _board.wires.rtc_length])
        length = len(data)
        if length > _board.RTC_MEMORY_SIZE:
            raise ValueError("buffer too long")
        _board.rtc_memory[:length] = bytes(data)
        _board.wires.rtc_length = length


class WDT:
    """The board looks at its feeds, and resets."""

    def __init__(self, id=0, timeout=5000):
        if id != 0:
            raise ValueError("WDT(%d) doesn't exist" % id)
        if timeout <= 0:
            raise ValueError("WDT timeout too short")
        _board.wires.watchdog_feeds += 1
        _board.wires.watchdog = timeout

    def feed(self):
        _board.wires.watchdog_feeds += 1


class Timer:
    """Its callback runs between two steps of the program."""

    ONE_SHOT = 0
    PERIODIC = 1

    _HARDWARE = 4

    def __init__(self, id=-1, **options):
        if not -1 <= id < self._HARDWARE:
            raise ValueError("invalid Timer number")
        self._id = id
        self._period = None
        if options:
            self.init(**options)

    def init(self, *, mode=PERIODIC, freq=-1, period=-1, callback=None, tick_hz=1000, hard=False):
        if freq > 0:
            milliseconds = max(1, int(1000 / freq))
        elif period > 0:
            milliseconds = max(1, int(period * 1000 // tick_hz))
        else:
            raise ValueError("period or freq")
        self._callback = callback
        self._repeats = mode == self.PERIODIC
        self._due = _time.ticks_add(_time.ticks_ms(), milliseconds)
        self._period = milliseconds
        _clock.add(self)

    def deinit(self):
        self._period = None
        _clock.remove(self)

    def value(self):
        if self._period is None:
            return 0
        return self._period - max(0, _time.ticks_diff(self._due, _time.ticks_ms()))

    def _tick(self, now):
        if self._period is None or _time.ticks_diff(self._due, now) > 0:
            return
        try:
            micropython.schedule(self._run, 0)
        except RuntimeError:  # the queue is full: the next tick does it
            return
        self._due = _time.ticks_add(now, self._period)
        if not self._repeats:
            _clock.remove(self)

    def _run(self, _):
        if self._callback is not None and self._period is not None:
            self._callback(self)


class _Clock:
    """All timers. What is due is found in `turn`, which the main thread runs."""

    def __init__(self):
        self._timers = ()
        self._runs = False

    def add(self, timer):
        self._timers = tuple(t for t in self._timers if t is not timer) + (timer,)
        if not self._runs:
            import _thread

            self._runs = True
            _thread.start_new_thread(_keep_pulse, ())
        self.turn()

    def remove(self, timer):
        self._timers = tuple(t for t in self._timers if t is not timer)

    def turn(self, _=None):
        wait = _PATIENCE
        for timer in self._timers:
            timer._tick(_time.ticks_ms())
            wait = min(wait, max(1, _time.ticks_diff(timer._due, _time.ticks_ms())))
        _pulse_state[1] = wait
        _pulse_state[0] = False


# The thread beside the program. Threads of the unix port have no lock around the interpreter, and a signal can keep the
# garbage collector from looking at a thread's stack: so this one creates no object, and holds none that is not held
# elsewhere; its frames are small enough to lie on its stack.
_PATIENCE = 50
_clock = _Clock()
_turn = _clock.turn
_pulse_state = [False, 1]  # whether a turn is scheduled; milliseconds until the next
_sleep_ms = _time.sleep_ms
_schedule = micropython.schedule


def _pulse():
    while True:
        _sleep_ms(_pulse_state[1])
        if not _pulse_state[0]:
            _pulse_state[0] = True
            _schedule(_turn, 0)


def _keep_pulse():
    while True:
        try:
            _pulse()
        except RuntimeError:  # the queue is full: the next pulse does it
            _pulse_state[0] = False


class Pin:
    """A pin that nothing is connected to: it reads what was last written, or its pull-up."""

    IN = 1
    OUT = 3
    OPEN_DRAIN = 7
    PULL_UP = 2
    PULL_DOWN = 1
    IRQ_RISING = 1
    IRQ_FALLING = 2
    WAKE_LOW = 4
    WAKE_HIGH = 5
    _values = {}

    def __init__(self, id, mode=-1, pull=-1, *, value=None, **options):
        self._id = id
        self.init(mode, pull, value=value, **options)

    def init(self, mode=-1, pull=-1, *, value=None, drive=None, hold=None):
        if value is not None:
            self.value(value)
        elif pull == self.PULL_UP:
            self._values.setdefault(self._id, 1)

    def value(self, value=None):
        if value is None:
            return self._values.get(self._id, 0)
        self._values[self._id] = 1 if value else 0

    __call__ = value

    def on(self):
        self.value(1)

    def off(self):
        self.value(0)

    def toggle(self):
        self.value(not self.value())

    def irq(self, handler=None, trigger=3, *, wake=None, hard=False):
        """Nothing ever changes the pin but the program."""
