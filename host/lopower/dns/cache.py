"""Answers kept for as long as their TTLs say (RFC 1035 section 7.4, RFC 2308), bounded in number and in bytes."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from lopower.dns.answer import Answer
from lopower.dns.message import Question

# What an entry costs beside its bytes: key, objects, and the dictionary's share.
ENTRY_OVERHEAD: Final = 600


class Cache:
    """The least recently used answer leaves first.

    Args:
        max_entries: how many; a device that asks for random names could fill any number.
        max_bytes: how much they hold together, overhead included; answers can have 64 KB.

    Attributes:
        size: bytes held, overhead included.
        evicted: answers that left before their time.
    """

    def __init__(self, *, max_entries: int, max_bytes: int) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._entries: OrderedDict[Question, tuple[Answer, float, float]] = OrderedDict()
        self.size = 0
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, question: Question, now: float) -> tuple[Answer, int] | None:
        """The answer and its age in whole seconds."""
        entry = self._entries.get(question)
        if entry is None:
            return None
        answer, stored, expires = entry
        if now >= expires:
            self._remove(question)
            return None
        self._entries.move_to_end(question)
        return answer, int(now - stored)

    def put(self, question: Question, answer: Answer, now: float) -> None:
        """Keep `answer`, if it may be kept, in place of an older one."""
        if question in self._entries:
            self._remove(question)
        if not answer.lifetime:
            return
        self._entries[question] = answer, now, now + answer.lifetime
        self.size += _cost(question, answer)
        while len(self._entries) > self._max_entries or self.size > self._max_bytes:
            self._remove(next(iter(self._entries)))
            self.evicted += 1

    def clear(self) -> None:
        """Forget everything: the resolvers changed, and others may answer otherwise."""
        self._entries.clear()
        self.size = 0

    def _remove(self, question: Question) -> None:
        answer, _, _ = self._entries.pop(question)
        self.size -= _cost(question, answer)


def _cost(question: Question, answer: Answer) -> int:
    return ENTRY_OVERHEAD + len(question.name) + len(answer.wire) + 80 * len(answer.ttls)
