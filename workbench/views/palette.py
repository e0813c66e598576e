"""Colours that colour-blind people can tell apart (Okabe and Ito, 2008), and a letter for each request.

Colours repeat after seven requests, so a colour never stands alone: every picture also shows the letter, and tells
states apart by hatching.
"""

from __future__ import annotations

from workbench.events.types import Cause

#: Okabe-Ito without grey, which stands for memory that belongs to no request.
REQUEST_COLORS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")

#: Rounding and what is kept for reuse are both grey: one occurs in contiguous memory only, the other in pages only.
LIGHT = {"free": "#F3F4F6", "rounding": "#B9BEC7", "cached": "#D3D7DE", "line": "#FFFFFF", "text": "#1F2937"}
LIGHT["hatch"] = "#4B5563"
DARK = {"free": "#2A2F3A", "rounding": "#5B6270", "cached": "#454C5A", "line": "#12151C", "text": "#E5E7EB"}
DARK["hatch"] = "#D1D5DB"

#: From little to much, in equal steps of lightness, the same to colour-blind eyes (after cividis; Nuñez et al., 2018).
_DARK_HALF = ("#00224E", "#123570", "#3B496C", "#575D6D", "#707173")
SEQUENTIAL = (*_DARK_HALF, "#8A8678", "#A59C74", "#C3B369", "#E1CC55", "#FEE838")

#: Causes by what they have in common: name, letter, colour, causes.
CAUSE_FAMILIES: tuple[tuple[str, str, str, tuple[Cause, ...]], ...] = (
    ("prompt", "P", "#56B4E9", (Cause.ADMISSION, Cause.PREFILL)),
    ("output", "O", "#009E73", (Cause.DECODE, Cause.DECODE_GROWTH)),
    ("sharing", "S", "#CC79A7", (Cause.FORK, Cause.COPY_ON_WRITE, Cause.PREFIX_HIT)),
    (
        "shortage",
        "X",
        "#D55E00",
        (
            Cause.PREEMPTION_VICTIM,
            Cause.PREFIX_EVICTION,
            Cause.HOST_FULL,
            Cause.LARGER_THAN_MEMORY,
            Cause.POOL_EXHAUSTED,
            Cause.WATERMARK,
        ),
    ),
    ("return", "R", "#E69F00", (Cause.RESUMPTION, Cause.RECOMPUTE)),
    (
        "end",
        "E",
        "#0072B2",
        (
            Cause.REQUEST_FINISHED,
            Cause.SEQUENCE_FINISHED,
            Cause.CANCELLED,
            Cause.BEAM_DROPPED,
            Cause.OUT_OF_WINDOW,
        ),
    ),
)

#: How much of a request's colour is left where its memory is reserved and still empty.
RESERVED_TINT = 0.32


def request_label(request: int) -> str:
    """A, B, ..., Z, AA, AB, ...

    Raises:
        ValueError: the request number is negative.
    """
    if request < 0:
        raise ValueError(f"request={request}: must be at least 0")
    label = ""
    number = request + 1
    while number:
        number, letter = divmod(number - 1, 26)
        label = chr(ord("A") + letter) + label
    return label


def shared_label(request: int, refs: int) -> str:
    """The request's letter; for a page that several sequences use, with their number: ``A×3``."""
    return request_label(request) + (f"×{refs}" if refs > 1 else "")


def request_color(request: int) -> str:
    """The request's colour as ``#RRGGBB``."""
    return REQUEST_COLORS[request % len(REQUEST_COLORS)]


def _channels(color: str) -> list[int]:
    return [int(color[i : i + 2], 16) for i in (1, 3, 5)]


def mix(color: str, background: str, share: float) -> str:
    """``share`` of one colour over another, both ``#RRGGBB``."""
    pairs = zip(_channels(color), _channels(background), strict=True)
    return "#" + "".join(f"{round(share * a + (1 - share) * b):02X}" for a, b in pairs)


def luminance(color: str) -> float:
    """Relative luminance, 0 (black) to 1 (white), as WCAG defines it."""
    linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in _channels(color)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def text_color(background: str) -> str:
    """Black or white, whichever stands out more."""
    light = luminance(background)
    return "#000000" if (light + 0.05) / 0.05 >= 1.05 / (light + 0.05) else "#FFFFFF"
