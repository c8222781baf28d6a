"""`make flame-graph`: where the daemon's microseconds go, by layer and direction, from a profile that py-spy samples.

One bulk flow of wireguard-go through a daemon with the host driver. The cost comes from a transfer that nobody watches,
the shares from one that py-spy stops 250 times a second, native frames included; so a call into OpenSSL, numpy or the
kernel is charged to the function of lopower that makes it, and counted by what it is. Prints tables of microseconds for
one full packet, and writes docs/flame-graph.svg.
"""

from __future__ import annotations

import argparse
import html
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tests.bench.processes import cpu_seconds
from tests.bench.systems import System, start_lopower

OUTPUT: Final = Path("docs/flame-graph.svg")
PAYLOAD: Final = 1368  # of a packet of 1,420 bytes: IPv4, TCP with time stamps
KINDS: Final = ("cipher", "kernel", "numpy", "interpreter")
_SECONDS: Final = 8
_SAMPLES_PER_SECOND: Final = "250"
_LEAST_SHARE: Final = 0.004  # narrower frames have no room for a word
_WIDTH, _ROW = 1200, 16
_COLOURS: Final = {
    "wireguard": "#e8a33d", "netstack": "#6aa84f", "bridge": "#5b9bd5", "daemon": "#b678c4", "wire": "#c9b458",
    "tailnet": "#5fb7b0", "dns": "#999999", "cipher": "#d9534f", "kernel": "#8a8a8a", "numpy": "#a9c47f",
}  # fmt: skip
_WAITING_WORKER: Final = "_worker (concurrent/futures/thread.py"
"""A thread of asyncio's pool that waits for work, which py-spy takes for running."""

Stacks = Counter[tuple[str, ...]]
"""Samples by stack: labels such as `wireguard: Sealer.seal`, from the outermost on."""


def read(raw: str) -> Stacks:
    """py-spy's raw format, one stack and its samples a line, as stacks of our own frames and the kind of their ends."""
    stacks: Stacks = Counter()
    for line in raw.splitlines():
        folded, _, count = line.rpartition(" ")
        if _WAITING_WORKER in folded and "/lopower/" not in folded and "(lopower/" not in folded:
            continue
        labels: list[str] = []
        natives: list[str] = []
        for frame in folded.split(";"):
            if found := re.fullmatch(r"(\S+) \((?:.*/)?lopower/(.+)\.py(?::\d+)?\)", frame):
                labels.append(f"{found[2].split('/')[0]}: {found[1]} ({found[2].rpartition('/')[2]})")
                natives.clear()
            else:
                natives.append(frame)
        if (kind := _kind(natives)) != "interpreter":
            labels.append(kind)
        stacks[tuple(labels)] += int(count)
    return stacks


def shares(stacks: Stacks) -> dict[tuple[str, str], float]:
    """Parts of the whole by layer and kind."""
    total = sum(stacks.values())
    found: Counter[tuple[str, str]] = Counter()
    for stack, count in stacks.items():
        kind = stack[-1] if stack and stack[-1] in KINDS else "interpreter"
        ours = stack[:-1] if kind != "interpreter" else stack
        found[ours[-1].partition(":")[0] if ours else "asyncio", kind] += count
    return {key: count / total for key, count in found.items()}


def table(found: dict[tuple[str, str], float], microseconds: float) -> str:
    """Microseconds for one packet, by layer and kind."""
    layers = sorted({layer for layer, _ in found}, key=lambda one: -sum(found.get((one, kind), 0) for kind in KINDS))
    lines = [f"| | {' | '.join(KINDS)} | all |", f"|---|{'---|' * (len(KINDS) + 1)}"]
    for layer in layers:
        row = [found.get((layer, kind), 0.0) * microseconds for kind in KINDS]
        if sum(row) >= 0.005:
            lines.append(f"| {layer} | {' | '.join(_cell(value) for value in row)} | {_cell(sum(row))} |")
    sums = [sum(share for (_, of), share in found.items() if of == kind) * microseconds for kind in KINDS]
    lines.append(f"| all | {' | '.join(_cell(value) for value in sums)} | {_cell(microseconds)} |")
    return "\n".join(lines)


