"""lopower on a device: a WireGuard tunnel to the proxy, and sockets that use it.

import lopower
lopower.start()        # reads /lopower.json, returns at once
lopower.wait(30)       # until the tunnel is up
lopower.status()
"""

SETTINGS = "/lopower.json"
COUNTER = "/lopower.count"
PUMP_PERIOD = 20
"""Milliseconds between two turns of the timer, for programs that do not touch a socket for long."""

_running = None  # not `tunnel`: that is the submodule
problem = None
_timer = None
"""What pumps, and the port's `schedule`."""


def start(path=SETTINGS, network=None, counter=COUNTER):
    """Start the tunnel and take the place of the module `socket`.

    path: the settings; beside those of `SETTINGS`, the settings that came with an update count.
    network: what brings up the network instead of Wi-Fi, called once without arguments. What is wrong with the settings
    is printed and told by `status`, and nothing is started; returns whether it was.
    """
    global _running, problem, _timer
    if _running is not None:
        return True
    begin = _once("begin")
    _running, problem = begin.running(path, path == SETTINGS, network, counter)
    if _running is None:
        return False
    _timer = begin.timer(_running.settings.timer, PUMP_PERIOD, _tick)
    return True


def stop():
    """End the tunnel; `socket` is the original again."""
    global _running, _timer
    if _running is None:
        return
    from . import sockets

    if _timer is not None:
        _timer[0].deinit()
        _timer = None
    sockets.uninstall()
    ended, _running = _running, None
    ended.close()


def deepsleep(milliseconds=None):
    """Sleep by `machine.deepsleep`; a start after the wake goes on with the session, if it is still alive.

    Open sockets fail. What a program keeps in the RTC's memory stays as it is, and may have 1,800 of its bytes.
    """
    record = None
    if _running is not None:
        record = _once("sleep").take(_running)
        stop()
    _once("begin").deepsleep(record, milliseconds)


def diagnose():
    """What is on the way to a proxy that does not answer, by trying it out for some seconds: a text."""
    return _once("diagnosis").diagnose(_running, problem)


def wait(seconds=30):
    """Pump until the tunnel is up; whether it is."""
    from . import ticks
    from .tunnel import clock

    if _running is None:
        return False
    end = ticks.add(clock(), int(seconds * 1000))
    poller, generation = None, -1
    while True:
        _running.pump()
        if _running.is_up():
            return True
        left = ticks.diff(end, clock())
        if left <= 0:
            return False
        if generation != _running.generation:
            poller, generation = _running.poller(), _running.generation
        _running.wait(poller, left)


def pump(_=None):
    """One turn, for programs that neither use sockets often nor have a timer to spare."""
    if _running is not None:
        _running.pump()


def _tick(_):
    """What the timer calls: it makes no object, as some ports call it within an interrupt."""
    try:
        if _timer is not None:
            _timer[1](pump, 0)
    except RuntimeError:  # the queue is full: the next tick does it
        pass


async def run():
    """A task for asyncio programs: pumps as long as the tunnel is there."""
    import asyncio

    while _running is not None:
        _running.pump()
        await asyncio.sleep_ms(PUMP_PERIOD)


def status():
    """What is up, what is not and why, as a dictionary."""
    return _once("report").report(_running, problem)


def log(what):
    """Keep an exception, or a text, in flash, for `lopower device logs`. The oldest entries go; flash wears: seldom."""
    _once("journal").note(what)


def _load(name):
    """A module of this package. Raises MemoryError, or OSError for whatever is wrong with its file."""
    import sys

    full = __name__ + "." + name
    try:
        __import__(full)
    except MemoryError:
        _forget(name)
        raise
    except Exception as error:
        _forget(name)
        raise OSError("%s is not loaded: %r" % (full, error)) from error
    return sys.modules[full]


def _forget(name):
    """What nothing else holds of a module goes."""
    import sys

    package = sys.modules[__name__]
    sys.modules.pop(__name__ + "." + name, None)
    if hasattr(package, name):
        delattr(package, name)


def _once(name):
    """A module of this package that is needed for one call: nothing keeps it afterwards, as the heap is small."""
    module = _load(name)
    _forget(name)
    return module
