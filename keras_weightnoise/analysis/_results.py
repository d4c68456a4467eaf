"""What the results of `robustness_sweep` and `layer_sensitivity` have in common."""

import dataclasses
import json
import math
import os
import pathlib
from typing import Any, ClassVar, TypeVar

R = TypeVar("R", bound="Result")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Result:
    """Base class of results: metrics without noise, and a row of metrics for each draw.

    Attributes:
        clean: The metrics without noise.
        rows: The measurements.
        complete: Whether all were made: `False` after an interrupt.
        higher_is_better: For each metric, whether more is better. Guessed from its name, as Keras's
            `ModelCheckpoint` does with `mode="auto"`: true for accuracies, AUC, precision, recall,
            sensitivity, specificity, F scores, IoU, R2, cosine similarity, correlations, and counts of
            what is true; false for the rest and whatever has "loss" in its name. Change it in place
            where it is wrong: `result.higher_is_better["psnr"] = True`.
    """

    clean: dict[str, float]
    rows: tuple[Any, ...]
    complete: bool
    higher_is_better: dict[str, bool]

    row: ClassVar[type]  # A dataclass, with `draw` and `metrics` beside what tells rows apart.

    def to_dataframe(self) -> Any:
        """The rows as a `pandas.DataFrame`, with a column for each metric."""
        try:
            import pandas
        except ImportError as error:
            raise ImportError(
                "`to_dataframe` needs pandas: `pip install keras-weightnoise[dataframe]`."
            ) from error
        records = [dict(vars(row)) for row in self.rows]
        return pandas.DataFrame([record | record.pop("metrics") for record in records])

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """The result as JSON, also written to a file if there is a `path`."""
        content = {"type": type(self).__name__} | dataclasses.asdict(self)
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
            ValueError: If it is the JSON of something else.
        """
        if not (isinstance(source, str) and source.lstrip().startswith("{")):
            source = pathlib.Path(source).read_text(encoding="utf-8")
        content = json.loads(source)
        if content.pop("type", None) != cls.__name__:
            raise ValueError(
                f"Invalid `source`. Expected what `{cls.__name__}.to_json` returns. "
                f"Received: source={source[:80]!r}..."
            )
        content["clean"] = _from_standard(content["clean"])
        content["rows"] = tuple(
            cls.row(**row | {"metrics": _from_standard(row["metrics"])}) for row in content["rows"]
        )
        return cls(**content)

    def _metric(self, metric: str | None) -> str:
        """A metric's name: `None` means the first that is not a loss, or else the first."""
        if metric is None:
            return next((name for name in self.clean if "loss" not in name), next(iter(self.clean)))
        if metric not in self.clean:
            raise ValueError(
                f"Invalid `metric`. Expected one of {', '.join(map(repr, self.clean))}. "
                f"Received: metric={metric!r}"
            )
        return metric

    def _damage(self, metric: str, value: float) -> float:
        """How much worse than without noise a value of a metric is."""
        change = value - self.clean[metric]
        return -change if self.higher_is_better[metric] else change

    def __eq__(self, other: object) -> bool:
        # As text, in which NaN equals NaN.
        return isinstance(other, type(self)) and self.to_json() == other.to_json()

    __hash__ = None  # type: ignore[assignment]

    def _title(self, title: str) -> list[str]:
        if self.complete:
            return [title]
        return [title, "INCOMPLETE: interrupted before all draws were evaluated."]

    def _by(self, metric: str, **where: Any) -> dict[int, float]:
        """A metric's values, keyed by draw, in the rows that have these fields."""
        return {
            row.draw: row.metrics[metric]
            for row in self.rows
            if all(getattr(row, name) == value for name, value in where.items())
        }

    def __repr__(self) -> str:
        return str(self)


def make_axes(ax: Any, height: float) -> Any:
    """`ax`, or new axes of matplotlib if there are none."""
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            "`plot` needs matplotlib: `pip install keras-weightnoise[plot]`."
        ) from error
    return plt.subplots(figsize=(6.0, height), layout="constrained")[1]


def _to_standard(value: Any) -> Any:
    """A value in which numbers that JSON does not have are strings."""
    if isinstance(value, dict):
        return {key: _to_standard(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_to_standard(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _from_standard(metrics: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}
