"""How much noise each layer may have, so that all of it at once is borne."""

import functools
import warnings
from collections.abc import Callable
from typing import Any, Literal

import keras

from keras_weightnoise._checks import check_choice
from keras_weightnoise._weights.selectors import Selector
from keras_weightnoise.analysis._bisection import Bisection
from keras_weightnoise.analysis._costs import Costs, Goal, Mode, check_search
from keras_weightnoise.analysis._evaluation import (
    Evaluator,
    Progress,
    Verbose,
    check_arguments,
    check_draws,
    keep_at_interrupt,
)
from keras_weightnoise.analysis._parts import Parts
from keras_weightnoise.analysis._plan import Sweepable
from keras_weightnoise.analysis._settings import describe
from keras_weightnoise.analysis.budget_result import BudgetResult


def noise_budget(
    model: Any,
    data: Any,
    *,
    drop: float,
    metric: str | None = None,
    mode: Mode = "auto",
    noise: Sweepable | None = None,
    by: Literal["layer", "variable"] = "layer",
    high: float = 1.0,
    draws: int | range = 10,
    bisections: int = 10,
    variables: Selector | None = None,
    exclude: Selector | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    steps: int | None = None,
    verbose: Verbose = "auto",
) -> BudgetResult:
    """Finds the noise that each layer bears, alone and as its share of what the model bears.

    1. Alone: the largest magnitude at which noise in this layer costs no more than `drop`, as
       `noise_tolerance` finds it.
    2. Its share: with L layers, the largest at which it costs no more than `drop / L`.
    3. All at once: every layer with its share. If that costs more than `drop`, since costs need not add up,
       all magnitudes are made smaller by one factor, the largest at which it does not.

    Use it to choose precision layer by layer: bits, cells of a memory, protection from faults. The result's
    `noise` is what `perturb_weights`, `WeightNoiseCallback` and all others take. With

        noise=lambda s: noises.Uniform(s, relative_to="range")

    a layer's magnitude s is the rounding error of `log2(1 + 0.5 / s)` bits. With many layers, a share is
    small: a loss tells it better than an accuracy does, which moves in steps of one example.

    It takes up to `2 * (1 + bisections)` evaluations for each draw of each layer. Draws are common to all.
    The weights and the state of the model are bit for bit as they were afterwards. An interrupt (Ctrl-C)
    ends it early: with a warning, the result is what each layer bears alone, as far as that is known.

    Args:
        model: A built and compiled `keras.Model`.
        data: What to evaluate on: see `robustness_sweep`.
        drop: Number > 0: the cost, in the metric's units, that is still borne.
        metric: See `noise_tolerance`.
        mode: See `noise_tolerance`.
        noise: One of `keras_weightnoise.noises`, whose magnitude is searched, or a function from a
            magnitude to one. `None`: `noises.Gaussian()`. Defaults to `None`.
        by: `"layer"`: of those that own a selected variable themselves. `"variable"`: each variable has a
            budget of its own. Defaults to `"layer"`.
        high: Number > 0: the largest magnitude tried, in units of the noise: no layer's share is larger.
            Defaults to `1.0`.
        draws: Integer >= 1: how many draws of each magnitude; or a `range` of them. Defaults to `10`.
        bisections: Integer >= 1: how often the range is halved. Defaults to `10`: magnitudes are exact to
            `high / 1024`.
        variables: See `robustness_sweep`.
        exclude: See `robustness_sweep`.
        seed: See `robustness_sweep`.
        batch_size: See `robustness_sweep`.
        steps: See `robustness_sweep`.
        verbose: See `robustness_sweep`.

    Returns:
        A `BudgetResult`: print it, `plot` it, use its `noise`, turn it into a `pandas.DataFrame` or JSON.

    Raises:
        ValueError: If the model is not compiled or not built, a number is out of its range, or `high` is
            out of the noise's.
        TypeError: If an argument is of another type.

    Example:

    >>> import keras, numpy as np
    >>> from keras_weightnoise import noise_budget, perturb_weights
    >>> layers = [keras.layers.Dense(1, use_bias=False, name=name) for name in ("first", "second")]
    >>> model = keras.Sequential([keras.Input((4,)), *layers])
    >>> model.compile(loss="mse")
    >>> x = np.eye(4)
    >>> data = x, model.predict(x, verbose=0)
    >>> budget = noise_budget(model, data, drop=0.01, draws=1, bisections=6, verbose=0)
    >>> list(budget.noise)
    ['^first/kernel$', '^second/kernel$']
    >>> noisy = perturb_weights(model, budget.noise)
    """
    check_arguments(model, data, seed)
    numbers = check_draws(draws)
    check_search(drop, high, bisections, mode)
    check_choice("by", by, ("layer", "variable"))
    parts = Parts(model, noise, float(high), by, variables, exclude, seed)
    evaluator = Evaluator(model, data, batch_size, steps)
    more = {"by": by, "seed": seed, "high": float(high), "bisections": bisections}
    settings = describe(model, parts.weights.variables, noise=[parts.label], **more)
    searches = 2 * len(parts.names) + 1
    progress = Progress(searches * len(numbers) * (1 + bisections), verbose)
    goal = Goal.of(evaluator.clean(), metric, mode)
    search = _Search(
        functools.partial(Costs, evaluator, goal, draws=numbers, progress=progress),
        functools.partial(Bisection, bisections=bisections, within=0.0),
        parts,
        float(drop),
    )
    search.run(float(high), progress)
    return search.result(goal, settings)


