"""What MicroPython runs first. Its names are those of the REPL, so boot.py and main.py get them too."""

import _boot

_boot.run(globals())
