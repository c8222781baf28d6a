"""A start, with the settings, the network, the tunnel, the timer; and the last step before a deep sleep.

Loaded for one call: what it makes refers to nothing here, so that the module can go.
"""

import os

from . import _once


def running(path, with_changes, network, counter):
    """(the tunnel, None), or (None, in words what is wrong with the settings), which is printed, too.

    `with_changes`: whether the settings that came with an update count beside those in `path`.
    """
    settings = _once("settings")
    try:
        wanted = settings.load(path, _changes() if with_changes else None)
    except settings.SettingsError as error:
        print("lopower:", str(error))
        return None, str(error)
    settings = None
    _once("journal").started()
    from . import sockets
    from .tunnel import Tunnel

    wlan = station = None
    if network is not None:
        network()
    else:
        wlan, station = _once("wifi").join(wanted)
    tunnel = Tunnel(wanted, sockets.original, counter, wlan, station, _trial())
    _wake(tunnel)
    sockets.install(tunnel)
    return tunnel, None


def timer(number, period, tick):
    """(a timer that calls `tick` every `period` ms, `micropython.schedule`), or None without one.

    `number` is a timer's, or True for a virtual one, or else the first.
    """
    if number is None or number is False:
        return None
    try:
        from machine import Timer
        from micropython import schedule
    except ImportError:
        return None  # sockets and programs pump
    for candidate in (-1, 0) if number is True else (number,):
        try:
            made = Timer(candidate)
            made.init(period=period, callback=tick)
        except (ValueError, OSError):
            continue
        return made, schedule
    print("lopower: there is no timer", number)
    return None


def deepsleep(record, milliseconds):
    """`machine.deepsleep`, with the record, unless it is None, behind what the RTC's memory holds."""
    import machine

    if record is not None:
        rtc = machine.RTC()
        try:
            rtc.memory(rtc.memory() + record)
        except ValueError:
            print("lopower: the RTC's memory is full: the wake will need a handshake")
    if milliseconds is None:
        machine.deepsleep()
    else:
        machine.deepsleep(milliseconds)


def _changes():
    """The settings that belong to this set of files, if it has any."""
    path = __file__.rpartition("/")[0].rpartition("/")[0] + "/lopower.json"
    try:
        os.stat(path)
    except OSError:
        return None
    return path


def _trial():
    """What watches a set of files on trial, if boot.py has noted one."""
    trial = _once("trial")
    return trial.pending(trial.directory()[0])


def _wake(tunnel):
    """Go on with what was before a deep sleep, if the RTC's memory has a record of it."""
    try:
        import machine

        rtc = machine.RTC()
        if rtc.memory()[-4:-1] == b"lpw":
            is_wake = machine.reset_cause() == machine.DEEPSLEEP_RESET
            # A set of files on trial is to show that it makes a handshake
            _once("sleep").wake(tunnel, rtc, is_wake and tunnel.trial is None)
    except (ImportError, AttributeError):
        pass  # a port without
