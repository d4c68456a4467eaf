"""What the results of all analyses have in common."""

import dataclasses
import html
import json
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np

from keras_weightnoise._tables import Table
from keras_weightnoise.analysis._summaries import prefers_high
from keras_weightnoise.analysis._trials import Measured

R = TypeVar("R", bound="Result")
D = TypeVar("D", bound="DrawResult")

SCHEMA = 1  # Of the JSON. It grows when a reader of the old form would misread the new one.


class Result:
    """Base class of results: they print, show as HTML in notebooks, and turn into pandas and JSON.

    A subclass is a frozen dataclass that says what its tables and records are.
    """

    def _title(self) -> list[str]:
        """The lines above the tables."""
        return []

    def _tables(self, top: int | None) -> list[Table]:
        """The tables, of no more than the `top` most important rows where there may be many."""
        raise NotImplementedError

    def _records(self) -> list[dict[str, Any]]:
        """The rows of the `DataFrame`."""
        raise NotImplementedError

    def table(self, top: int | None = None) -> str:
        """What is printed, with all rows.

        Args:
            top: Integer >= 1: leave out all but the most important rows, where there may be many.
                Printing the result does so with 10. Defaults to `None`: all.
        """
        return "\n".join([*self._title(), *(table.to_text() for table in self._tables(top))])

    def to_dataframe(self) -> Any:
        """The result as a `pandas.DataFrame`.

        Raises:
            ImportError: If pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError("`to_dataframe` needs pandas: `pip install pandas`.") from error
        return pandas.DataFrame(self._records())

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """The result as JSON, also written to a file if there is a `path`.

        `"type"` is the class, `"schema"` the version of the form, the rest the attributes. Numbers that JSON
        does not have are strings: `"nan"`, `"inf"`, `"-inf"`.
        """
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        content = {"type": type(self).__name__, "schema": SCHEMA} | fields
        text = json.dumps(_to_standard(content), indent=1, allow_nan=False)
        if path is not None:
            pathlib.Path(path).write_text(text, encoding="utf-8")
        return text

    @classmethod
    def from_json(cls: type[R], source: str | os.PathLike[str]) -> R:
        """The inverse of `to_json`.

        Args:
            source: What `to_json` returned, or a path to it.

        Raises:
            ValueError: If it is the JSON of something else, or of a later version of the library.
        """
        if not (isinstance(source, str) and source.lstrip().startswith("{")):
            source = pathlib.Path(source).read_text(encoding="utf-8")
        content = json.loads(source)
        kind, schema = content.pop("type", None), content.pop("schema", SCHEMA)
        if kind != cls.__name__ or schema > SCHEMA:
            raise ValueError(
                f"Invalid `source`. Expected what `{cls.__name__}.to_json` returns, of a schema up to "
                f"{SCHEMA}. Received: source={source[:80]!r}..."
            )
        return cls(**cls._from_standard(content))

    @classmethod
    def _from_standard(cls, content: dict[str, Any]) -> dict[str, Any]:
        """The constructor's arguments, from what JSON makes of them."""
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        # As text, in which NaN equals NaN.
        return isinstance(other, type(self)) and self.to_json() == other.to_json()

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return self.table(10)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        title = "<br>".join(html.escape(line) for line in self._title())
        return (f"<p>{title}</p>" if title else "") + "".join(
            table.to_html() for table in self._tables(10)
        )


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class DrawResult(Result):
    """Base class of results with a row of metrics for each draw. Attributes: see `RobustnessResult`."""

    clean: dict[str, float]
    rows: tuple[Any, ...]
    complete: bool
    higher_is_better: dict[str, bool]
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)

    row: ClassVar[type]  # A dataclass, with `draw` and `metrics` beside what tells rows apart.

    @classmethod
    def collect(cls: type[D], measured: Measured, settings: dict[str, Any], **more: Any) -> D:
        """The result of what was measured."""
        result = cls(
            clean=measured.clean,
            rows=tuple(measured.rows),
            complete=measured.complete,
            higher_is_better={metric: prefers_high(metric) for metric in measured.clean},
            settings=settings,
            **more,
        )
        return dataclasses.replace(result, rows=result._sorted(result.rows))

    def __add__(self: D, other: object) -> D:
        """The result of the draws of both. They must be of one model, on one set of data, with one
        seed and noise, and have no draw in common."""
        if not isinstance(other, type(self)):
            return NotImplemented
        for name, a, b in (
            ("clean", self.clean, other.clean),
            *((key, self.settings.get(key), other.settings.get(key)) for key in self._sums_need()),
        ):
            if _to_standard(a) != _to_standard(b):
                raise ValueError(
                    "Only results that differ in their draws alone add up: of one model, its weights the "
                    f"same, on the same data, with the same arguments. Received: {name}={a!r} and {b!r}"
                )
        common = {row.draw for row in self.rows} & {row.draw for row in other.rows}
        if common:
            raise ValueError(
                "Only results of different draws add up. Expected `draws=range(...)`s that have none in "
                f"common. Received: draws={sorted(common)} in both"
            )
        return dataclasses.replace(
            self,
            rows=self._sorted(self.rows + other.rows),
            complete=self.complete and other.complete,
        )

    def _sums_need(self) -> list[str]:
        """The settings that must agree. A model that is loaded again may have another name."""
        return [key for key in self.settings if key not in ("model", "versions")]

    def _sorted(self, rows: tuple[Any, ...]) -> tuple[Any, ...]:
        """The rows in the order of the table."""
        raise NotImplementedError

    def _records(self) -> list[dict[str, Any]]:
        records = [dict(vars(row)) for row in self.rows]
        return [with_metrics(record, record.pop("metrics")) for record in records]

    @classmethod
    def _from_standard(cls, content: dict[str, Any]) -> dict[str, Any]:
        rows = tuple(
            cls.row(**row | {"metrics": numbers(row["metrics"])}) for row in content["rows"]
        )
        return content | {"clean": numbers(content["clean"]), "rows": rows}

    def _metric(self, metric: str | None) -> str:
        """A metric's name: `None` means the first that is not a loss, or else the first."""
        return choose_metric(self.clean, metric)

    def _damage(self, metric: str, value: float) -> float:
        """How much worse than without noise a value of a metric is."""
        change = value - self.clean[metric]
        return -change if self.higher_is_better[metric] else change

    def _incomplete(self) -> list[str]:
        return [] if self.complete else ["INCOMPLETE: interrupted before all draws were evaluated."]

    def _by(self, metric: str, **where: Any) -> dict[int, float]:
        """A metric's values, keyed by draw, in the rows that have these fields."""
        return {
            row.draw: row.metrics[metric]
            for row in self.rows
            if all(getattr(row, name) == value for name, value in where.items())
        }


