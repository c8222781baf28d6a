"""`time` of the ESP32 port: the epoch is 2000-01-01, and the clock stands there when the power comes."""

import time as _time

import _board

sleep = _time.sleep
sleep_ms = _time.sleep_ms
ticks_ms = _time.ticks_ms
ticks_us = _time.ticks_us
ticks_cpu = _time.ticks_cpu
ticks_add = _time.ticks_add
ticks_diff = _time.ticks_diff


def sleep_us(microseconds):
    """The unix port's ends early when a timer interrupts it."""
    end = ticks_add(ticks_us(), int(microseconds))
    left = int(microseconds)
    while left > 0:
        _time.sleep_us(left)
        left = ticks_diff(end, ticks_us())


def time():
    return _board.clock_ns() // 1_000_000_000


def time_ns():
    return _board.clock_ns()


def gmtime(seconds=None):
    if seconds is None:
        seconds = time()
    return tuple(_time.gmtime(int(seconds) + _board.EPOCH)[:8])


localtime = gmtime


def mktime(fields):
    return int(_time.mktime(tuple(fields[:8]) + (0,) * (9 - len(fields[:8])))) - _board.EPOCH