def picture(parts: dict[str, Stacks]) -> str:
    """An SVG image: one flame for each direction, the outermost call at the bottom."""
    body: list[str] = []
    top = 0
    for title, stacks in parts.items():
        total = sum(stacks.values())
        depth = max((len(stack) for stack in stacks), default=0)
        body.append(f'<text x="4" y="{top + 16}" font-weight="bold" font-size="13">{html.escape(title)}</text>')
        bottom = top + 24 + depth * _ROW
        body += _frames(stacks, total, 0.0, 0, bottom)
        top = bottom + 12
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top}" font-family="sans-serif" '
        f'font-size="10">\n<rect width="{_WIDTH}" height="{top}" fill="#ffffff"/>\n' + "\n".join(body) + "\n</svg>\n"
    )


def _frames(stacks: Stacks, total: int, left: float, level: int, bottom: int) -> list[str]:
    """What stands above `level` frames, from `left` on, widest first."""
    parts: list[str] = []
    by_label: dict[str, Stacks] = {}
    for stack, count in stacks.items():
        if len(stack) > level:
            by_label.setdefault(stack[level], Counter())[stack] += count
    for label, inner in sorted(by_label.items(), key=lambda item: -sum(item[1].values())):
        share = sum(inner.values()) / total
        if share < _LEAST_SHARE:
            continue
        width, y = share * _WIDTH, bottom - (level + 1) * _ROW
        colour = _COLOURS.get(label.partition(":")[0], "#cccccc")
        name = label.partition(": ")[2] or label
        parts.append(
            f'<g><title>{html.escape(label)}: {share:.1%}</title><rect x="{left:.1f}" y="{y}" width="{width:.1f}" '
            f'height="{_ROW - 1}" fill="{colour}"/>'
        )
        room = int(width / 5.4)
        if room >= 3:
            text = name if len(name) <= room else f"{name[: room - 1]}…"
            parts.append(f'<text x="{left + 2:.1f}" y="{y + 11}">{html.escape(text)}</text>')
        parts.append("</g>")
        parts += _frames(inner, total, left, level + 1, bottom)
        left += width
    return parts


def _kind(natives: list[str]) -> str:
    """What the frames above our innermost one are."""
    told = " ".join(natives)
    if "_rust" in told or "cryptography" in told or "sodium" in told:
        return "cipher"
    if "numpy" in told or "multiarray" in told:
        return "numpy"
    if re.search(r"_socket|select|sendmsg|recvmsg|epoll", told):
        return "kernel"
    return "interpreter"


def _cell(value: float) -> str:
    return f"{value:.2f}" if value >= 0.005 else ""


def profile(system: System, down: bool, directory: Path) -> tuple[float, Stacks]:
    """CPU seconds per GB without the profiler, and what it saw."""
    pid = system.processes["daemon"]
    system.load.bulk(down, 1)
    before = cpu_seconds(pid)
    moved, _ = system.load.bulk(down, _SECONDS // 2)
    cost = (cpu_seconds(pid) - before) / moved * 1e9
    raw = directory / f"{'down' if down else 'up'}.txt"
    watcher = subprocess.Popen(
        [Path(sys.executable).with_name("py-spy"), "record", "--pid", str(pid), "--native", "--format", "raw",
         "--rate", _SAMPLES_PER_SECOND, "--duration", str(_SECONDS - 1), "--output", str(raw)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    system.load.bulk(down, _SECONDS + 1)
    if watcher.wait(60):
        raise RuntimeError(f"py-spy ended with {watcher.returncode}")
    return cost, read(raw.read_text())


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="make flame-graph", description=__doc__)
    parser.add_argument("--raw", type=Path, help="a directory that keeps what py-spy wrote")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("flame-graph needs root: it uses network namespaces and TUN devices")
    parts: dict[str, Stacks] = {}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lopower-flame-")))
        system = start_lopower(stack, directory, None)
        for down in (False, True):
            cost, stacks = profile(system, down, arguments.raw or directory)
            title = "network to device" if down else "device to network"
            microseconds = cost * PAYLOAD / 1e3
            print(f"\n{title}: {cost:.2f} s/GB, {microseconds:.2f} us for a packet\n")
            print(table(shares(stacks), microseconds))
            parts[f"{title}: {microseconds:.1f} µs for a packet of 1,420 bytes"] = stacks
    OUTPUT.write_text(picture(parts))
    print(f"\nwrote {OUTPUT}")


if __name__ == "__main__":
    main()
