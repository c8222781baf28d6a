"""What a freshly flashed board is asked to do over its REPL: make its key, store its settings, say how it is.

The private key is made on the board and stays there: it lies in the board's memory until the settings come, and then in
/lopower.json. Each program prints one line that begins with a mark, among whatever else the board prints.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any, Final

from lopower_provisioning.errors import BoardState, FlashError
from lopower_provisioning.repl import RunningBoard

_KEY_MARK: Final = "lopower-key "
_STORED_MARK: Final = "lopower-stored"
_STATE_MARK: Final = "lopower-state "
_TRIAL_MARK: Final = "lopower-trial "

# The radio is on while the key is drawn: without it the chip's random numbers are not random (ESP-IDF Programming
# Guide, "Random Number Generation").
_MAKE_KEY: Final = f"""\
import sys, os, network
from binascii import b2a_base64
network.WLAN(network.STA_IF).active(True)
if "/lopower_a" not in sys.path:
    sys.path.insert(0, "/lopower_a")
from lopower.noise import public_key
_lopower_key = os.urandom(32)
print({_KEY_MARK!r} + b2a_base64(public_key(_lopower_key)).decode().strip())
"""

# Written beside and renamed: a power cut leaves the old file or the new one.
_STORE: Final = """\
import json, os
from binascii import b2a_base64
_lopower = json.loads({settings!r})
_lopower["private_key"] = b2a_base64(_lopower_key).decode().strip()
with open("/lopower.json.new", "w") as _file:
    json.dump(_lopower, _file)
with open("/lopower.json.new") as _file:
    _same = json.load(_file) == _lopower
if not _same:
    raise OSError("the settings are not in flash")
os.rename("/lopower.json.new", "/lopower.json")
print({mark!r})
"""

_STATE: Final = f"""\
import sys
_lopower = sys.modules.get("lopower")
print({_STATE_MARK!r} + (_lopower.status()["state"] if _lopower else "lopower does not run"))
"""


# The program that pumped the tunnel may have been interrupted.
_TRIAL: Final = f"""\
import json, sys
_lopower = sys.modules.get("lopower")
if _lopower:
    _lopower.wait(2)
try:
    with open("/lopower.sets") as _file:
        _sets = json.load(_file)
except (OSError, ValueError):
    _sets = {{}}
_sets["said"] = _lopower.status()["state"] if _lopower else "lopower does not run"
print({_TRIAL_MARK!r} + json.dumps(_sets))
"""


@dataclass(frozen=True, slots=True)
class Trial:
    """What a board keeps about its sets of files.

    Attributes:
        confirmed, rejected: numbers of sets; 0: none.
        reason: why that one was given up.
        said: what the running tunnel says of itself.
    """

    confirmed: int
    rejected: int
    reason: str
    said: str


def make_key(board: RunningBoard) -> str:
    """Have the board make its key; the public half, in base64.

    Raises FlashError if it cannot, or says something that is no key.
    """
    try:
        printed = board.run(_MAKE_KEY, 20.0)
    except FlashError as error:
        if "network" in str(error):
            raise FlashError(
                "the board has no radio that MicroPython knows, so it has no good random numbers",
                "make the key here: --keys host",
                BoardState.WITHOUT_KEY,
            ) from None
        raise
    text = _marked(printed, _KEY_MARK)
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != 32 or not any(key):
        raise FlashError("the board did not make a key", "run the same command again", BoardState.WITHOUT_KEY)
    return text


def store_settings(board: RunningBoard, settings: dict[str, Any]) -> None:
    """Have the board put its private key into the settings and keep them. Raises FlashError if they are not kept."""
    printed = board.run(_STORE.format(settings=json.dumps(settings), mark=_STORED_MARK))
    if _STORED_MARK not in printed:
        raise FlashError(
            "the board does not say that it has its settings", "run the same command again", BoardState.WITHOUT_KEY
        )


def state(board: RunningBoard) -> str:
    """What the running tunnel says of itself, in words. Raises FlashError if it does not answer."""
    return _printable(_marked(board.run(_STATE), _STATE_MARK))


def trial(board: RunningBoard) -> Trial:
    """How far the trial of a new set of files is, after some seconds for a handshake.

    Raises FlashError if the board does not answer, or with something else.
    """
    try:
        found = json.loads(_marked(board.run(_TRIAL), _TRIAL_MARK))
        confirmed, rejected = int(found.get("confirmed", 0)), int(found.get("rejected", 0))
        reason, said = (str(found.get(name, "")) for name in ("reason", "said"))
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise FlashError(f"the board at {board.port} says something that is not understood") from None
    return Trial(confirmed, rejected, _printable(reason), _printable(said))


def _printable(text: str) -> str:
    return "".join(letter for letter in text if letter.isprintable())[:300]


def _marked(printed: str, mark: str) -> str:
    for line in printed.splitlines():
        if line.startswith(mark):
            return line.removeprefix(mark).strip()
    return ""
