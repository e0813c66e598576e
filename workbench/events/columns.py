"""Columns of tables: their names and types, taken from the schema of the events that occur."""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from enum import Enum
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
            _merge(columns, f"{name}.{key}", _PLAIN.get(type(value), "str"))
    else:
        _merge(columns, name, _kind(annotation))


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
