"""What `choose_magnitude` returns: metrics of an ensemble over the magnitude of its noise."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_weightnoise._tables import Table
from keras_weightnoise.analysis._plots import make_logarithmic, pyplot
from keras_weightnoise.analysis._results import Result, choose_metric, numbers, with_metrics
from keras_weightnoise.analysis._summaries import number


@dataclasses.dataclass(frozen=True)
class MagnitudeRow:
    """An ensemble at one magnitude.

    Attributes:
        magnitude: The magnitude.
        metrics: How it predicts.
    """

    magnitude: float
    metrics: dict[str, float]


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class MagnitudeResult(Result):
    """What `choose_magnitude` returns. It prints as a table, with the choice in its title.

    Attributes:
        metric: What was chosen by.
        magnitude: The magnitude chosen; 0.0 if no noise was best.
        clean: The metrics of the model without noise.
        rows: A `MagnitudeRow` for each magnitude tried, from the smallest.
        complete: Whether all were tried: `False` after an interrupt.
        higher_is_better: For each metric, whether more is better.
        settings: What made it.
    """

    metric: str
    magnitude: float
    clean: dict[str, float]
    rows: tuple[MagnitudeRow, ...]
    complete: bool
    higher_is_better: dict[str, bool]
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)

    def plot(
        self, metrics: Sequence[str] | None = None, axes: Any = None, label: str | None = None
    ) -> Any:
        """Plots metrics over the magnitude, one beside the other, with that without noise and the choice.

        Args:
            metrics: Metrics' names. `None`: negative log likelihood, accuracy and calibration error, where
                there are these. Defaults to `None`.
            axes: As many axes of matplotlib, such as an earlier call returned. `None`: new ones. Defaults to
                `None`.
            label: The ensemble's name for the legend. Defaults to `None`.

        Returns:
            A list of axes.
        """
        if metrics is None:
            metrics = [name for name in self.clean if name != "brier"]
        names = [choose_metric(self.clean, metric) for metric in metrics]
        if axes is None:
            size = (4.0 * len(names), 3.4)
            _, axes = pyplot().subplots(
                1, len(names), figsize=size, layout="constrained", squeeze=False
            )
            axes = axes[0]
        for name, ax in zip(names, axes, strict=True):
            self._plot_one(name, ax, label)
        # Above: the curves may be anywhere.
        axes[0].legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3, frameon=False)
        return list(axes)

    def _plot_one(self, metric: str, ax: Any, label: str | None) -> None:
        without, chosen = (None, None) if ax.lines else ("without noise", "chosen")  # Said once.
        (line,) = ax.plot(
            [row.magnitude for row in self.rows],
            [row.metrics[metric] for row in self.rows],
            marker="o",
            markersize=4.0,
            label=label,
        )
        color = line.get_color()
        ax.axhline(self.clean[metric], color=color, linestyle="--", linewidth=1.0, label=without)
        if self.magnitude > 0.0:
            ax.axvline(self.magnitude, color=color, linestyle=":", linewidth=1.5, label=chosen)
        make_logarithmic(ax)
        ax.set(xlabel="magnitude of the noise", ylabel=metric)
        self._show_what_matters(metric, ax)

    def _show_what_matters(self, metric: str, ax: Any) -> None:
        """Ends the axis of a metric where noise has ruined it: what is won would not show beside that."""
        clean, sign = self.clean[metric], -1.0 if self.higher_is_better[metric] else 1.0
        costs = [0.0] + [sign * (row.metrics[metric] - clean) for row in self.rows]
        least = float(np.nanmin(costs))
        most = min(max(-1.5 * least, 0.3 * abs(clean)), float(np.nanmax(costs)))
        margin = 0.1 * (most - least)
        ends = [clean + sign * (most + margin), clean + sign * (least - margin)]
        if not ax.get_autoscaley_on():  # Of an earlier call.
            ends += ax.get_ylim()
        if min(ends) < max(ends):
            ax.set_ylim(min(ends), max(ends))

    def _title(self) -> list[str]:
        best = "highest" if self.higher_is_better[self.metric] else "lowest"
        chosen = {0.0: self.clean} | {row.magnitude: row.metrics for row in self.rows}
        value, clean = chosen[self.magnitude][self.metric], self.clean[self.metric]
        return [
            f"The {best} {self.metric} is at a magnitude of {self.magnitude:.4g}: {number(value)}, without "
            f"noise {number(clean)}",
            *([] if self.complete else ["INCOMPLETE: interrupted before all were tried."]),
        ]

    def _tables(self, top: int | None) -> list[Table]:
        rows = [["without", *map(number, self.clean.values())]]
        rows += [[f"{row.magnitude:.4g}", *map(number, row.metrics.values())] for row in self.rows]
        return [Table("", ("magnitude", *self.clean), rows)]

    def _records(self) -> list[dict[str, Any]]:
        clean = MagnitudeRow(0.0, self.clean)
        rows = (clean, *self.rows)
        return [with_metrics({"magnitude": row.magnitude}, row.metrics) for row in rows]

    @classmethod
    def _from_standard(cls, content: dict[str, Any]) -> dict[str, Any]:
        rows = tuple(
            MagnitudeRow(float(row["magnitude"]), numbers(row["metrics"]))
            for row in content["rows"]
        )
        return content | {"clean": numbers(content["clean"]), "rows": rows}
