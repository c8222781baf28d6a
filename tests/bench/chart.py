"""The README's chart: what a gigabyte costs, and how fast it goes, as bars."""

from __future__ import annotations

from typing import Final

from tests.bench.figures import Figures

_SYSTEMS: Final = (("lopower", "lopower (Python)", "#2a78b8"),
                   ("wireguard_go", "wireguard-go, no proxy", "#9a9a9a"),
                   ("mitmproxy", "mitmproxy (Rust)", "#d08a3c"))  # fmt: skip
_PANELS: Final = (("cpu", "CPU seconds per GB, less is better"), ("rate", "Mbit/s, more is better"))
_WIDTH, _BAR, _LEFT = 720, 18, 220


def chart(figures: Figures) -> str:
    """An SVG image."""
    parts: list[str] = []
    top = 14
    for kind, title in _PANELS:
        parts.append(f'<text x="8" y="{top + 10}" font-weight="bold">{title}</text>')
        top += 20
        shown = [
            (f"{label}, {direction}", figures.value(f"{name}_{direction}_{kind}"), colour)
            for direction in ("up", "down")
            for name, label, colour in _SYSTEMS
        ]
        largest = max((value for _, value, _ in shown if value is not None), default=1.0)
        for label, value, colour in shown:
            if value is None:
                continue
            width = value / largest * (_WIDTH - _LEFT - 80)
            number = f"{value:,.0f}" if kind == "rate" else f"{value:.2f}"
            parts.append(f'<text x="{_LEFT - 8}" y="{top + 13}" text-anchor="end">{label}</text>')
            parts.append(f'<rect x="{_LEFT}" y="{top}" width="{width:.1f}" height="{_BAR - 4}" fill="{colour}"/>')
            parts.append(f'<text x="{_LEFT + width + 6:.1f}" y="{top + 12}">{number}</text>')
            top += _BAR
        top += 14
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top}" '
        f'font-family="sans-serif" font-size="12">\n'
        f'<rect width="{_WIDTH}" height="{top}" fill="#ffffff"/>\n{body}\n</svg>\n'
    )
