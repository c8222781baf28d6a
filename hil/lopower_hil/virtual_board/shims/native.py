"""Native code for the board's chip does not run here: lopower's own kernels are taken as compiled for this processor.

Other native modules fail to import here, as they would on a board with another chip.
"""

import os
import sys

import vfs

_MODULE = "kernels_native"
_PLACE = "/.native"


def importer(original):
    """`__import__` that has a translation of the kernels."""
    directory = os.getenv("BOARD_NATIVE")

    def import_(name, *arguments):
        try:
            return original(name, *arguments)
        except ValueError:  # incompatible .mpy file
            if not directory or not (name == _MODULE or name.endswith("." + _MODULE)):
                raise
        vfs.mount(vfs.VfsPosix(directory), _PLACE)
        sys.path.insert(0, _PLACE)
        try:
            return original(_MODULE)
        finally:
            sys.path.remove(_PLACE)
            vfs.umount(_PLACE)

    return import_
