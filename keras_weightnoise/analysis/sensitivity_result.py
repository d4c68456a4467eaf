"""What `layer_sensitivity` returns: metrics with noise in one layer at a time."""

import dataclasses
import math
from typing import Any

from keras_weightnoise.analysis._results import Result, make_axes
from keras_weightnoise.analysis._summaries import HEADER, Summary, cells, number, summarize, table


@dataclasses.dataclass(frozen=True)
class SensitivityRow:
    """One evaluation of `layer_sensitivity`.

    Attributes:
        name: The path of the layer or variable that was perturbed.
        draw: The draw, from 0.
        metrics: What `model.evaluate` returned.
    """

    name: str
    draw: int
    metrics: dict[str, float]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SensitivityResult(Result):
    """What `layer_sensitivity` returns. Its rows are `SensitivityRow`s.

    Printed, it is a table for each metric, the most fragile layer first: the change of the mean over
    the draws against no noise, and the statistics of `RobustnessResult`.

    Attributes:
        by: `"layer"` or `"variable"`: what was perturbed at a time.
        noise: The noise, as text.
    """

    by: str
    noise: str

    row = SensitivityRow

    def summaries(self, metric: str | None = None) -> dict[str, Summary]:
        """The `Summary` of a metric for each layer (or variable), the most fragile first.

        Args:
            metric: A metric's name. `None`: the first that is not a loss, else the loss.
        """
        metric = self._metric(metric)
        better = self.higher_is_better[metric]
        found = {
            name: summarize(self._by(metric, name=name), better)
            for name in dict.fromkeys(row.name for row in self.rows)
        }

        def damage(name: str) -> float:
            value = self._damage(metric, found[name].mean)
            return math.inf if math.isnan(value) else value

        return {name: found[name] for name in sorted(found, key=damage, reverse=True)}

    def plot(self, metric: str | None = None, ax: Any = None) -> Any:
        """Plots the change of the mean metric as bars, with its 95 % interval, the most fragile on top.

        Args:
            metric: A metric's name. `None`: the first that is not a loss, else the loss.
            ax: Axes of matplotlib. `None`: new ones. Defaults to `None`.

        Returns:
            The axes.
        """
        metric = self._metric(metric)
        summaries = self.summaries(metric)
        ax = make_axes(ax, 1.0 + 0.3 * len(summaries))
        changes = [summary.mean - self.clean[metric] for summary in summaries.values()]
        halves = [summary.high - summary.mean for summary in summaries.values()]
        ax.barh(list(summaries), changes, xerr=halves, capsize=3.0)
        ax.invert_yaxis()
        ax.axvline(0.0, color="black", linewidth=0.8)
        ax.set(xlabel=f"change of {metric} (mean and its 95 % interval)")
        return ax

    def __str__(self) -> str:
        lines = self._title(f"Sensitivity to weight noise in one {self.by} at a time: {self.noise}")
        for metric, clean in self.clean.items():
            rows = [
                [name, number(summary.mean - clean), *cells(summary)]
                for name, summary in self.summaries(metric).items()
            ]
            lines += [f"{metric}, without noise {number(clean)}"]
            lines += table((self.by, "change", *HEADER), rows)
        return "\n".join(lines)
