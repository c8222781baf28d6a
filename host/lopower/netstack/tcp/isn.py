"""Initial sequence numbers (RFC 6528), time stamp offsets (RFC 7323 section 7.1) and ephemeral ports (RFC 6056)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

EPHEMERAL_FIRST: Final = 49152  # RFC 6335 section 6: the dynamic range
EPHEMERAL_COUNT: Final = 16384
_TRIES: Final = 64  # of random ports, before the range is searched from a random start


class InitialSequenceNumbers:
    """ISN = M + F(addresses, ports, secret), M being a 4-microsecond timer (RFC 6528 section 3)."""

    __slots__ = ("_entropy", "_secret")

    def __init__(self, entropy: Callable[[int], bytes]) -> None:
        self._entropy = entropy
        self._secret = entropy(32)

    def draw(self, flow: bytes, now: float) -> tuple[int, int]:
        """(ISN, offset of the time stamp clock) of a flow, named by its addresses and ports."""
        digest = hashlib.blake2s(flow, key=self._secret, digest_size=8).digest()
        offset = int.from_bytes(digest[:4], "big")
        return (int(now * 250_000) + offset) & 0xFFFFFFFF, int.from_bytes(digest[4:], "big")

    def ephemeral_port(self, is_free: Callable[[int], bool]) -> int | None:
        """A random port that is free (RFC 6056 section 3.3.2), or None."""
        for _ in range(_TRIES):
            port = EPHEMERAL_FIRST + int.from_bytes(self._entropy(2), "big") % EPHEMERAL_COUNT
            if is_free(port):
                return port
        start = int.from_bytes(self._entropy(2), "big")
        candidates = (EPHEMERAL_FIRST + (start + step) % EPHEMERAL_COUNT for step in range(EPHEMERAL_COUNT))
        return next(filter(is_free, candidates), None)
