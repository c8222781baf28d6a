"""Where the daemon's time went, by layer, from cProfile's statistics."""

from __future__ import annotations

import pstats
from collections import Counter
from pathlib import Path
from typing import Any


def layer_of(function: tuple[str, int, str]) -> str | None:
    """The part of lopower that a profiled function belongs to; None: Python's, or a library's."""
    _, found, rest = function[0].partition("/lopower/")
    return rest.split("/")[0].removesuffix(".py") if found else None


def layers(profile: Path) -> str:
    """A table. What lopower calls (the kernel, the AEAD, numpy) is charged to the layer that called it."""
    seconds: Counter[str] = Counter()
    functions: dict[Any, Any] = pstats.Stats(str(profile)).stats  # type: ignore[attr-defined]
    for function, (_, _, own, _, callers) in functions.items():
        layer = layer_of(function)
        if layer is not None:
            seconds[layer] += own
            continue
        for caller, (_, _, share, _) in callers.items():
            waiting = "select.epoll" in function[2]
            seconds["waiting" if waiting else layer_of(caller) or "Python"] += share
    total = sum(seconds.values())
    return "\n".join(f"{layer:<22}{own:>8.2f} s{own / total:>8.1%}" for layer, own in seconds.most_common())
