"""iperf3 from a namespace, and what it says."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from typing import Any, Final

from tests.support.netns import Namespace

_BUSY_SECONDS: Final = 20.0


class BusyError(RuntimeError):
    """The server serves one client at a time."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """One run.

    Attributes:
        moved: bytes that arrived.
        seconds: it took.
        shares: bytes that arrived, flow by flow.
    """

    moved: int
    seconds: float
    shares: tuple[int, ...]

    @property
    def rate(self) -> float:
        """Mbit/s."""
        return self.moved * 8 / self.seconds / 1e6


def transfer(
    space: Namespace, target: str, *, down: bool, seconds: float, port: int = 5201, options: tuple[str, ...] = ()
) -> Transfer:
    """Run to the end, once the server is done with the run before: what was slow to arrive keeps it busy.

    Raises:
        RuntimeError: iperf3 says what went wrong.
    """
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        started = command(target, down=down, seconds=seconds, port=port, options=options)
        try:
            return read(space.run(*started, check=False, timeout=seconds + 60))
        except BusyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def command(target: str, *, down: bool, seconds: float, port: int, options: tuple[str, ...] = ()) -> list[str]:
    """The command line; iperf3 knows whole seconds only, and takes none for no end."""
    reverse = ["-R"] if down else []
    control = [] if "-u" in options else ["-C", "cubic"]  # not the host's choice: BBR pays no heed to loss
    return ["iperf3", "-c", target, "-p", str(port), "-t", str(math.ceil(seconds)), "-J", *control, *reverse, *options]


def read(output: str) -> Transfer:
    """A report in JSON. Raises RuntimeError if it reports an error, or is none."""
    try:
        report: dict[str, Any] = json.loads(output)
    except ValueError:
        raise RuntimeError(f"iperf3 said: {output[-500:] or 'nothing'}") from None
    if "error" in report:
        raise (BusyError if "busy" in report["error"] else RuntimeError)(f"iperf3: {report['error']}")
    end = report["end"]
    if "sum_received" in end:
        total = end["sum_received"]
        shares = tuple(stream["receiver"]["bytes"] for stream in end["streams"] if "receiver" in stream)
        return Transfer(total["bytes"], total["seconds"], shares)
    total = end["sum"]  # UDP: the receiver's count, as it lost none of what is not in lost_percent
    moved = int(total["bytes"] * (1 - total["lost_percent"] / 100))
    return Transfer(moved, total["seconds"], (moved,))


def fairness(shares: tuple[int, ...]) -> float:
    """Jain's index: 1 if all got the same, 1/n if one got all."""
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares))
