"""`machine` of the ESP32 port, as far as a board without pins has one."""

import struct
import sys
import time as _time

import _board
import machine as _machine

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
        return self._period - max(0, self._left(_time.ticks_ms()))

    def _left(self, now):
        return _time.ticks_diff(self._due, now)

    def _run(self, now):
        """What is due. Turns that were missed are not made up for."""
        if not self._repeats:
            _clock.remove(self)
        self._due = _time.ticks_add(self._due, self._period)
        if self._left(now) <= 0:
            self._due = _time.ticks_add(now, self._period)
        if self._callback is not None:
            try:
                self._callback(self)
            except Exception as error:  # as MicroPython does it with whatever is scheduled
                sys.print_exception(error)


class _Clock:
    """All timers. The launcher's thread has `turn` scheduled when the first one is due."""

    def __init__(self):
        self._timers = ()
        self._turn = self.turn  # kept: the launcher knows it by its address
        self._pulse = bytearray(12)

    def add(self, timer):
        self._timers = tuple(t for t in self._timers if t is not timer) + (timer,)
        self._tell()

    def remove(self, timer):
        self._timers = tuple(t for t in self._timers if t is not timer)

    def turn(self, _):
        try:
            for timer in self._timers:
                now = _time.ticks_ms()
                if timer._period is not None and timer._left(now) <= 0:
                    timer._run(now)
        finally:
            self._tell()

    def _tell(self):
        """When the next turn is wanted."""
        wait = _NEVER
        for timer in self._timers:
            wait = min(wait, max(0, timer._left(_time.ticks_ms())))
        struct.pack_into("<QI", self._pulse, 0, id(self._turn), wait)
        _board.pulses.write(self._pulse)


_NEVER = 0xFFFFFFFF
_clock = _Clock()


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
