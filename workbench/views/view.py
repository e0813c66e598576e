"""A picture, what it shows in a sentence, and the same as a table: what every function of this package returns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

if TYPE_CHECKING:
    import pandas as pd

Cell = str | int | float | None


@dataclass(frozen=True)
class Table:
    """Rows of plain values: a picture's twin for screen readers, for copying, and for people who prefer to read."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    title: str = ""

    def to_pandas(self) -> pd.DataFrame:
        """The same as a DataFrame."""
        import pandas as pd

        return pd.DataFrame([list(row) for row in self.rows], columns=list(self.columns))

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`."""
        return {"title": self.title, "columns": list(self.columns), "rows": [list(row) for row in self.rows]}


@dataclass(frozen=True)
class View:
    """A Plotly figure with its words.

    Attributes:
        caption: what is seen now, in one or two sentences.
        table: the same numbers as rows.
    """

    figure: go.Figure
    caption: str
    table: Table = field(default_factory=lambda: Table((), ()))

    def to_json(self) -> dict[str, Any]:
        """``data`` and ``layout`` for Plotly.react, ``caption`` and ``table``, as plain values for `json.dumps`."""
        figure = json.loads(self.figure.to_json())
        return {
            "data": figure["data"],
            "layout": figure["layout"],
            "caption": self.caption,
            "table": self.table.to_json(),
        }

    def _repr_mimebundle_(self, *args: Any, **kwargs: Any) -> Any:
        """Notebooks show the figure, with the caption as its plain text."""
        bundle = self.figure._repr_mimebundle_(*args, **kwargs)
        data = dict(bundle[0] if isinstance(bundle, tuple) else bundle)
        data["text/plain"] = self.caption
        return data
