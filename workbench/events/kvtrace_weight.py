"""How much memory a payload of a .kvtrace file takes when it is decoded, found out without decoding it.

A byte of msgpack can become a Python object of two hundred: a stranger's file is weighed before it is believed. The
weight is an upper bound for any type of frame, read from the bytes alone; what a recorder writes weighs some ten to
twenty times as much as its bytes. Figures are those of CPython on 64 bits, with the garbage collector's header.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Any, get_args

import msgspec

from workbench.events.keyframes import Archive
from workbench.events.page_map import PageMap
from workbench.events.types import EventBatch

#: A struct with empty lists and its place in a dict: an `OutputText` of one byte is the heaviest there is.
_MAP, _ENTRY = 300, 110
_ARRAY, _TEXT = 80, 80
#: Characters take four bytes each if one of them is an emoji, and one more until it comes.
_CHAR = 5


def _names() -> set[str]:
    """Everything that is a field, a tag, or a word of an enum: it is not stored, or stored once."""
    names, seen, queue = {"type"}, set(), [PageMap, Archive, EventBatch]
    while queue:
        kind: Any = queue.pop()
        if kind in seen:
            continue
        seen.add(kind)
        queue += get_args(kind)
        if isinstance(kind, type) and issubclass(kind, Enum):
            names.update(str(member.value) for member in kind)
        elif isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            names.add(kind.__name__)
            names.update(kind.__struct_encode_fields__)
            queue += (field.type for field in msgspec.structs.fields(kind))
    return names


def _alternatives(parts: list[bytes]) -> bytes:
    return b"(?:" + b"|".join(parts) + b")"


def _pattern() -> re.Pattern[bytes]:
    by_length: dict[int, list[bytes]] = {}
    for name in sorted(_names()):
        data = name.encode()
        if 3 <= len(data) < 32:
            by_length.setdefault(len(data), []).append(re.escape(data))
    known = _alternatives([re.escape(bytes([0xA0 + n])) + _alternatives(words) for n, words in by_length.items()])
    one, two, three = rb"[\x00-\x7f\xc0\xc2\xc3\xe0-\xff]", rb"[\xcc\xd0].", rb"[\xcd\xd1].{2}"
    five, nine = rb"[\xce\xd2\xca].{4}", rb"[\xcf\xd3\xcb].{8}"
    short = _alternatives([re.escape(bytes([0xA0 + n])) + b".{%d}" % n for n in range(32)])
    many = b"{1,255}"  # what is matched is remembered until the end: some thousand repetitions take megabytes
    groups = [
        b"(?:" + known + _alternatives([one, two, three, five, nine, known]) + b")" + many,
        *(b"(?:" + scalar + b")" + many for scalar in (one, two, three, five, nine)),
        known,
        short,
        rb"[\x80-\x8f]",
        rb"[\x90-\x9f]",
        rb"[\xdc\xdd\xde\xdf\xc4-\xc6\xd9-\xdb].{0,4}",
    ]
    return re.compile(b"|".join(b"(" + group + b")" for group in groups), re.DOTALL)


_PATTERN = _pattern()
#: Per group of the pattern: weight of a match, and of each of its bytes. A field with a number has
#: five bytes at least; a number in a list takes 32, and 16 for its place while the list grows.
_WEIGHTS = ((0, 7), (0, 48), (0, 24), (0, 16), (0, 10), (0, 6), (_TEXT, 0), (_TEXT, _CHAR), (_MAP, 0), (_ARRAY, 0))
#: Heads with a length behind them: bytes of that length, and what it counts.
_LONG = {0xDC: (2, "array"), 0xDD: (4, "array"), 0xDE: (2, "map"), 0xDF: (4, "map")}
_LONG |= {0xC4: (1, "bytes"), 0xC5: (2, "bytes"), 0xC6: (4, "bytes")}
_LONG |= {0xD9: (1, "bytes"), 0xDA: (2, "bytes"), 0xDB: (4, "bytes")}


def weigh(payload: bytes, most: int) -> int:
    """Bytes of memory that a payload takes when it is decoded, at most.

    Args:
        payload: msgpack, perhaps nonsense: then it is weighed up to where no decoder reads on.
        most: once the weight is more it is no longer of interest, and returned as it is.
    """
    position, weight, match, length = 0, 0, _PATTERN.match, len(payload)
    while position < length and weight <= most:
        found = match(payload, position)
        if found is None:
            break
        group = found.lastindex or 0
        end = found.end()
        if group <= len(_WEIGHTS):
            once, per_byte = _WEIGHTS[group - 1]
            weight += once + per_byte * (end - position)
        else:
            size, what = _LONG[payload[position]]
            end = position + 1 + size
            count = min(int.from_bytes(payload[position + 1 : end]), length - end)
            if what == "bytes":
                weight += _TEXT + _CHAR * count
                end += count
            else:
                weight += _ARRAY if what == "array" else _MAP + _ENTRY * (count // 2)
        position = end
    return weight
