"""The magnitude of noise at which a model breaks."""

import functools
import warnings
from typing import Any

from keras_weightnoise._weights.selectors import Selector
from keras_weightnoise.analysis._bisection import Bisection
from keras_weightnoise.analysis._costs import Costs, Goal, Mode, check_search
from keras_weightnoise.analysis._evaluation import (
    Evaluator,
    Progress,
    Verbose,
    check_arguments,
    check_draws,
    is_random,
    keep_at_interrupt,
)
from keras_weightnoise.analysis._plan import Sweepable, at_magnitude, kind_of, plan_largest
from keras_weightnoise.analysis._settings import describe
from keras_weightnoise.analysis._trials import Trial
from keras_weightnoise.analysis.tolerance_result import ToleranceResult
from keras_weightnoise.models.perturb import PerturbedWeights
from keras_weightnoise.noises import Noise


def noise_tolerance(
    model: Any,
    data: Any,
    *,
    drop: float,
    metric: str | None = None,
    mode: Mode = "auto",
    noise: Sweepable | None = None,
    high: float | None = None,
    draws: int | range = 10,
    bisections: int = 15,
    within: float = 0.0,
    variables: Selector | None = None,
    exclude: Selector | None = None,
    recalibrate: Any = None,
    seed: int = 0,
    batch_size: int | None = None,
    steps: int | None = None,
    verbose: Verbose = "auto",
) -> ToleranceResult:
    """Finds how much noise a model bears: the largest s with `mean_d cost(w + n_d(s)) <= drop`.

    The cost is what a metric loses against its value without noise. The search is a bisection of
    [0, `high`] on draws that are common to all magnitudes, so that the cost is a function of the magnitude
    alone, and the result the same in each run.

    Use it where `robustness_sweep` would need a grid that you do not know, or for one number that says how
    flat a minimum is. With the defaults and `drop=0.1` on the accuracy on training data it is the PAC-Bayes
    sharpness of Jiang et al.: `result.flatness` is 1/s^2. Their variant that knows magnitudes, with a
    variance of `s^2 w^2 + eps^2`, is

        noise=lambda s: noises.Gaussian(s, relative_to="weight") + noises.Gaussian(1e-3)

    where magnitudes are standard deviations, as everywhere here, and 1e-3 is the root of their eps^2.

    The weights and the state of the model are bit for bit as they were afterwards. An interrupt (Ctrl-C)
    ends the search early: with a warning, the result is what is known by then.

    Args:
        model: A built and compiled `keras.Model`.
        data: What to evaluate on: see `robustness_sweep`.
        drop: Number > 0: the cost, in the metric's units, that is still borne.
        metric: A metric's name. `None`: the first that is not a loss, else the loss. Defaults to `None`.
        mode: Whether more of the metric is better, `"max"`, or less, `"min"`. `"auto"`: as its name says
            (see `RobustnessResult.higher_is_better`). Defaults to `"auto"`.
        noise: One of `keras_weightnoise.noises`, whose magnitude is searched, or a function from a
            magnitude to one. `None`: `noises.Gaussian()`. Defaults to `None`.
        high: Number > 0: the largest magnitude tried, in units of the noise. `None`: 2.0, or the largest
            that the noise takes, such as a rate of 1.0. Defaults to `None`.
        draws: Integer >= 1: how many draws of each magnitude; or a `range` of them. Defaults to `10`.
        bisections: Integer >= 1: how often the range is halved. The magnitude is exact to
            `high / 2**bisections`. Defaults to `15`.
        within: Number >= 0: end the search as soon as the cost is this close to `drop`. Jiang et al. have
            0.01. Defaults to `0.0`.
        variables: See `robustness_sweep`.
        exclude: See `robustness_sweep`.
        recalibrate: See `robustness_sweep`.
        seed: See `robustness_sweep`.
        batch_size: See `robustness_sweep`.
        steps: See `robustness_sweep`.
        verbose: See `robustness_sweep`.

    Returns:
        A `ToleranceResult`, with `magnitude`, its `interval` over draws, and `flatness`. Print it, `plot` it,
        turn it into a `pandas.DataFrame` or JSON.

    Raises:
        ValueError: If the model is not compiled or not built, a number is out of its range, or `high` is
            out of the noise's.
        TypeError: If an argument is of another type.

    Example:

    >>> import keras, numpy as np
    >>> from keras_weightnoise import noise_tolerance
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, use_bias=False)])
    >>> model.compile(loss="mse")
    >>> x = np.eye(4)
    >>> data = x, model.predict(x, verbose=0)
    >>> result = noise_tolerance(model, data, drop=0.01, draws=3, bisections=7, verbose=0)
    >>> 0.05 < result.magnitude < 0.2  # The cost is s^2 mean(n^2).
    True

    References:
        - [Jiang et al., 2020](https://arxiv.org/abs/1912.02178) (sharpness and generalisation)
        - [Dziugaite et al., 2020](https://arxiv.org/abs/2010.11924)
    """
    check_arguments(model, data, seed)
    numbers = check_draws(draws)
    if high is None:
        high = min(2.0, noise.most) if isinstance(noise, Noise) else 2.0
    check_search(drop, high, bisections, mode, within)
    evaluator = Evaluator(model, data, batch_size, steps, recalibrate)
    progress = Progress(len(numbers) * (1 + bisections), verbose)
    perturb = _Perturb(noise, float(high), model, variables, exclude, seed)
    search = Bisection(drop, float(high), bisections, within)
    settings = describe(
        model,
        perturb.variables,
        noise=[perturb.label],
        seed=seed,
        **search.settings,
        recalibrated=recalibrate is not None,
    )
    costs = Costs(evaluator, Goal.of(evaluator.clean(), metric, mode), perturb, numbers, progress)
    return _find(costs, search, progress, settings)


