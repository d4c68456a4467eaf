"""What `layer_sensitivity` returns: metrics with noise in one layer at a time."""

import dataclasses
import math
from typing import Any

from keras_weightnoise._checks import check_count
from keras_weightnoise._tables import Table
from keras_weightnoise.analysis._plots import make_axes
from keras_weightnoise.analysis._results import DrawResult, with_metrics
from keras_weightnoise.analysis._summaries import HEADER, Summary, cells, number, summarize


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


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class SensitivityResult(DrawResult):
    """What `layer_sensitivity` returns: metrics with noise in one layer at a time.

    Printed, it is a table for each metric, the most fragile layer first: the change of the mean over
    the draws against no noise, and the statistics of `RobustnessResult`.

    Attributes:
        clean: The metrics without noise.
        rows: A `SensitivityRow` for each measurement.
        complete: Whether all were made: `False` after an interrupt.
        higher_is_better: For each metric, whether more is better: see `RobustnessResult`.
        settings: What made it: see `RobustnessResult`.
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

    def plot(self, metric: str | None = None, ax: Any = None, top: int | None = 10) -> Any:
        """Plots the change of the mean metric as bars, with its 95 % interval, the most fragile on top.

        Args:
            metric: A metric's name. `None`: the first that is not a loss, else the loss.
            ax: Axes of matplotlib. `None`: new ones. Defaults to `None`.
            top: Integer >= 1: how many of the most fragile. `None`: all. Defaults to `10`.

        Returns:
            The axes.
        """
        metric = self._metric(metric)
        summaries = self._most_fragile(metric, top)
        # The bars keep their size, however long the names.
        ax = make_axes(ax, 1.0 + 0.3 * len(summaries), 4.0 + 0.08 * max(map(len, summaries)))
        changes = [summary.mean - self.clean[metric] for summary in summaries.values()]
        halves = [summary.high - summary.mean for summary in summaries.values()]
        ax.barh(list(summaries), changes, xerr=halves, capsize=3.0)
        ax.set_ylim(len(summaries) - 0.5, -0.5)
        ax.axvline(0.0, color="black", linewidth=0.8)
        ax.set(xlabel=f"change of {metric}\n(mean and its 95 % interval)")
        return ax

    def _most_fragile(self, metric: str, top: int | None) -> dict[str, Summary]:
        if top is not None:
            check_count("top", top)
        return dict(list(self.summaries(metric).items())[:top])

    def _title(self) -> list[str]:
        title = f"Sensitivity to weight noise in one {self.by} at a time: {self.noise}"
        return [title, *self._incomplete()]

    def _tables(self, top: int | None) -> list[Table]:
        tables = []
        for metric, clean in self.clean.items():
            shown = self._most_fragile(metric, top)
            left_out = len({row.name for row in self.rows}) - len(shown)
            tables.append(
                Table(
                    f"{metric}, without noise {number(clean)}",
                    (self.by, "change", *HEADER),
                    [
                        [name, number(summary.mean - clean), *cells(summary)]
                        for name, summary in shown.items()
                    ],
                    f"... and {left_out} less fragile: see `table()`" if left_out else "",
                )
            )
        return tables

    def _records(self) -> list[dict[str, Any]]:
        # The column is called what the table calls it.
        return [
            with_metrics({self.by: row.name, "draw": row.draw}, row.metrics) for row in self.rows
        ]

    def _sorted(self, rows: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(sorted(rows, key=lambda row: (row.name, row.draw)))
