"""What `signal_to_noise` returns: |mu| / sigma of the weights of each variable."""

import dataclasses
from typing import Any

import numpy as np

from keras_weightnoise._checks import check_count
from keras_weightnoise._tables import Table
from keras_weightnoise.analysis._plots import make_axes
from keras_weightnoise.analysis._results import Result
from keras_weightnoise.analysis._summaries import number

# The bins of the histograms, ten for each factor of 10. The outermost hold what is beyond them, too.
EDGES = tuple(float(10.0 ** (k / 10)) for k in range(-40, 41))
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclasses.dataclass(frozen=True)
class SignalToNoiseRow:
    """The ratios |mu| / sigma of one variable.

    Attributes:
        name: The variable's name in the model.
        shape: Its shape.
        weights: How many weights it has.
        mean_stddev: The mean of sigma.
        quantiles: Of the ratios, at 5, 25, 50, 75 and 95 %.
        below_one: The share of the weights whose ratio is less than 1.
        counts: How many ratios are in each of 80 bins, whose edges are `10 ** (k / 10)` for k from -40 to
            40. The outermost hold what is beyond them, too.
    """

    name: str
    shape: tuple[int, ...]
    weights: int
    mean_stddev: float
    quantiles: tuple[float, ...]
    below_one: float
    counts: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class SignalToNoiseResult(Result):
    """What `signal_to_noise` returns. Printed, it is a table, the variable with the lowest median first.

    Attributes:
        rows: A `SignalToNoiseRow` for each variable, in the order of the model.
        overall: The same of all weights together.
        settings: What made it: the model's name, a fingerprint of its weights, the versions of Keras,
            TensorFlow and this library.
    """

    rows: tuple[SignalToNoiseRow, ...]
    overall: SignalToNoiseRow
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)

    def plot(self, ax: Any = None, top: int | None = 5) -> Any:
        """Plots the histogram of all weights, those of variables as lines, and the share that lies below.

        Args:
            ax: Axes of matplotlib. `None`: new ones. Defaults to `None`.
            top: Integer >= 1: how many variables, from the lowest median. `None`: all. Defaults to `5`.

        Returns:
            The axes.
        """
        ax = make_axes(ax)
        centers = np.sqrt(np.multiply(EDGES[:-1], EDGES[1:]))
        counts = np.array(self.overall.counts)
        ax.fill_between(centers, counts, step="mid", color="0.85", label="all")
        for row in self._lowest(top):
            ax.step(centers, row.counts, where="mid", linewidth=1.2, label=row.name)
        share = ax.twinx()
        share.plot(EDGES[1:], np.cumsum(counts) / counts.sum(), color="black", linestyle=":")
        share.set(ylim=(0.0, 1.02), ylabel="share below (dotted)")
        (there,) = np.nonzero(counts[1:-1])  # What is beyond all bins would leave a gap.
        first, last = (there[0], there[-1] + 3) if there.size else (0, len(counts))
        ax.set(xscale="log", xlim=(EDGES[first], EDGES[last]))
        ax.set(xlabel="signal to noise, |mu| / sigma", ylabel="weights")
        ax.set_ylim(bottom=0.0)
        ax.legend(loc="upper left")
        return ax

    def _lowest(self, top: int | None) -> list[SignalToNoiseRow]:
        """The variables from the lowest median."""
        if top is not None:
            check_count("top", top)
        return sorted(self.rows, key=lambda row: row.quantiles[2])[:top]

    def _title(self) -> list[str]:
        return [f"Signal to noise |mu| / sigma of {self.overall.weights} weights"]

    def _tables(self, top: int | None) -> list[Table]:
        shown = self._lowest(top)
        shown += [self.overall] if len(self.rows) > 1 else []
        rows = [
            [
                row.name,
                str(row.weights),
                number(row.mean_stddev),
                *(number(row.quantiles[i]) for i in (0, 2, 4)),
                f"{row.below_one:.1%}",
            ]
            for row in shown
        ]
        left_out = len(self.rows) - len(self._lowest(top))
        note = f"... and {left_out} with a higher median: see `table()`" if left_out else ""
        header = ("variable", "weights", "mean sigma", "5 %", "median", "95 %", "below 1")
        return [Table("", header, rows, note)]

    def _records(self) -> list[dict[str, Any]]:
        records = []
        for row in self.rows:
            record = {"variable": row.name} | vars(row)
            for unused in ("name", "counts", "quantiles"):
                del record[unused]
            names = [f"{100 * q:g} %" for q in QUANTILES]
            records.append(record | dict(zip(names, row.quantiles, strict=True)))
        return records

    @classmethod
    def _from_standard(cls, content: dict[str, Any]) -> dict[str, Any]:
        def row(fields: dict[str, Any]) -> SignalToNoiseRow:
            tuples = {name: tuple(fields[name]) for name in ("shape", "quantiles", "counts")}
            return SignalToNoiseRow(**fields | tuples)

        rows = tuple(map(row, content["rows"]))
        return content | {"rows": rows, "overall": row(content["overall"])}