def _find(
    costs: Costs, search: Bisection, progress: Progress, settings: dict[str, Any]
) -> ToleranceResult:
    complete = False
    with keep_at_interrupt(costs.rows, stacklevel=5):
        costs.search(search)
        complete = True
        progress.finish()
    if search.largest == search.high:
        warnings.warn(
            "The model bears all that was tried. Expected a larger `high`, where the noise takes one. "
            f"Received: high={search.high}",
            stacklevel=3,
        )
    elif search.largest == 0.0 and complete:
        warnings.warn(
            f"The model bears nothing that was tried, down to {min(search.costs):.4g}. Expected more "
            f"`bisections`, or a smaller `high`. Received: {search.tried}",
            stacklevel=3,
        )
    return costs.result(search.drop, search.largest, complete, settings)


class _Perturb:
    """Puts a noise into the weights, at one magnitude after the other.

    Attributes:
        label: What the noise is called.
        variables: The variables that it perturbs.
    """

    def __init__(
        self,
        noise: Sweepable | None,
        high: float,
        model: Any,
        variables: Selector | None,
        exclude: Selector | None,
        seed: int,
    ) -> None:
        make = functools.partial(
            PerturbedWeights, model, variables=variables, exclude=exclude, seed=seed
        )
        point = plan_largest(noise, high)
        self.label = point.label
        # One graph draws for all magnitudes, unless the draws themselves differ.
        self._perturbed = {kind_of(point.noise): make(point.noise)}
        self.variables = self._perturbed[kind_of(point.noise)].variables
        self._noise = noise
        self._make = make

    def __call__(self, magnitude: float) -> tuple[PerturbedWeights, Trial]:
        noise = at_magnitude(self._noise, magnitude)
        kind = kind_of(noise)
        if kind not in self._perturbed:
            self._perturbed[kind] = self._make(noise)
        noisy, sizes = self._perturbed[kind], [noise.magnitudes_at(0)]
        labels = {"noise": self.label, "magnitude": magnitude}
        return noisy, Trial(labels, lambda draw: noisy.inject(draw, sizes), is_random(noise))
