"""What `noise_budget` returns: a magnitude of noise for each layer."""

import dataclasses
import math
from typing import Any

from keras_weightnoise import noises
from keras_weightnoise._checks import check_count
from keras_weightnoise._tables import Table
from keras_weightnoise.analysis._plots import make_axes, make_logarithmic
from keras_weightnoise.analysis._results import Result, numbers
from keras_weightnoise.analysis._summaries import number
from keras_weightnoise.analysis.tolerance_result import ToleranceResult
from keras_weightnoise.noises import Noise


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class BudgetResult(Result):
    """What `noise_budget` returns. It prints as a table, the most fragile layer first.

    Attributes:
        metric: The metric that was searched on.
        drop: The cost that is borne.
        clean: The metrics without noise.
        layers: For each layer (or variable) a `ToleranceResult`: what it bears alone, and every evaluation
            with noise in it.
        magnitudes: For each layer (or variable) its magnitude in the budget: its share, times the factor by
            which all shares are smaller. Empty after an interrupt.
        together: All of it at once: a `ToleranceResult`, of which the magnitude is that factor, 1.0 where the
            costs of the shares add up or less. `None` after an interrupt.
        rules: Pairs of a selector and a noise's config: see `noise`.
        complete: Whether all was measured: `False` after an interrupt.
        settings: What made it.
    """

    metric: str
    drop: float
    clean: dict[str, float]
    layers: dict[str, ToleranceResult]
    magnitudes: dict[str, float]
    together: ToleranceResult | None
    rules: list[Any]
    complete: bool
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def noise(self) -> dict[str, Noise]:
        """The budget as a `noise` argument: a mapping from regular expressions to noises.

        For all that takes `noise` and `variables`, `WeightNoiseCallback` and `WeightNoiseEnsemble` among
        them, of this model or one of the same layers.

        Raises:
            ValueError: If an interrupt came first.
        """
        if not self.complete:
            raise ValueError(
                "There is no budget: an interrupt came before all of it was measured. Expected a search "
                "that came to its end. Received: a result with complete=False"
            )
        return {selector: noises.get(config) for selector, config in self.rules}

    def plot(self, ax: Any = None, top: int | None = 20) -> Any:
        """Plots what each layer bears, alone (with its 95 % interval) and in the budget, the most fragile on
        top.

        Args:
            ax: Axes of matplotlib. `None`: new ones. Defaults to `None`.
            top: Integer >= 1: how many of the most fragile. `None`: all. Defaults to `20`.

        Returns:
            The axes.
        """
        shown = self._most_fragile(top)
        ax = make_axes(ax, 1.2 + 0.25 * len(shown), 5.0 + 0.08 * max(map(len, shown), default=0))
        places = range(len(shown))
        for place, layer in zip(places, shown.values(), strict=True):
            low, high = layer.interval
            if math.isfinite(low) and low > 0.0:
                end = high if math.isfinite(high) else layer.settings["high"]
                ax.plot([low, end], [place, place], color="C0", alpha=0.4, linewidth=4.0)
        alone = [layer.magnitude or math.nan for layer in shown.values()]
        ax.plot(alone, places, "o", color="C0", label=f"alone (drop {self.drop:g})")
        if self.magnitudes:
            shares = [self.magnitudes[name] or math.nan for name in shown]
            ax.plot(shares, places, "D", color="C1", markersize=5.0, label="all at once")
        ax.set_yticks(places, list(shown))
        ax.set_ylim(len(shown) - 0.5, -0.5)
        make_logarithmic(ax)
        ax.set(xlabel="magnitude of the noise that is borne")
        ax.grid(axis="y", alpha=0.3)
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
        return ax

    def _most_fragile(self, top: int | None) -> dict[str, ToleranceResult]:
        if top is not None:
            check_count("top", top)
        names = sorted(self.layers, key=lambda name: self.layers[name].magnitude)
        return {name: self.layers[name] for name in names[:top]}

    def _title(self) -> list[str]:
        noise = ", ".join(self.settings.get("noise", ()))
        by = self.settings.get("by", "layer")
        title = [
            f"Noise budget: {noise} in each {by}, for a drop of {self.drop:g} in {self.metric}"
        ]
        if self.together is None:
            return [*title, "INCOMPLETE: interrupted before all was measured."]
        factor = self.together.magnitude
        if factor == 0.0:
            return [*title, "All at once, nothing is borne."]
        found = self.together.summaries()[factor]
        shares = f"; shares times {factor:.3g}" if factor < 1.0 else ""
        spread = ""
        if found.draws > 1:
            spread = f" ± {number(found.high - found.mean)} (mean and 95 % interval of {found.draws} draws)"
        return [
            *title,
            f"All at once {number(found.mean)}{spread}, without noise "
            f"{number(self.clean[self.metric])}{shares}",
        ]

    def _tables(self, top: int | None) -> list[Table]:
        shown = self._most_fragile(top)
        rows = []
        for name, layer in shown.items():
            most = "" if layer.magnitude < layer.settings["high"] else ">= "
            magnitude = f"{self.magnitudes[name]:.4g}" if self.magnitudes else ""
            rows.append([name, f"{most}{layer.magnitude:.4g}", layer.interval_text, magnitude])
        header = (self.settings.get("by", "layer"), "alone", "95 % interval", "all at once")
        left_out = len(self.layers) - len(shown)
        note = f"... and {left_out} less fragile: see `table()`" if left_out else ""
        return [Table("", header, rows, note)]

    def _records(self) -> list[dict[str, Any]]:
        by = self.settings.get("by", "layer")
        return [
            {
                by: name,
                "alone": layer.magnitude,
                "low": layer.interval[0],
                "high": layer.interval[1],
                "magnitude": self.magnitudes.get(name, math.nan),
            }
            for name, layer in self.layers.items()
        ]

    @classmethod
    def _from_standard(cls, content: dict[str, Any]) -> dict[str, Any]:
        def tolerance(each: dict[str, Any]) -> ToleranceResult:
            return ToleranceResult(**ToleranceResult._from_standard(each))

        together = content["together"]
        return content | {
            "clean": numbers(content["clean"]),
            "layers": {name: tolerance(each) for name, each in content["layers"].items()},
            "magnitudes": numbers(content["magnitudes"]),
            "together": None if together is None else tolerance(together),
        }
