"""What happens before boot.py: the board's modules are put in place, and its file system at /."""

import os
import sys

import _board
import _modules
import vfs


def run(names):
    """Boot; `names` are the globals of boot.py, main.py and the REPL."""
    _modules.install()
    _mount()
    sys.path[:] = ["", ".frozen", "/lib"]
    for name in ("_boot", "_board", "_modules"):
        sys.modules.pop(name, None)
    names.clear()
    names["__name__"] = "__main__"
    _board.wires.phase = 1
    try:
        _run("boot.py", names)
        if not _board.wires.raw:
            _run("main.py", names)
    except KeyboardInterrupt:  # between the two
        pass
    _board.wires.phase = 2
    _board.message(b"E", b"")


def _mount():
    """As stock MicroPython does it (inisetup.py): the file system is made if there is none."""
    region = _board.Region(_board.wires.files_offset, _board.wires.files_size)
    vfs.umount("/")
    try:
        vfs.mount(region, "/")
    except OSError:
        print("Performing initial setup")
        vfs.VfsLfs2.mkfs(region)
        vfs.mount(region, "/")
        with open("/boot.py", "w") as file:
            file.write("# This file is executed on every boot (including wake-boot from deepsleep)\n")
    os.chdir("/")


def _run(name, names):
    """What is wrong with a program is printed, and the boot goes on."""
    try:
        with open(name) as file:
            source = file.read()
    except OSError:
        return
    try:
        exec(compile(source, name, "exec"), names)
    except SystemExit:
        _board.ask(b"soft reset")
    except BaseException as error:
        sys.print_exception(error)
