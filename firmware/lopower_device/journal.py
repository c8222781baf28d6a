"""A small log in flash: starts with the cause of the reset, updates, exceptions. Two files, of which the older one goes.

An entry is `[seconds since 1970, or 0 where the clock is not set; milliseconds since the start; text]`, a line of JSON.
"""

import io
import json
import os
import sys

from .tunnel import clock, wall_clock

MAX_FILE = 2048
MAX_TEXT = 400
HEAD = 100
"""Characters of a text that is too long that are kept of its beginning; the rest is its end, where the exception is."""
FILES = ("lopower.log.old", "lopower.log")
SECRETS = ("private_key", "preshared_key", "password")


def _root():
    path = __file__.rpartition("/")[0].rpartition("/")[0]
    return path.rpartition("/")[0] + "/"


def note(what):
    """Write an entry, for a text or an exception with its traceback. What does not fit into flash is left out."""
    if isinstance(what, BaseException):
        text = io.StringIO()
        if hasattr(sys, "print_exception"):
            sys.print_exception(what, text)
        what = (text.getvalue() or repr(what)).strip()
    _write(_without_secrets(str(what)))


def _without_secrets(text):
    """An exception may quote what a program was given: keys and passwords of the settings stay out of the log."""
    directory = __file__.rpartition("/")[0].rpartition("/")[0]
    for path in ("/lopower.json", directory + "/lopower.json"):
        try:
            with open(path) as file:
                content = json.load(file)
            for entry in [content] + content.get("proxies", []) + content.get("wifi", []):
                for name in SECRETS:
                    if entry.get(name):
                        text = text.replace(entry[name], "***")
        except (OSError, ValueError, TypeError, AttributeError):
            pass  # no settings, or none of ours
    return text


def _write(text):
    if len(text) > MAX_TEXT:
        text = text[:HEAD] + "\n...\n" + text[HEAD - MAX_TEXT :]
    line = json.dumps([wall_clock() or 0, clock(), text]) + "\n"
    old, new = [_root() + name for name in FILES]
    try:
        try:
            if os.stat(new)[6] + len(line) > MAX_FILE:
                os.rename(new, old)
        except OSError:
            pass  # there is none yet
        with open(new, "a") as file:
            file.write(line)
    except OSError:
        pass


def started():
    """A start; those out of deep sleep are too many to be kept."""
    try:
        import machine

        cause = machine.reset_cause()
        if cause == machine.DEEPSLEEP_RESET:
            return
    except (ImportError, AttributeError):
        return  # no board
    for name in ("PWRON_RESET", "HARD_RESET", "WDT_RESET", "SOFT_RESET"):
        if getattr(machine, name, None) == cause:
            cause = name[:-6].lower()
            break
    _write("started: %s" % cause)


def files():
    """Where the entries are, the older ones first."""
    return [_root() + name for name in FILES]
