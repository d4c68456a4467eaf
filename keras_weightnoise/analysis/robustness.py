"""How much weight noise a trained model can bear."""

from collections.abc import Sequence
from typing import Any

from keras_weightnoise._weights.selectors import Selector
from keras_weightnoise.analysis._evaluation import Evaluator, Verbose, check_arguments, check_draws
from keras_weightnoise.analysis._plan import Sweepable, by_kind, check_magnitudes, plan
from keras_weightnoise.analysis._settings import describe
from keras_weightnoise.analysis._trials import measure
from keras_weightnoise.analysis.robustness_result import RobustnessResult, RobustnessRow
from keras_weightnoise.models.perturb import PerturbedWeights


def robustness_sweep(
    model: Any,
    data: Any,
    *,
    noise: Sweepable | Sequence[Sweepable] | None = None,
    magnitudes: Sequence[float] = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2),
    draws: int | range = 10,
    variables: Selector | None = None,
    exclude: Selector | None = None,
    recalibrate: Any = None,
    seed: int = 0,
    batch_size: int | None = None,
    steps: int | None = None,
    verbose: Verbose = "auto",
) -> RobustnessResult:
    """Evaluates a model under weight noise of each magnitude: metrics of `f(x; w + n(magnitude))`.

    Use it to see how much noise a trained model bears, to compare models, and to choose a magnitude to
    train with. Every metric that the model is compiled with is evaluated, first without noise, then
    for each magnitude in several draws. Draw d is the same for all magnitudes, noises and models of
    one architecture: what differs between them is not luck. The model's weights are bit for bit as
    they were afterwards, whatever happens.

    A `KeyboardInterrupt` (Ctrl-C) ends the sweep early: with a warning, the result is returned with
    what was measured by then, and says that it is incomplete. Before the first measurement under
    noise, the interrupt is raised.

    Args:
        model: A built and compiled `keras.Model`.
        data: What to evaluate on: a tuple of arrays `(x, y)` or `(x, y, sample_weight)`, a
            `tf.data.Dataset`, a `keras.utils.PyDataset`, or whatever else `model.evaluate` takes as
            `x`. It should hold the same in each pass. A generator or other iterator, of batches, is
            read only once: its batches are kept in memory.
        noise: One of `keras_weightnoise.noises`, whose own magnitude is replaced by each of
            `magnitudes`. Or a function from a magnitude to one, such as a class
            (`noises.Uniform`) or `lambda s: noises.Quantization(8) + noises.Gaussian(s)`. Or a list of
            these, each swept. `None`: `noises.Gaussian()`. Defaults to `None`.
        magnitudes: Numbers >= 0, in units of the noise: the larger, the more of it. Defaults to
            `(0.005, 0.01, 0.02, 0.05, 0.1, 0.2)`.
        draws: Integer >= 1: how many draws of each magnitude; or a `range` of their numbers. Results
            of disjoint ranges add up, as in `sweep(draws=range(5)) + sweep(draws=range(5, 10))`, so that
            several machines can share a sweep out. Noise that is not random, such as rounding, is
            evaluated once, and the value counts for each draw. Defaults to `10`: `range(10)`.
        variables: Which variables, as in `perturb_weights`. Defaults to `None`: every float weight.
        exclude: Which of these not. Defaults to `None`.
        recalibrate: Data, as `data` or `model.predict` take it, on which to estimate the statistics of
            every BatchNormalization layer anew under each noise: in one pass in which these layers
            behave as in training, the means over its batches of their mean and variance. Their own
            statistics are put back afterwards; the value without noise is with these. `None`: they
            are left alone. Defaults to `None`.
        seed: Integer in [0, 2**32). Draw d is that of `perturb_weights` at step d: the first is its
            own for this seed. Defaults to `0`.
        batch_size: Examples in a batch, if the data are arrays. Defaults to `None`: 32.
        steps: How many batches to use of `data`, and of `recalibrate`. Defaults to `None`: all.
        verbose: 0 for no progress bar. `"auto"`: 1. Defaults to `"auto"`.

    Returns:
        A `RobustnessResult`: print it, `plot` it, ask for its `tolerance`, turn it into a
        `pandas.DataFrame` or JSON.

    Raises:
        ValueError: If the model is not compiled or not built; if a magnitude is out of the noise's
            range or a selector matches nothing, before anything is evaluated; if there is no
            BatchNormalization to recalibrate.
        TypeError: If an argument is of another type.

    Example:

    >>> import keras, numpy as np
    >>> from keras_weightnoise import noises, robustness_sweep
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> model.compile(loss="mse")
    >>> x = np.ones((8, 4))
    >>> result = robustness_sweep(
    ...     model, (x, model.predict(x, verbose=0)), noise=noises.Gaussian(relative_to="std"),
    ...     magnitudes=[0.01, 0.1, 1.0], draws=5, verbose=0,
    ... )
    >>> result.clean
    {'loss': 0.0}
    >>> len(result.rows), result.tolerance("loss", drop=1e9)
    (15, 1.0)

    References:
        - [Joshi et al., 2020](https://doi.org/10.1038/s41467-020-16108-9) (accuracy under noise of
          hardware)
    """
    check_arguments(model, data, seed)
    numbers = check_draws(draws)
    points = plan(noise, check_magnitudes(magnitudes))
    perturbed = [
        (PerturbedWeights(model, group[0].noise, variables, exclude, seed), group)
        for group in by_kind(points)
    ]
    evaluator = Evaluator(model, data, batch_size, steps, recalibrate)
    settings = describe(
        model,
        perturbed[0][0].variables,
        noise=list(dict.fromkeys(point.label for point in points)),
        magnitudes=sorted({point.magnitude for point in points}),
        seed=seed,
        recalibrated=recalibrate is not None,
    )
    trials = [
        (noisy, [point.trial(noisy, evaluator) for point in group]) for noisy, group in perturbed
    ]
    measured = measure(evaluator, trials, numbers, RobustnessRow, verbose)
    return RobustnessResult.collect(measured, settings)
