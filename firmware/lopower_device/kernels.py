"""The native kernels where they were compiled for this processor, else the plain ones: the same functions."""

try:
    from .kernels_native import *  # noqa: F403

    NATIVE = True
except (ImportError, ValueError, AttributeError):  # no such file; another architecture's; no Viper (CPython)
    from .kernels_plain import *  # noqa: F403

    NATIVE = False
