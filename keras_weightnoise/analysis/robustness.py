"""How much weight noise a trained model can bear."""

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

from keras_weightnoise._checks import is_number
from keras_weightnoise._types import Tensor
from keras_weightnoise._weights.selectors import Selector
from keras_weightnoise.analysis._evaluation import (
    RepeatedData,
    Verbose,
    check_arguments,
    evaluate,
    is_random,
    keep_at_interrupt,
    make_progress,
    unique,
)
from keras_weightnoise.analysis._recalibration import Recalibration
from keras_weightnoise.analysis._summaries import prefers_high
from keras_weightnoise.analysis.robustness_result import RobustnessResult, RobustnessRow
from keras_weightnoise.models.perturb import PerturbedWeights
from keras_weightnoise.noises import Compose, Gaussian, Noise

Sweepable = Noise | Callable[[Any], Noise]


def robustness_sweep(
    model: Any,
    data: Any,
    *,
    noise: Sweepable | Sequence[Sweepable] | None = None,
    magnitudes: Sequence[float] = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2),
    draws: int = 10,
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
        draws: Integer >= 1: how many draws of each magnitude. Noise that is not random, such as
            rounding, is evaluated once, and the value counts for each draw. Defaults to `10`.
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
    check_arguments(model, draws, seed)
    trials = _plan(noise, _check_magnitudes(magnitudes))
    groups: dict[Any, list[_Trial]] = {}
    for trial in trials:
        groups.setdefault(trial.kind, []).append(trial)
    perturbed = {
        kind: PerturbedWeights(model, group[0].noise, variables, exclude, seed)
        for kind, group in groups.items()
    }
    examples = RepeatedData("data", data, batch_size, steps)
    recalibration = None
    if recalibrate is not None:
        recalibration = Recalibration(
            model, RepeatedData("recalibrate", recalibrate, batch_size, steps)
        )

    # Common to every draw of a noise that is not random.
    known: dict[_Trial, dict[str, float]] = {}
    fixed = [trial for trial in trials if not is_random(trial.noise)]
    silent = [trial for trial in fixed if trial.silent and recalibration is None]
    count = 1 + draws * (len(trials) - len(fixed)) + len(fixed) - len(silent)
    progress = make_progress(count, verbose)
    clean = evaluate(model, examples)
    progress.add(1)
    known |= dict.fromkeys(silent, clean)
    rows: list[RobustnessRow] = []
    with keep_at_interrupt(rows):
        for kind, group in groups.items():
            with perturbed[kind] as noisy:
                # An interrupt leaves fewer draws, not fewer magnitudes.
                for draw, trial in itertools.product(range(draws), group):
                    if trial not in known or is_random(trial.noise):
                        noisy.inject(draw, [trial.sizes])
                        with (
                            recalibration.recalibrated()
                            if recalibration
                            else contextlib.nullcontext()
                        ):
                            known[trial] = evaluate(model, examples)
                        progress.add(1)
                    rows.append(
                        RobustnessRow(trial.label, trial.magnitude, draw, dict(known[trial]))
                    )
    order = {trial.label: i for i, trial in enumerate(trials)}
    rows.sort(key=lambda row: (order[row.noise], row.magnitude, row.draw))
    return RobustnessResult(
        clean=clean,
        rows=tuple(rows),
        complete=len(rows) == draws * len(trials),
        higher_is_better={metric: prefers_high(metric) for metric in clean},
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Trial:
    """A noise at one magnitude of the sweep."""

    label: str
    magnitude: float
    noise: Noise

    @property
    def kind(self) -> tuple[Any, ...]:
        """Equal for noises that one graph draws: they differ in their magnitudes alone."""
        # What is drawn may depend on the magnitude: see `Quantization`.
        return tuple((member.draws, _at(member, 0.0)) for member in self.noise.members)

    @property
    def sizes(self) -> tuple[Tensor, ...]:
        return self.noise.magnitudes_at(0)

    @property
    def silent(self) -> bool:
        """Whether it does nothing."""
        pairs = zip(self.noise.members, self.noise.magnitudes, strict=True)
        return all(member.is_off_at(magnitude) for member, magnitude in pairs)


def _plan(noise: Any, magnitudes: Sequence[Any]) -> list[_Trial]:
    """Makes every noise of the sweep, so that a wrong one is found before the first evaluation."""
    specs = noise if isinstance(noise, list | tuple) else [noise]
    if not specs:
        raise ValueError(f"Invalid `noise`. Expected at least one. Received: noise={noise}")
    made = [[_make(spec, magnitude) for magnitude in magnitudes] for spec in specs]
    labels = unique([_label(noises, magnitudes) for noises in made])
    return [
        _Trial(label, float(magnitude), each)
        for label, noises in zip(labels, made, strict=True)
        for magnitude, each in zip(magnitudes, noises, strict=True)
    ]


def _make(spec: Any, magnitude: Any) -> Noise:
    if spec is None:
        spec = Gaussian()
    if isinstance(spec, Compose):
        raise ValueError(
            "A composition has a magnitude for each of its noises. Expected a function that says which "
            "are swept, such as `lambda s: noises.Quantization(8) + noises.Gaussian(s)`. "
            f"Received: noise={spec}"
        )
    if isinstance(spec, Noise):
        return _at(spec, magnitude)
    if not callable(spec):
        raise TypeError(
            "Invalid `noise`. Expected one of `keras_weightnoise.noises`, a function from a magnitude to "
            f"one, or a list of these. Received: noise={spec!r} (of type {type(spec).__name__})"
        )
    noise = spec(magnitude)
    if not isinstance(noise, Noise):
        raise TypeError(
            "Invalid `noise`. Expected the function to return one of `keras_weightnoise.noises`. "
            f"Received: noise({magnitude})={noise!r}"
        )
    for magnitude_of_member in noise.magnitudes:
        if callable(magnitude_of_member):
            raise TypeError(
                "Invalid `noise`. Expected magnitudes that are numbers: there are no steps to evaluate "
                f"a schedule at. Received: noise({magnitude})={noise}"
            )
    return noise


def _at(noise: Noise, magnitude: Any) -> Noise:
    return dataclasses.replace(noise, **{noise.magnitude_name: magnitude})


def _label(noises: Sequence[Noise], magnitudes: Sequence[Any]) -> str:
    """What noises at these magnitudes have in common, without defaults."""
    parts = []
    for members in zip(*(noise.members for noise in noises), strict=False):
        settings = [
            f"{field.name}={getattr(members[0], field.name)!r}"
            for field in dataclasses.fields(members[0])
            if _is_setting(field, members, magnitudes)
        ]
        parts.append(type(members[0]).__name__ + (f"({', '.join(settings)})" if settings else ""))
    return " + ".join(parts)


def _is_setting(field: Any, members: Sequence[Noise], magnitudes: Sequence[Any]) -> bool:
    values = [getattr(member, field.name, None) for member in members]
    swept = values == list(magnitudes)
    return not swept and values[0] != field.default and all(v == values[0] for v in values)


def _check_magnitudes(magnitudes: Any) -> list[Any]:
    """The magnitudes, from the smallest. Not as floats: a function may want integers."""
    if isinstance(magnitudes, str) or not hasattr(magnitudes, "__iter__"):
        raise TypeError(
            "Invalid `magnitudes`. Expected a list of numbers. "
            f"Received: magnitudes={magnitudes!r} (of type {type(magnitudes).__name__})"
        )
    values = list(magnitudes)
    if not values or not all(is_number(value) and 0 <= value < math.inf for value in values):
        raise ValueError(
            "Invalid `magnitudes`. Expected at least one finite number >= 0, and nothing else. "
            f"Received: magnitudes={magnitudes!r}"
        )
    return sorted(set(values))