def choose_metric(known: Sequence[str] | dict[str, Any], metric: str | None) -> str:
    """A metric's name, checked: `None` means the first that is not a loss, or else the first."""
    if metric is None:
        return next((name for name in known if "loss" not in name), next(iter(known)))
    if metric not in known:
        raise ValueError(
            f"Invalid `metric`. Expected one of {', '.join(map(repr, known))}. "
            f"Received: metric={metric!r}"
        )
    return metric


def with_metrics(record: dict[str, Any], metrics: dict[str, Any]) -> dict[str, Any]:
    """A record with columns for metrics: `metric_draw` of a metric that is called as a column is."""
    return record | {
        f"metric_{name}" if name in record else name: value for name, value in metrics.items()
    }


def check_finite(metric: str, clean: dict[str, float]) -> None:
    """Raises unless a metric can be worse than it is without noise."""
    if not math.isfinite(clean[metric]):
        raise ValueError(
            "Without noise the metric is no finite number, against which nothing is better or worse. "
            f"Expected another metric, or data without NaN. Received: {metric}={clean[metric]}"
        )


def numbers(metrics: dict[str, Any]) -> dict[str, float]:
    """Metrics read from JSON."""
    return {name: float(value) for name, value in metrics.items()}


def _to_standard(value: Any) -> Any:
    """A value in which numbers that JSON does not have are strings."""
    if dataclasses.is_dataclass(value):
        return _to_standard(vars(value))
    if isinstance(value, dict):
        return {key: _to_standard(each) for key, each in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _to_standard(value.tolist())
    if isinstance(value, list | tuple):
        return [_to_standard(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
