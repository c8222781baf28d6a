"""Several boards at once; what goes wrong with one stops no other."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from lopower_provisioning.job import Outcome, Request, flash
from lopower_provisioning.steps import Reporter

MAX_AT_ONCE: Final = 8
"""A USB hub's bandwidth, and a proxy's patience with handshakes, last for more; a desk does not."""


def flash_all(requests: Sequence[Request], reporter: Reporter) -> list[Outcome]:
    """Their outcomes, in the order of the requests. On Ctrl-C those under way are finished, and no more begun."""
    with ThreadPoolExecutor(MAX_AT_ONCE, thread_name_prefix="flash") as pool:
        futures: list[Future[Outcome]] = [pool.submit(flash, request, reporter) for request in requests]
        try:
            return [_outcome(future, request) for future, request in zip(futures, requests, strict=True)]
        except KeyboardInterrupt:
            for future in futures:
                future.cancel()
            raise


def _outcome(future: Future[Outcome], request: Request) -> Outcome:
    try:
        return future.result()
    except Exception as error:  # an error of ours: the other boards are not to suffer from it
        return Outcome(request.label, request.port, error=f"lopower made an error of its own: {error!r}")
