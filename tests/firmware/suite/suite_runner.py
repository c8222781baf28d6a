"""Runs the cases of one module on MicroPython and prints how each went."""

import sys


def run(name):
    """Each function `test_…` of a module of this folder."""
    module = __import__(name)
    for case in sorted(dir(module)):
        if case.startswith("test_"):
            try:
                getattr(module, case)()
            except Exception as error:
                print("FAILED", case)
                sys.print_exception(error)
                print("END", case)
            else:
                print("PASSED", case)
