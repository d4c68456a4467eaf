"""What `noise_tolerance` returns: the magnitude that a model bears."""

import dataclasses
import itertools
import math
from typing import Any

from keras_weightnoise._tables import Table
from keras_weightnoise.analysis._plots import make_axes, make_logarithmic
from keras_weightnoise.analysis._results import DrawResult
from keras_weightnoise.analysis._summaries import HEADER, Summary, cells, number, summarize
from keras_weightnoise.analysis.robustness_result import RobustnessRow


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ToleranceResult(DrawResult):
    """What `noise_tolerance` returns: the magnitude that a model bears.

    Attributes:
        clean: The metrics without noise.
        rows: A `RobustnessRow` for every evaluation made.
        complete: Whether the search came to its end: `False` after an interrupt.
        higher_is_better: For each metric, whether more is better: see `RobustnessResult`.
        settings: What made it: see `RobustnessResult`.
        metric: The metric that was searched on.
        drop: The cost that is borne.
        magnitude: The largest magnitude found at which the mean cost is within `drop`; 0.0 if none was.
    """

    metric: str
    drop: float
    magnitude: float

    row = RobustnessRow
    __add__ = None  # type: ignore[assignment]  # Other draws make another search.

    @property
    def flatness(self) -> float:
        """`1 / magnitude^2`: of two minima, the flatter one has less of it. The PAC-Bayes sharpness."""
        return 1.0 / self.magnitude**2 if self.magnitude else math.inf

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the magnitude over draws.

        From where the upper end of the mean cost's interval (by Student's t) crosses `drop` to where the
        lower end does, on lines between the magnitudes evaluated; `magnitude` is always within it. NaN of a
        single draw; infinite where the end was not reached.
        """
        if len({row.draw for row in self.rows}) < 2:
            return math.nan, math.nan
        summaries = self.summaries()

        def costs(side: float) -> list[tuple[float, float]]:
            return [(0.0, 0.0)] + [
                (m, self._damage(self.metric, s.mean) + side * (s.high - s.mean))
                for m, s in summaries.items()
            ]

        low, high = _crossing(costs(1.0), self.drop), _crossing(costs(-1.0), self.drop)
        # The lines are a guess, where few magnitudes were evaluated a bold one.
        return min(low, self.magnitude), max(high, self.magnitude)

    def summaries(self, metric: str | None = None) -> dict[float, Summary]:
        """The `Summary` of a metric for each magnitude evaluated, from the smallest.

        Args:
            metric: A metric's name. `None`: the one searched on.
        """
        metric = self.metric if metric is None else self._metric(metric)
        better = self.higher_is_better[metric]
        magnitudes = sorted({row.magnitude for row in self.rows})
        return {m: summarize(self._by(metric, magnitude=m), better) for m in magnitudes}

    @property
    def interval_text(self) -> str:
        """The interval for tables."""
        low, high = self.interval
        if math.isnan(low):
            return "-"
        largest = max(row.magnitude for row in self.rows)
        return f"{low:.4g} to " + (f"{high:.4g}" if math.isfinite(high) else f"above {largest:.4g}")

    def plot(self, ax: Any = None, label: str | None = None) -> Any:
        """Plots every evaluation, the mean over draws, and where it crosses `drop`, with its interval.

        Args:
            ax: Axes of matplotlib, such as an earlier call returned. `None`: new ones. Defaults to `None`.
            label: The model's name for the legend. Defaults to `None`.

        Returns:
            The axes.
        """
        ax = make_axes(ax)
        summaries = self.summaries()
        name = f"{self.magnitude:.3g}" if label is None else f"{label}: {self.magnitude:.3g}"
        (line,) = ax.plot(list(summaries), [s.mean for s in summaries.values()], label=name)
        color = line.get_color()
        ax.plot(
            [row.magnitude for row in self.rows],
            [row.metrics[self.metric] for row in self.rows],
            ".",
            color=color,
            alpha=0.3,
            markersize=4.0,
        )
        better = self.higher_is_better[self.metric]
        limit = self.clean[self.metric] + (-self.drop if better else self.drop)
        ax.axhline(limit, color=color, linestyle=":", linewidth=1.0)
        ax.axvline(self.magnitude, color=color, linestyle="--", linewidth=1.0)
        low, high = self.interval
        if math.isfinite(low) and math.isfinite(high):
            ax.axvspan(low, high, color=color, alpha=0.15, linewidth=0)
        make_logarithmic(ax)
        ax.set(xlabel="magnitude of the noise", ylabel=f"{self.metric} (draws, and their mean)")
        ax.legend(
            title=f"magnitude borne (drop {self.drop:g})",
            loc="lower center",
            bbox_to_anchor=(0.5, 1.0),  # Above: what was tried may be anywhere.
            ncols=2,
            frameon=False,
        )
        return ax

    def _title(self) -> list[str]:
        noise = ", ".join(self.settings.get("noise", ()))
        tried = [row.magnitude for row in self.rows]
        found = f"up to a magnitude of {self.magnitude:.4g}"
        if self.magnitude == 0.0:
            found = f"at no magnitude that was tried, of which {min(tried):.4g} is the smallest"
        elif self.magnitude == max(tried):
            found += ", the largest that was tried"
        return [
            f"Tolerance to weight noise: {noise}".rstrip(": "),
            *self._incomplete(),
            f"{self.metric} is within {self.drop:g} of {number(self.clean[self.metric])} {found}",
            f"95 % interval over draws {self.interval_text}, flatness {self.flatness:.4g}",
        ]

    def _tables(self, top: int | None) -> list[Table]:
        rows = [[f"{m:.4g}", *cells(s)] for m, s in self.summaries().items()]
        return [Table(self.metric, ("magnitude", *HEADER), rows)]

    def _sorted(self, rows: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(sorted(rows, key=lambda row: (row.magnitude, row.draw)))


def _crossing(costs: list[tuple[float, float]], drop: float) -> float:
    """The first magnitude at which a cost, known at some magnitudes, exceeds `drop`."""
    for (m, before), (n, after) in itertools.pairwise(costs):
        if not after <= drop:
            share = (drop - before) / (after - before)
            return m + (n - m) * share if math.isfinite(share) else m
    return math.inf
