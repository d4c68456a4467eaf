"""What `robustness_sweep` returns: metrics over noise magnitudes."""

import dataclasses
from typing import Any

from keras_weightnoise._checks import check_amount
from keras_weightnoise._tables import Table
from keras_weightnoise.analysis._plots import make_axes, make_logarithmic, shades
from keras_weightnoise.analysis._results import DrawResult, check_finite
from keras_weightnoise.analysis._summaries import HEADER, Summary, cells, number, summarize

_CLEAN = "without noise"
_MARKERS = "os^Dv"


@dataclasses.dataclass(frozen=True)
class RobustnessRow:
    """One evaluation of a sweep.

    Attributes:
        noise: The noise's label.
        magnitude: Its magnitude.
        draw: The draw, from 0.
        metrics: What `model.evaluate` returned.
    """

    noise: str
    magnitude: float
    draw: int
    metrics: dict[str, float]


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class RobustnessResult(DrawResult):
    """What `robustness_sweep` returns: metrics over noise magnitudes.

    Printed, it is a table for each noise and metric: the mean over the draws, their standard
    deviation, the 95 % interval of the mean by Student's t, median and quartiles, and the worst draw.

    Attributes:
        clean: The metrics without noise.
        rows: A `RobustnessRow` for each measurement.
        complete: Whether all were made: `False` after an interrupt.
        higher_is_better: For each metric, whether more is better. Guessed from its name, as Keras's
            `ModelCheckpoint` does with `mode="auto"`: true for accuracies, AUC, precision, recall,
            sensitivity, specificity, F scores, IoU, R2, cosine similarity, correlations, and counts of
            what is true; false for the rest and whatever has "loss" in its name. Change it in place
            where it is wrong: `result.higher_is_better["psnr"] = True`.
        settings: What made it: the model's name, a fingerprint of its weights, the noise, the seed, the
            versions of Keras, TensorFlow and this library.
    """

    row = RobustnessRow

    def summaries(self, metric: str | None = None) -> dict[str, dict[float, Summary]]:
        """The `Summary` of a metric for each noise and magnitude, from the smallest.

        Args:
            metric: A metric's name. `None`: the first that is not a loss, else the loss.
        """
        metric = self._metric(metric)
        values: dict[str, dict[float, dict[int, float]]] = {}
        for row in self.rows:
            by_draw = values.setdefault(row.noise, {}).setdefault(row.magnitude, {})
            by_draw[row.draw] = row.metrics[metric]
        better = self.higher_is_better[metric]
        return {
            noise: {m: summarize(values[noise][m], better) for m in sorted(values[noise])}
            for noise in values
        }

    def tolerance(self, metric: str | None = None, drop: float = 0.01) -> float | dict[str, float]:
        """The largest magnitude swept up to which the mean metric loses at most `drop`.

        Args:
            metric: A metric's name. `None`: the first that is not a loss, else the loss.
            drop: Number >= 0: the loss allowed against the value without noise, in the metric's units
                and the direction of `higher_is_better`. Defaults to `0.01`.

        Returns:
            A magnitude at which, as at all smaller ones swept, the mean over the draws is within
            `drop`; `0.0` if there is none. Of several noises, a dict of these, keyed by label.

        Raises:
            ValueError: If `drop` is negative or not finite, or the metric not a finite number without noise.
            TypeError: If `drop` is not a number.
        """
        metric = self._metric(metric)
        check_amount("drop", drop)
        check_finite(metric, self.clean)
        # Metrics are `float32`: 0.97 - 0.96 comes to a little more than 0.01.
        allowed = drop + 1e-6 * max(1.0, abs(self.clean[metric]))
        tolerances = {}
        for noise, summaries in self.summaries(metric).items():
            tolerances[noise] = 0.0
            for magnitude, summary in summaries.items():
                # Not a number is not within any bound.
                if not self._damage(metric, summary.mean) <= allowed:
                    break
                tolerances[noise] = magnitude
        return tolerances if len(tolerances) > 1 else next(iter(tolerances.values()))

    def plot(self, metric: str | None = None, ax: Any = None, label: str | None = None) -> Any:
        """Plots a metric over the magnitude: the mean, and a band from the worst draw to the best.

        A model has one color, its noises shades and markers of their own. The value without noise is a
        dashed line. The axis of magnitudes is logarithmic if the
        positive ones span a decade; then there is no place on it for 0.

        Args:
            metric: A metric's name. `None`: the first that is not a loss, else the loss.
            ax: Axes of matplotlib, such as an earlier call returned, to lay several models over each
                other. `None`: new ones. Defaults to `None`.
            label: The model's name for the legend. Defaults to `None`.

        Returns:
            The axes.
        """
        metric = self._metric(metric)
        ax = make_axes(ax)
        self._set_scale(ax)
        several = self.summaries(metric)
        colors: list[Any] = []
        for i, (noise, summaries) in enumerate(several.items()):
            shown = [m for m in summaries if m > 0.0 or ax.get_xscale() != "log"]
            values = [list(self._by(metric, noise=noise, magnitude=m).values()) for m in shown]
            (line,) = ax.plot(
                shown,
                [summaries[m].mean for m in shown],
                marker=_MARKERS[i % len(_MARKERS)],
                markersize=4.0,
                color=colors[i] if colors else None,  # The first takes the next of the cycle.
                label=", ".join(
                    filter(None, (label, noise if len(several) > 1 or not label else ""))
                ),
            )
            colors = colors or shades(line.get_color(), len(several))
            ax.fill_between(
                shown,
                [min(v) for v in values],
                [max(v) for v in values],
                color=line.get_color(),
                alpha=0.2,
                linewidth=0,
            )
        first = not any(line.get_label() == _CLEAN for line in ax.lines)
        ax.axhline(
            self.clean[metric],
            color=colors[0],
            linestyle="--",
            linewidth=1.0,
            label=_CLEAN if first else None,
        )
        ax.set(xlabel="magnitude of the noise", ylabel=f"{metric} (mean and range of the draws)")
        _thin_out_ticks(ax)
        _add_legend(ax)
        return ax

    def _set_scale(self, ax: Any) -> None:
        """Makes the axis of magnitudes logarithmic, if the positive ones span a decade."""
        positive = sorted({row.magnitude for row in self.rows if row.magnitude > 0.0})
        if positive and positive[-1] >= 10.0 * positive[0]:
            ax.set_xscale("log")
            # The axis's own labels overlap where it spans little more than a decade.
            ax.set_xticks(positive, [f"{tick:g}" for tick in positive])
            ax.minorticks_off()

    def _title(self) -> list[str]:
        return ["Robustness to weight noise", *self._incomplete()]

    def _tables(self, top: int | None) -> list[Table]:
        return [
            Table(
                f"{noise}: {metric}, without noise {number(self.clean[metric])}",
                ("magnitude", *HEADER),
                [[f"{m:g}", *cells(s)] for m, s in summaries.items()],
            )
            for metric in self.clean
            for noise, summaries in self.summaries(metric).items()
        ]

    def _sorted(self, rows: tuple[Any, ...]) -> tuple[Any, ...]:
        order = self.settings.get("noise") or list(dict.fromkeys(row.noise for row in rows))
        return tuple(
            sorted(rows, key=lambda row: (order.index(row.noise), row.magnitude, row.draw))
        )


def _thin_out_ticks(ax: Any) -> None:
    """Leaves out labels of magnitudes, if they are so many that they would overlap."""
    if len(ax.get_xticks()) > 8 and ax.get_xscale() == "log":
        make_logarithmic(ax)


def _add_legend(ax: Any) -> None:
    """Adds the legend, with the value without noise at its end."""
    entries = zip(*ax.get_legend_handles_labels(), strict=True)
    handles, labels = zip(*sorted(entries, key=lambda entry: entry[1] == _CLEAN), strict=True)
    ax.legend(handles, labels, frameon=False)
