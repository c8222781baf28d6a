"""What MicroPython runs first. Its names are those of the REPL, so boot.py and main.py get them too."""

import sys

sys.path[0] = ""  # not where this lies on the host: tracebacks then name modules as on a board

import _boot  # noqa: E402

_boot.run(globals())
