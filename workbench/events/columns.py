"""Columns of tables: their names and types, taken from the schema of the events that occur."""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from enum import Enum
from operator import attrgetter
from typing import Any, Union, get_args, get_origin

import msgspec

#: Column name to what is in it: "int", "float", "bool", "str", or "json" (lists, as JSON text). Any may be missing.
Columns = dict[str, str]

FIRST: Columns = {"type": "str", "seq": "int", "step": "int", "t_ns": "int"}

_PLAIN = {int: "int", float: "float", bool: "bool", str: "str"}


def _kind(annotation: Any) -> str:
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return "str"
    return _PLAIN.get(annotation, "json")


def _merge(columns: Columns, name: str, kind: str) -> None:
    known = columns.setdefault(name, kind)
    if known != kind:
        columns[name] = "float" if {known, kind} == {"int", "float"} else "str"


def _add(columns: Columns, name: str, annotation: Any, values: Mapping[str, Any]) -> None:
    if get_origin(annotation) in (Union, types.UnionType):  # something or None
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        for field in msgspec.structs.fields(annotation):
            _add(columns, f"{name}.{field.name}", field.type, {})
    elif get_origin(annotation) is dict:
        for key, value in values.items():
            kind = "str" if type(value) is int and is_wide(value) else _PLAIN.get(type(value), "str")
            _merge(columns, f"{name}.{key}", kind)
    else:
        _merge(columns, name, _kind(annotation))


def is_wide(number: int) -> bool:
    """Whether it takes more than 64 bits with its sign. No engine's does; a stranger's file may have one."""
    return not -(1 << 63) <= number < 1 << 63


class WideNumbers:
    """Finds the columns of whole numbers that have wide ones.

    Attributes:
        names: of those columns.
    """

    def __init__(self) -> None:
        self.names: set[str] = set()
        self._readers: dict[type, list[tuple[tuple[str, ...], attrgetter[Any]]]] = {}

    def note(self, event: msgspec.Struct) -> None:
        """Takes an event into account."""
        kind = type(event)
        if kind not in self._readers:
            names = [name for name, column in event_columns([kind], {}).items() if column == "int"]
            own = [name for name in names if "." not in name]
            self._readers[kind] = [(tuple(part), attrgetter(*part)) for part in (names, own)]
        for columns, read in self._readers[kind]:
            try:
                values = read(event)
            except AttributeError:  # a part that may be missing as a whole
                continue
            if max(filter(None, values), default=0) >= 1 << 63:
                self.names.update(name for name, value in zip(columns, values, strict=True) if value and is_wide(value))
            return


def event_columns(kinds: Iterable[type], maps: Mapping[str, Mapping[str, Any]]) -> Columns:
    """Columns for events of these types. ``maps``: the values of fields that are maps, such as ``config``."""
    columns = dict(FIRST)
    for kind in kinds:
        for field in msgspec.structs.fields(kind):
            if field.name not in FIRST:
                _add(columns, field.name, field.type, maps.get(field.name, {}))
    return columns


def plain(value: Any, kind: str) -> Any:
    """A value as it goes into a column of this kind."""
    if value is None:
        return None
    if kind == "json":
        return msgspec.json.encode(value).decode()
    return str(value) if kind == "str" else float(value) if kind == "float" else value
