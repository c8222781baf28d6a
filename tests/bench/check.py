"""`make bench-check`: the latest results against the goals; exits with 1 if one is missed or was not measured."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.bench.figures import Figures, misses

RESULTS = Path("bench/results.json")


def main() -> None:
    """See the module."""
    if not RESULTS.exists():
        sys.exit(f"{RESULTS} is not there: run `make bench` first")
    found = misses(Figures.from_json(RESULTS))
    for line in found:
        print(f"missed: {line}", file=sys.stderr)
    if found:
        sys.exit(1)
    print("every goal is reached")


if __name__ == "__main__":
    main()
