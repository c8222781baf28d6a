"""What `lopower flash` says at the end: for people, and for programs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from lopower.cli import output
from lopower_provisioning.job import Outcome


def document(outcome: Outcome) -> dict[str, Any]:
    """An outcome as JSON; it holds no secret."""
    return asdict(outcome)


def success(outcome: Outcome, offline: bool, devices: str) -> str:
    """One board that is done."""
    name = outcome.name
    if outcome.state == "connected":
        title = f"{name} is connected ({outcome.seconds:.1f} s)."
    else:
        title = f"{name} is flashed ({outcome.seconds:.1f} s); it connects once the server knows it."
    items = [
        ("board", f"{outcome.chip}, {outcome.mac}"),
        ("public key", outcome.public_key),
        ("addresses", ", ".join(outcome.addresses)),
        ("names", ", ".join(outcome.names)),
    ]
    if offline:
        items.append(("next", f"at the server: lopower device add --csv {devices}"))
    else:
        items += [
            ("next", f"lopower ping {name}"),
            ("", f"lopower device allow {name} RULE     what it may reach"),
            ("", f"lopower expose {name} --port 8080:80     the tailnet reaches its web page"),
            ("", f"mpremote connect {outcome.port}     its console"),
        ]
    return f"{title}\n{output.pairs(item for item in items if item[1])}"


def failure(outcome: Outcome) -> str:
    """One board that is not."""
    lines = [f"lopower: {outcome.error}", f"  {outcome.board_state}"]
    if outcome.hint:
        lines.append(f"  {outcome.hint}")
    return "\n".join(lines)


def report(outcomes: Iterable[Outcome]) -> str:
    """Several boards: a table, and below it what went wrong."""
    known = list(outcomes)
    rows = [
        (entry.label, entry.port, entry.mac, entry.state, f"{entry.seconds:.1f} s", ", ".join(entry.addresses))
        for entry in known
    ]
    text = output.table(("BOARD", "PORT", "MAC", "STATE", "TIME", "ADDRESSES"), rows)
    failed = [entry for entry in known if entry.state == "failed"]
    for entry in failed:
        text += f"\n\n{entry.label}: {entry.error}\n  {entry.board_state}" + (f"\n  {entry.hint}" if entry.hint else "")
    return f"{text}\n\n{len(known) - len(failed)} of {len(known)} boards are done"
