"""Events as a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any

import msgspec

from workbench.events.types import AnyEvent

if TYPE_CHECKING:
    import pandas as pd

_FIRST = ("type", "seq", "step", "t_ns")


def event_row(event: AnyEvent) -> dict[str, Any]:
    """An event as flat plain values: ``type``, ``seq``, ``step``, ``t_ns``, then its own fields."""
    row: dict[str, Any] = dict.fromkeys(_FIRST)
    row["type"] = type(event).__name__
    for name in type(event).__struct_fields__:
        _put(row, name, getattr(event, name))
    return row


def _put(row: dict[str, Any], name: str, value: Any) -> None:
    if isinstance(value, msgspec.Struct):
        value = {field: getattr(value, field) for field in type(value).__struct_fields__}
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _put(row, f"{name}.{key}", inner)
    else:
        row[name] = value.value if isinstance(value, Enum) else value


def events_to_pandas(events: Iterable[AnyEvent]) -> pd.DataFrame:
    """One row per event. Whole numbers stay whole: where some rows have none, the column is ``Int64`` with ``<NA>``."""
    import pandas as pd

    rows = [event_row(event) for event in events]
    names = dict.fromkeys(_FIRST) | dict.fromkeys(name for row in rows for name in row)
    columns: dict[str, Any] = {}
    for name in names:
        values = [row.get(name) for row in rows]
        present = {type(value) for value in values if value is not None}
        if present == {int}:
            columns[name] = pd.array(values, dtype="int64" if None not in values else "Int64")
        else:
            columns[name] = pd.Series(values, dtype="float64" if present == {float} else object)
    return pd.DataFrame(columns)
