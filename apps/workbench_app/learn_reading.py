"""How to read the page map: a legend of small pictures, in the colours and hatchings of the maps themselves."""

from __future__ import annotations

from workbench.views.palette import DARK, LIGHT, RESERVED_TINT, mix, request_color, request_label, text_color

_WIDTH, _HEIGHT = 112, 30

#: What hatches a piece: a pattern of so many pixels, and what is drawn in it.
_PATTERNS = {
    "reserved": (7, '<path d="M0 7L7 0"/>'),
    "rounding": (7, '<path d="M0 7L7 0M0 0L7 7"/>'),
    "cached": (5, '<path d="M0 3.5H5"/>'),
    "starved": (7, '<path d="M2 3h2v2h-2z" fill="currentColor"/>'),
}


def _style() -> str:
    def colours(theme: dict[str, str]) -> str:
        names = ("free", "rounding", "cached", "text", "hatch")
        tints = {f"tint-{i}": mix(request_color(i), theme["free"], RESERVED_TINT) for i in range(2)}
        return "".join(f"--kvw-read-{name}:{value};" for name, value in ({n: theme[n] for n in names} | tints).items())

    return f"<style>.kvw-read{{{colours(LIGHT)}}} .dark .kvw-read{{{colours(DARK)}}}</style>"


def _defs() -> str:
    patterns = "".join(
        f'<pattern id="kvw-read-{name}" width="{size}" height="{size}" patternUnits="userSpaceOnUse">'
        f'<g stroke="currentColor" fill="none">{shape}</g></pattern>'
        for name, (size, shape) in _PATTERNS.items()
    )
    return f'<svg width="0" height="0" aria-hidden="true" class="kvw-read-defs"><defs>{patterns}</defs></svg>'


def _picture(pieces: tuple[tuple[int, str], ...], request: int = 0, letter: str = "", edge: bool = False) -> str:
    """Pieces ``(slots of 16, use)`` from left to right, with a letter in the first."""
    at, drawn = 0.0, ""
    for slots, use in pieces:
        width = slots * _WIDTH / 16
        base = {
            "tokens": request_color(request),
            "reserved": f"var(--kvw-read-tint-{request})",
            "starved": "var(--kvw-read-free)",
        }
        box = f'x="{at:g}" y="0" width="{width:g}" height="{_HEIGHT}"'
        drawn += f'<rect {box} fill="{base.get(use, f"var(--kvw-read-{use})")}"/>'
        if use in _PATTERNS:
            drawn += f'<rect {box} fill="url(#kvw-read-{use})"/>'
        at += width
    if letter:
        x = pieces[0][0] * _WIDTH / 32
        drawn += (
            f'<text x="{x:g}" y="20" text-anchor="middle" fill="{text_color(request_color(request))}">{letter}</text>'
        )
    width = 2 if edge else 1
    drawn += (
        f'<rect x="{width / 2:g}" y="{width / 2:g}" width="{_WIDTH - width}" height="{_HEIGHT - width}" fill="none" '
        f'stroke="var(--kvw-read-{"text" if edge else "hatch"})" stroke-width="{width}"/>'
    )
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" aria-hidden="true">{drawn}</svg>'


_ROWS = (
    (
        _picture(((16, "tokens"),), 0, request_label(0)),
        "A full page of request A",
        "Every slot holds the keys and values of one token. Colours repeat after seven requests, letters don't.",
    ),
    (
        _picture(((9, "tokens"), (7, "reserved")), 1, request_label(1)),
        "A page that is filled in part",
        "The coloured part holds tokens. The pale, hatched part belongs to request B and is still empty.",
    ),
    (
        _picture(((16, "tokens"),), 0, f"{request_label(0)}×3"),
        "A shared page",
        "Three sequences use it. It is stored and drawn once; who has to write to it gets a copy.",
    ),
    (_picture(((16, "free"),)), "A free page", "It can be given to anybody."),
    (
        _picture(((16, "cached"),)),
        "A page kept for reuse (cached)",
        "Nobody uses it; a request that begins with the same text can take it over. It can be given away, too.",
    ),
    (
        _picture(((5, "tokens"), (6, "reserved"), (5, "rounding")), 0, request_label(0)),
        "A region in contiguous memory",
        "Tokens, then what was reserved and is empty, then, crossed, what the allocator rounded up to a power of two.",
    ),
    (
        _picture(((16, "starved"),)),
        "Free, but of no use",
        "Dots: there is room, but no piece is large enough for the request that waits at the head of the queue.",
    ),
    (
        _picture(((9, "tokens"), (7, "reserved")), 1, request_label(1), edge=True),
        "Outlined",
        "All memory of the request at which you point.",
    ),
)


def reading_html() -> str:
    """The section as HTML. Its pictures are decoration: the words beside them say the same."""
    rows = "".join(f"<li>{picture}<p><b>{name}.</b> {words}</p></li>" for picture, name, words in _ROWS)
    return (
        f'<section class="kvw-read" aria-labelledby="kvw-read-title">{_style()}{_defs()}'
        '<h2 id="kvw-read-title">How to read the page map</h2><p>The map shows the pool in the order of memory, '
        "from left to right and from top to bottom. On the left each cell is "
        f"a page (block). On the right the slots of the same memory are one long line.</p><ul>{rows}</ul></section>"
    )
