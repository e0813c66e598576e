"""Draws what paging costs attention, from the times that run.py writes with --json.

    python kernels/bench/figure.py times.json docs/paged_attention.svg

For every case that torch can also do on contiguous memory: the time on scattered pages and on pages in order, as a
multiple of torch's time on contiguous keys and values. Below 1 is faster.
"""

from __future__ import annotations

import argparse
import json
from html import escape
from pathlib import Path

#: What is drawn: key in the file, legend, colour (Okabe-Ito), and whether it is hatched: a second cue.
SERIES = (
    ("paged", "pages of 16, in random order", "#0072B2", False),
    ("in_order", "pages of 256, in order", "#E69F00", True),
)
WIDTH, ROW, LEFT, TOP, SCALE = 880, 44, 230, 92, 250


def draw(times: dict[str, dict[str, float | None]]) -> str:
    """The figure as SVG text."""
    rows = [(name, row) for name, row in times.items() if row.get("sdpa")]
    height = TOP + ROW * len(rows) + 56
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        'font-size="13" role="img" aria-labelledby="title">',
        '<title id="title">Time of attention on pages, as a multiple of the time on contiguous memory</title>',
        '<defs><pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<rect width="6" height="6" fill="#E69F00"/><path d="M0 0V6" stroke="#7a5000" stroke-width="2"/></pattern>'
        "</defs>",
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        '<text x="16" y="28" font-size="16" font-weight="bold">Attention on pages against contiguous memory</text>',
        '<text x="16" y="48">Time as a multiple of torch SDPA on contiguous keys and values; left of the line is '
        "faster.</text>",
    ]
    for index, (_, legend, colour, hatched) in enumerate(SERIES):
        x = 16 + 300 * index
        fill = "url(#hatch)" if hatched else colour
        parts.append(f'<rect x="{x}" y="62" width="16" height="12" fill="{fill}"/>')
        parts.append(f'<text x="{x + 22}" y="73">{escape(legend)}</text>')
    bottom = TOP + ROW * len(rows)
    parts.append(f'<path d="M{LEFT + SCALE} {TOP - 4}V{bottom}" stroke="#333" stroke-dasharray="4 3"/>')
    for index, (name, row) in enumerate(rows):
        y = TOP + ROW * index
        parts.append(f'<text x="{LEFT - 10}" y="{y + 22}" text-anchor="end">{escape(name)}</text>')
        for place, (key, _, colour, hatched) in enumerate(SERIES):
            ratio = row[key] / row["sdpa"]  # type: ignore[operator]
            at = y + 4 + 16 * place
            fill = "url(#hatch)" if hatched else colour
            parts.append(f'<rect x="{LEFT}" y="{at}" width="{ratio * SCALE:.1f}" height="14" fill="{fill}"/>')
            parts.append(
                f'<text x="{LEFT + ratio * SCALE + 6:.1f}" y="{at + 12}" paint-order="stroke" stroke="white" '
                f'stroke-width="4">{ratio:.2f}</text>'
            )
    parts.append(f'<text x="{LEFT + SCALE}" y="{bottom + 20}" text-anchor="middle">1.0: contiguous</text>')
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("times", type=Path, help="made by run.py --json")
    parser.add_argument("figure", type=Path, help="the SVG to write")
    args = parser.parse_args()
    args.figure.write_text(draw(json.loads(args.times.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main()
