"""Native code for the board's chip does not run here: lopower's own kernels are taken as compiled for this processor.

Other native modules fail to import here, as they would on a board with another chip.
"""

import os
import sys

import vfs

_PACKAGE = "lopower"
_MODULE = "kernels"
_PLACE = "/.native"


def importer(original):
    """`__import__` that has a translation of the kernels."""
    directory = os.getenv("BOARD_NATIVE")

    def import_(name, *arguments):
        full = _PACKAGE + "." + _MODULE
        if directory and name.partition(".")[0] == _PACKAGE and full not in sys.modules:
            package = original(_PACKAGE)
            try:
                original(full)
            except ImportError:  # another package of this name
                pass
            except ValueError:  # incompatible .mpy file
                sys.modules[full] = module = _translation()
                setattr(package, _MODULE, module)
        return original(name, *arguments)

    def _translation():
        vfs.mount(vfs.VfsPosix(directory), _PLACE)
        sys.path.insert(0, _PLACE)
        try:
            return original(_MODULE)
        finally:
            sys.path.remove(_PLACE)
            vfs.umount(_PLACE)
            sys.modules.pop(_MODULE, None)

    return import_
