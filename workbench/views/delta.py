"""What changed between two JSON values, as a JSON value: a browser that has the old one makes the new one from it.

A patch is one of

- ``0``: nothing changed;
- ``[value]``: the new value, as a whole;
- ``{"s": [kept, tail]}``: a string keeps its first ``kept`` characters (code points), and goes on with ``tail``;
- ``{"o": {key: patch}, "x": [key]}``: an object's new and changed entries (a new one is ``[value]``), and those that
  are gone;
- ``{"n": length, "a": [gap, value, ...], "p": [gap, patch, ...], "t": [value, ...]}``: an array keeps its first
  ``n`` entries; of these some have a new plain value, and some a patch of their own; ``t`` is appended. A gap is the
  distance from the entry before it in the list; the first counts from 0.

Parts that don't occur are left out. ``static/delta.js`` has the same `patch`.
"""

from __future__ import annotations

from typing import Any

#: A prefix shorter than this is not worth the characters that say so; in an array these are more.
_MIN_PREFIX = 8
_MIN_PREFIX_IN_ARRAY = 24


def diff(old: Any, new: Any) -> Any:
    """The patch that makes ``new`` of ``old``. Neither is changed; the patch may share parts of ``new``.

    True is not 1, and 1.0 is not 1, as in JSON.
    """
    if old is new:
        return 0
    kind = type(new)
    if type(old) is not kind:
        return [new]
    if kind is dict:
        return _diff_objects(old, new)
    if kind is list:
        return _diff_arrays(old, new)
    if old == new:
        return 0
    return _diff_strings(old, new) if kind is str else [new]


def _diff_objects(old: dict[str, Any], new: dict[str, Any]) -> Any:
    changed: dict[str, Any] = {}
    for key, value in new.items():
        part = diff(old[key], value) if key in old else [value]
        if part != 0:
            changed[key] = part
    gone = [key for key in old if key not in new]
    if gone and len(gone) == len(old):
        return [new]
    result: dict[str, Any] = {"o": changed} if changed else {}
    if gone:
        result["x"] = gone
    return result or 0


def _diff_arrays(old: list[Any], new: list[Any]) -> Any:
    values: list[Any] = []
    patches: list[Any] = []
    last_value = last_patch = 0
    for index, (before, after) in enumerate(zip(old, new, strict=False)):
        if before is after:
            continue
        kind = type(after)
        if kind is list or kind is dict:
            part = diff(before, after)
            if part != 0:
                patches += (index - last_patch, part)
                last_patch = index
        elif before != after or type(before) is not kind:
            if kind is str and type(before) is str and before[:_MIN_PREFIX_IN_ARRAY] == after[:_MIN_PREFIX_IN_ARRAY]:
                part = _diff_strings(before, after)  # what is being written gets longer and longer
                if type(part) is dict and part["s"][0] >= _MIN_PREFIX_IN_ARRAY:
                    patches += (index - last_patch, part)
                    last_patch = index
                    continue
            values += (index - last_value, after)
            last_value = index
    if len(values) > len(new) or (old and not new):  # more than half of it is new
        return [new]
    result: dict[str, Any] = {}
    if len(new) < len(old):
        result["n"] = len(new)
    if values:
        result["a"] = values
    if patches:
        result["p"] = patches
    if len(new) > len(old):
        result["t"] = new[len(old) :]
    return result or 0


def _diff_strings(old: str, new: str) -> Any:
    kept = 0
    most = min(len(old), len(new))
    if new[:most] == old[:most]:
        kept = most
    else:
        while old[kept] == new[kept]:
            kept += 1
    return {"s": [kept, new[kept:]]} if kept >= _MIN_PREFIX else [new]


def patch(old: Any, change: Any) -> Any:
    """``old`` after a change that `diff` has found. ``old`` stays as it is; unchanged parts are shared with it.

    Raises:
        ValueError: this is no patch, or not one for ``old``.
    """
    try:
        return _patched(old, change)
    except (AttributeError, KeyError, IndexError, TypeError) as error:
        raise ValueError(f"the patch does not fit: {error!r}") from error


def _patched(old: Any, change: Any) -> Any:
    if change == 0:
        return old
    if type(change) is list:
        return change[0]
    if "s" in change:
        kept, tail = change["s"]
        return old[:kept] + tail
    if "o" in change or "x" in change:
        gone = set(change.get("x", ()))
        result = {key: value for key, value in old.items() if key not in gone}
        for key, part in change.get("o", {}).items():
            result[key] = _patched(old.get(key), part)
        return result
    array = list(old[: change.get("n", len(old))])
    for index, value in _pairs(change.get("a", ())):
        array[index] = value
    for index, part in _pairs(change.get("p", ())):
        array[index] = _patched(array[index], part)
    return array + change.get("t", [])


def _pairs(flat: Any) -> Any:
    index = 0
    for at in range(0, len(flat), 2):
        index += flat[at]
        yield index, flat[at + 1]
