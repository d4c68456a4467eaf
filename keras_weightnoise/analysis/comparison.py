"""Several models, or several predictions, in one table and one plot."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from keras_weightnoise._tables import Table
from keras_weightnoise.analysis._comparisons import KINDS, common_metrics
from keras_weightnoise.analysis._results import Result, with_metrics


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ComparisonResult(Result):
    """What `compare` returns. It prints as a table.

    Attributes:
        kind: The name of the results' class.
        results: The results, keyed by the names to show.
    """

    kind: str
    results: dict[str, Any]

    def plot(self, metric: str | None = None, ax: Any = None) -> Any:
        """Plots the results together: sweeps and tolerances over the magnitude, a color for each model;
        landscapes side by side on one scale of colors, lines in one plot; predictions in one diagram.

        Args:
            metric: Of sweeps and landscapes, a metric's name. `None`: that of the result's own `plot`.
            ax: Axes of matplotlib; of landscapes on planes a list, one for each. `None`: new ones.
                Defaults to `None`.

        Returns:
            The axes, or the list of them.
        """
        return KINDS[self.kind].plot(self.results, metric, ax)

    def _title(self) -> list[str]:
        incomplete = [
            n for n, result in self.results.items() if not getattr(result, "complete", True)
        ]
        return [
            KINDS[self.kind].title,
            *([f"INCOMPLETE: {', '.join(incomplete)}."] if incomplete else []),
        ]

    def _tables(self, top: int | None) -> list[Table]:
        return KINDS[self.kind].tables(self.results)

    def _records(self) -> list[dict[str, Any]]:
        return [
            with_metrics({"model": name}, record)
            for name, result in self.results.items()
            for record in result._records()
        ]

    @classmethod
    def _from_standard(cls, content: dict[str, Any]) -> dict[str, Any]:
        result: Any = KINDS[content["kind"]].result
        return content | {
            "results": {
                name: result(**result._from_standard(each))
                for name, each in content["results"].items()
            }
        }


def compare(results: Mapping[str, Any]) -> ComparisonResult:
    """Puts results of several models, or of several predictions, side by side.

    Use it for models that were trained in different ways: their sweeps (`robustness_sweep`), how much they
    bear (`noise_tolerance`), the loss around them (`loss_landscape`). Draws and random directions of one
    seed are common to all models of one architecture: what differs between them is not luck. And for
    predictions of the same examples (`calibration_report`): of a model, of its ensemble, and at another
    temperature.

    Args:
        results: Results of one kind, keyed by the names to show. They must have a metric in common, and
            tolerances the same metric and `drop`.

    Returns:
        A `ComparisonResult`: print it, `plot` it, turn it into a `pandas.DataFrame` or JSON.

    Raises:
        TypeError: If it is no mapping of names to results of one of these kinds.
        ValueError: If there are none, or they do not compare.

    Example:

    >>> import numpy as np
    >>> from keras_weightnoise import calibration_report, compare, fit_temperature, scale_temperature
    >>> y, p = np.array([0, 0, 0, 1]), np.array([[0.99, 0.01]] * 4)
    >>> warmer = scale_temperature(p, fit_temperature(y, p))
    >>> compare({"model": calibration_report(y, p), "warmer": calibration_report(y, warmer)})
    Calibration
      prediction  accuracy     nll   brier     ece  examples
      model         0.7500  1.1588  0.4902  0.2400         4
      warmer        0.7500  0.5623  0.3750  0.0000         4
    """
    if not isinstance(results, Mapping) or not all(isinstance(name, str) for name in results):
        raise TypeError(
            "Invalid `results`. Expected a mapping from names to results. "
            f"Received: results of type {type(results).__name__}"
        )
    if not results:
        raise ValueError("Invalid `results`. Expected at least one result. Received: results={}")
    kinds = {name: type(result).__name__ for name, result in results.items()}
    first, *others = dict.fromkeys(kinds.values())
    if others or first not in KINDS:
        raise TypeError(
            f"Invalid `results`. Expected results of one kind: {', '.join(KINDS)}. Received: {kinds}"
        )
    if not common_metrics(results):
        each = {name: list(result.clean) for name, result in results.items()}
        raise ValueError(
            f"Invalid `results`. Expected a metric that all have. Received: results with metrics {each}"
        )
    if first == "ToleranceResult":
        asked = {name: (result.metric, result.drop) for name, result in results.items()}
        if len(set(asked.values())) > 1:
            raise ValueError(
                "Invalid `results`. Expected tolerances of one metric and one `drop`. "
                f"Received: {asked}"
            )
    return ComparisonResult(first, dict(results))
