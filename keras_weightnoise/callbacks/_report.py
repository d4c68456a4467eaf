"""What a fit shows of its noises: their magnitudes by name, and a table of the variables."""

import functools
import inspect
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_weightnoise._tables import Table
from keras_weightnoise._weights import kernels
from keras_weightnoise._weights.resolution import root_mean_squares
from keras_weightnoise._weights.rules import Assigned, Rule
from keras_weightnoise.adversaries import Adversary
from keras_weightnoise.noises import Magnitude, Noise
from keras_weightnoise.schedules import Ramp


def as_called(settings: object, always: Sequence[str]) -> str:
    """An object as its class was called: with what is not at its default, and with some arguments always."""
    parameters = inspect.signature(type(settings)).parameters
    named = {name: getattr(settings, name) for name in parameters if hasattr(settings, name)}
    given = [
        f"{name}={value!r}"
        for name, value in named.items()
        if name in always or value is not parameters[name].default
    ]
    return f"{type(settings).__name__}({', '.join(given)})"


def log_before_others(
    callbacks: keras.callbacks.CallbackList | None, magnitudes: Callable[[], dict[str, float]]
) -> None:
    """Has the magnitudes in the logs of an epoch for all callbacks, whichever comes first."""
    if callbacks is None:  # Then for those that come after this one.
        return
    on_epoch_end = functools.partial(type(callbacks).on_epoch_end, callbacks)

    def log_and_end(epoch: int, logs: dict[str, Any] | None = None) -> None:
        on_epoch_end(epoch, {**(logs or {}), **magnitudes()})

    callbacks.on_epoch_end = log_and_end


def selector_name(selector: Any) -> str:
    """What a selector is called in logs and tables."""
    if selector is None:
        return "rest"
    if isinstance(selector, list | tuple):
        return "+".join(map(selector_name, selector))
    if isinstance(selector, str):
        return selector
    return str(
        getattr(selector, "name" if isinstance(selector, keras.Layer) else "__name__", selector)
    )


def named_magnitudes(rules: Sequence[Rule]) -> dict[str, Magnitude]:
    """The magnitudes of noises, each with a name.

    One noise has the name of its argument (`"stddev"`), several have those of noise and argument
    (`"gaussian_stddev"`), and of two alike each has its selector's, too (`"gaussian_stddev_kernels"`). Two
    alike in one composition are numbered (`"gaussian1_stddev"`).
    """
    found = [(selector_name(selector), noise) for selector, noise in rules]
    members = [(label, each) for label, noise in found for each in noise.members]
    if len(members) == 1:
        noise = members[0][1]
        return {noise.magnitude_name: noise.magnitudes[0]}
    kinds = Counter(type(each) for _, each in members)
    by_rule = Counter((label, type(each)) for label, each in members)
    seen: Counter[Any] = Counter()
    named: dict[str, Magnitude] = {}
    for label, each in members:
        seen[label, type(each)] += 1
        kind = re.sub(r"(?<!^)(?=[A-Z])", "_", type(each).__name__).lower()
        number = seen[label, type(each)] if by_rule[label, type(each)] > 1 else ""
        alike = kinds[type(each)] > by_rule[label, type(each)]
        named[f"{kind}{number}_{each.magnitude_name}" + (f"_{label}" if alike else "")] = (
            each.magnitudes[0]
        )
    return named


def largest_magnitudes(noise: Noise, now: Any) -> list[float]:
    """The magnitudes now, or at the end of their ramps: other schedules fall, or none can tell."""
    steps = [now, *(ramp.start_step + ramp.ramp_steps for ramp in _ramps(noise))]
    return [max(map(float, each)) for each in zip(*map(noise.magnitudes_at, steps), strict=True)]


def table(model: Any, assigned: Sequence[Assigned], rules: Sequence[Rule], now: Any) -> str:
    """The perturbed variables: path, shape, stddev, rms of the weight, signal to noise.

    Where a noise ramps up, the stddev at the end of the ramp, too, which the ratio is then of. Where there
    are several noises, whose each variable's is.
    """
    ramps = any(_ramps(noise) for noise, _ in assigned)
    several = len(assigned) > 1
    stddev = ("Stddev now", "At the end") if ramps else ("Noise stddev",)
    noise_column = ("Noise of",) if several else ()
    header = ("Variable", "Shape", *noise_column, *stddev, "Weight rms", "SNR (dB)")
    rows = []
    for (noise, targets), (selector, _) in zip(assigned, rules, strict=True):
        now_and_end = [noise.magnitudes_at(now), largest_magnitudes(noise, now)][: 1 + ramps]
        sizes = [
            [np.nan] * len(targets)  # It is known only with the gradient.
            if isinstance(noise, Adversary)
            else root_mean_squares(noise, targets, each)
            for each in now_and_end
        ]
        for target, *stddevs in zip(targets, *sizes, strict=True):
            weight = tf.cast(tf.convert_to_tensor(target.variable), tf.float32)
            rms = float(tf.sqrt(tf.reduce_mean(tf.square(weight))))
            rows.append(
                (
                    target.variable.path,
                    str(tuple(target.variable.shape)),
                    *([selector_name(selector)] if several else []),
                    *("-" if np.isnan(each) else f"{each:.4g}" for each in stddevs),
                    f"{rms:.4g}",
                    f"{20 * np.log10(rms / stddevs[-1]):.1f}" if rms and stddevs[-1] > 0 else "-",
                )
            )
    named = [
        f"{selector_name(selector)}: {noise}" if several else str(noise)
        for selector, noise in rules
    ]
    skipped = [v.path for v in model.trainable_variables if not kernels.is_float(v)]
    text = Table(f"Weight noise: {', '.join(named)}", header, rows).to_text()
    return "\n".join([text, *(f"Not a float, skipped: {path}" for path in skipped)])


def _ramps(noise: Noise) -> list[Ramp]:
    return [each for each in noise.magnitudes if isinstance(each, Ramp)]
