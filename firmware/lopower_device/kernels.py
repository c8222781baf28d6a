"""The kernels: plain ones where the package runs from its sources; build.py puts native ones into this module's place."""

from .kernels_plain import *  # noqa: F403
