"""Several models in one table and one plot."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from keras_weightnoise._tables import Table
from keras_weightnoise.analysis._results import Result, choose_metric
from keras_weightnoise.analysis._summaries import Summary, number
from keras_weightnoise.analysis.robustness_result import RobustnessResult


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ComparisonResult(Result):
    """What `compare` returns. It prints as a table with a column for each model.

    Attributes:
        results: The results, keyed by the models' names.
    """

    results: dict[str, RobustnessResult]

    def plot(self, metric: str | None = None, ax: Any = None) -> Any:
        """Plots a metric over the magnitude, a color for each model: see `RobustnessResult.plot`.

        Args:
            metric: A metric's name. `None`: the first that is not a loss, else the loss.
            ax: Axes of matplotlib. `None`: new ones. Defaults to `None`.

        Returns:
            The axes.
        """
        metric = choose_metric(self._metrics(), metric)
        for name, result in self.results.items():
            ax = result.plot(metric, ax=ax, label=name)
        return ax

    def _metrics(self) -> list[str]:
        """The metrics that all have."""
        first, *others = self.results.values()
        return [name for name in first.clean if all(name in other.clean for other in others)]

    def _title(self) -> list[str]:
        incomplete = [name for name, result in self.results.items() if not result.complete]
        return [
            "Robustness to weight noise: mean over the draws and its 95 % interval, by Student's t",
            *([f"INCOMPLETE: {', '.join(incomplete)}."] if incomplete else []),
        ]

    def _tables(self, top: int | None) -> list[Table]:
        tables = []
        for metric in self._metrics():
            found = {name: result.summaries(metric) for name, result in self.results.items()}
            for noise in dict.fromkeys(noise for each in found.values() for noise in each):
                own = {name: each.get(noise, {}) for name, each in found.items()}
                rows = [["without", *(number(r.clean[metric]) for r in self.results.values())]]
                for magnitude in sorted({m for each in own.values() for m in each}):
                    rows.append([f"{magnitude:g}", *(_cell(s, magnitude) for s in own.values())])
                tables.append(Table(f"{noise}: {metric}", ("magnitude", *self.results), rows))
        return tables

    def _records(self) -> list[dict[str, Any]]:
        return [
            {"model": name, **record}
            for name, result in self.results.items()
            for record in result._records()
        ]

    @classmethod
    def _from_standard(cls, content: dict[str, Any]) -> dict[str, Any]:
        return {
            "results": {
                name: RobustnessResult(**RobustnessResult._from_standard(each))
                for name, each in content["results"].items()
            }
        }


def compare(results: Mapping[str, RobustnessResult]) -> ComparisonResult:
    """Puts the sweeps of several models side by side.

    Use it for models that were trained in different ways. Draws of one seed are common to all models of one
    architecture: what differs between them is not luck.

    Args:
        results: What `robustness_sweep` returned for each model, keyed by the names to show. They must have
            a metric in common.

    Returns:
        A `ComparisonResult`: print it, `plot` it, turn it into a `pandas.DataFrame` or JSON.

    Raises:
        TypeError: If it is no mapping of names to such results.
        ValueError: If there are none, or they have no metric in common.

    Example:

    >>> import keras, numpy as np
    >>> from keras_weightnoise import compare, robustness_sweep
    >>> sweeps = {}
    >>> for name in ("small", "large"):
    ...     units = 4 if name == "small" else 64
    ...     layers = [keras.layers.Dense(units), keras.layers.Dense(1)]
    ...     model = keras.Sequential([keras.Input((4,)), *layers])
    ...     model.compile(loss="mse")
    ...     data = np.ones((8, 4)), np.ones((8, 1))
    ...     sweeps[name] = robustness_sweep(model, data, magnitudes=[0.1], draws=2, verbose=0)
    >>> compare(sweeps).to_dataframe()["model"].unique().tolist()
    ['small', 'large']
    """
    if not (
        isinstance(results, Mapping)
        and all(
            isinstance(name, str) and isinstance(result, RobustnessResult)
            for name, result in results.items()
        )
    ):
        raise TypeError(
            "Invalid `results`. Expected a mapping from names to results of `robustness_sweep`. "
            f"Received: results of type {type(results).__name__}"
        )
    if not results:
        raise ValueError("Invalid `results`. Expected at least one result. Received: results={}")
    comparison = ComparisonResult(dict(results))
    if not comparison._metrics():
        each = {name: list(result.clean) for name, result in results.items()}
        raise ValueError(
            f"Invalid `results`. Expected a metric that all have. Received: results with metrics {each}"
        )
    return comparison


def _cell(summaries: Mapping[float, Summary], magnitude: float) -> str:
    if magnitude not in summaries:
        return ""
    summary = summaries[magnitude]
    return f"{number(summary.mean)} ± {number(summary.high - summary.mean)}"