class _Search:
    """The three steps of the search.

    Args:
        costs: From what puts noise into the weights to its costs.
        bisect: From what is borne, and the largest magnitude, to a bisection.
        parts: The layers.
        drop: What is borne.
    """

    def __init__(
        self,
        costs: Callable[..., Costs],
        bisect: Callable[[float, float], Bisection],
        parts: Parts,
        drop: float,
    ) -> None:
        self._costs = costs
        self._bisect = bisect
        self._parts = parts
        self._drop = drop
        self._alone: dict[str, tuple[Costs, float]] = {}
        self._shares: dict[str, float] = {}
        self._together: tuple[Costs, float] | None = None

    def run(self, high: float, progress: Progress) -> None:
        """Searches until done or interrupted."""
        share = self._drop / len(self._parts.names)
        with keep_at_interrupt(self._alone, stacklevel=5):
            for name in self._parts.names:
                costs = self._costs(self._parts.perturb(name))
                alone = costs.search(self._bisect(self._drop, high))
                # What was evaluated for the one counts for the other.
                self._shares[name] = costs.search(self._bisect(share, high))
                self._alone[name] = costs, alone
            together = self._costs(self._parts.perturb_all(self._shares))
            self._together = together, together.search(self._bisect(self._drop, 1.0))
            progress.finish()
        nothing = [name for name, found in self._shares.items() if found == 0.0]
        if nothing and self._together is not None:
            warnings.warn(
                f"There is no noise in {nothing}: all that was tried costs more than a share of `drop`. "
                f"Expected more `bisections`, or a smaller `high`. Received: high={high}",
                stacklevel=3,
            )

    def result(self, goal: Goal, settings: dict[str, Any]) -> BudgetResult:
        """What was found."""
        complete = self._together is not None
        layers = {
            name: costs.result(self._drop, alone, True, settings)
            for name, (costs, alone) in self._alone.items()
        }
        together, rules, magnitudes = None, [], {}
        if self._together is not None:
            costs, factor = self._together
            together = costs.result(self._drop, factor, True, settings)
            magnitudes = {name: factor * share for name, share in self._shares.items()}
            rules = [
                (selector, keras.saving.serialize_keras_object(noise))
                for selector, noise in self._parts.rules(magnitudes)
            ]
        return BudgetResult(
            metric=goal.metric,
            drop=self._drop,
            clean=goal.clean,
            layers=layers,
            magnitudes=magnitudes,
            together=together,
            rules=rules,
            complete=complete,
            settings=settings,
        )
