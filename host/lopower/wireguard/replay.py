"""The replay window: which message counters of a session were accepted already (RFC 6479's semantics, window 8128).

RFC 6479 keeps a ring of machine words so that a slide of the window costs a few stores. A Python integer gives the
same for a whole batch: a slide is one shift, and `n` consecutive counters are one OR, whatever `n` is. A session that
has seen few messages has a small integer, which matters with 10,000 of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

WINDOW_SIZE: Final = 8128
"""A counter may lie this far behind the greatest one accepted; one more is refused."""

_MASK: Final = (1 << (WINDOW_SIZE + 1)) - 1


class ReplayWindow:
    """To be asked only after a message has been authenticated."""

    __slots__ = ("_greatest", "_seen")

    def __init__(self) -> None:
        self._greatest = -1
        self._seen = 0  # bit k: counter `_greatest - k` was accepted

    def accept(self, counter: int) -> bool:
        """Whether `counter` (64 bits) is fresh; if so, it no longer is."""
        ahead = counter - self._greatest
        if ahead > 0:
            self._slide(ahead, 1)
            return True
        if ahead < -WINDOW_SIZE or self._seen >> -ahead & 1:
            return False
        self._seen |= 1 << -ahead
        return True

    def accept_many(self, counters: npt.NDArray[np.uint64]) -> Sequence[int]:
        """`accept` for each counter in order; returns the positions that were refused."""
        count = len(counters)
        first: int = counters.item(0)
        last: int = counters.item(-1)
        span = last - first
        if first > self._greatest and count - 1 <= span <= WINDOW_SIZE and (counters[1:] > counters[:-1]).all():
            if span == count - 1:
                accepted = (1 << count) - 1
            else:
                flags = np.zeros(span + 1, np.uint8)
                flags[(np.uint64(last) - counters).astype(np.intp)] = 1
                accepted = int.from_bytes(np.packbits(flags, bitorder="little").tobytes(), "little")
            self._slide(last - self._greatest, accepted)
            return ()
        return [position for position, counter in enumerate(counters.tolist()) if not self.accept(counter)]

    def _slide(self, ahead: int, accepted: int) -> None:
        """Move the window up by `ahead` counters and mark `accepted`, bit 0 of which is the new greatest."""
        if ahead <= WINDOW_SIZE:
            accepted |= self._seen << ahead
        self._seen = accepted & _MASK
        self._greatest += ahead
