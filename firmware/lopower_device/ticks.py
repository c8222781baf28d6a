"""Time as the cores know it: milliseconds modulo 2^29, about six days, so that no value leaves a small integer of 31 bits.

Two times that are compared lie less than three days apart; what may be older is cleared by a timer long before.
"""

MASK = 0x1FFFFFFF
_HALF = 0x10000000
_PERIOD = 0x20000000


def add(time, milliseconds):
    """The time `milliseconds` later."""
    return (time + milliseconds) & MASK


def diff(time, earlier):
    """Milliseconds from `earlier` to `time`; negative if `earlier` lies ahead."""
    d = (time - earlier) & MASK
    return d - _PERIOD if d >= _HALF else d
