"""What runs before boot.py: puts the board's modules in place, and its file system at /."""

import os
import sys

import _board
import _modules
import vfs


def _mount():
    """As stock MicroPython does it (inisetup.py): the file system is made if there is none."""
    region = _board.Region(_board.wires.files_offset, _board.wires.files_size)
    vfs.umount("/")
    try:
        vfs.mount(region, "/")
    except OSError:
        _board.stdout.write(b"Performing initial setup\r\n")
        vfs.VfsLfs2.mkfs(region)
        vfs.mount(region, "/")
        with open("boot.py", "w") as file:
            file.write("# This file is executed on every boot (including wake-boot from deepsleep)\n")
    os.chdir("/")


def _run(name, names):
    """Whether the boot goes on; what is wrong with the program is printed."""
    try:
        with open(name) as file:
            source = file.read()
    except OSError:
        return
    try:
        exec(compile(source, name, "exec"), names)
    except SystemExit:
        raise
    except BaseException as error:
        sys.print_exception(error)


def _boot(names):
    _modules.install()
    _mount()
    sys.path[:] = ["", ".frozen", "/lib"]
    for name in ("_start", "_board", "_modules"):
        sys.modules.pop(name, None)
    _board.wires.phase = 1
    try:
        _run("boot.py", names)
        if not _board.wires.raw:
            _run("main.py", names)
    except KeyboardInterrupt:  # between the two
        pass
    _board.wires.phase = 2
    _board.message(b"E", b"")


_boot({"__name__": "__main__"})
