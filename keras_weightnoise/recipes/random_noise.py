"""Published methods of training under random noise."""

from typing import Any

from keras_weightnoise import noises
from keras_weightnoise._checks import check_amount, check_count, check_integer, check_magnitude
from keras_weightnoise.callbacks import WeightNoiseCallback
from keras_weightnoise.noises import Magnitude
from keras_weightnoise.schedules import CosineRamp


def rwp(gamma: float = 0.01, *, steps: int | None = None, **settings: Any) -> WeightNoiseCallback:
    """Random weight perturbation: `w'_f = w_f + gamma ||w_f|| n`, for each filter f.

    A vector, such as a bias, is one filter. It helps where minima are sharp, in training from scratch; it
    costs one pass, where SAM costs two. Few epochs on clean data show little.

    Args:
        gamma: Float >= 0. Defaults to `0.01`, the paper's.
        steps: Integer, optimizer steps in the whole training, over which gamma rises from 0 along half a
            cosine, as in the paper. `None`: it is constant. Defaults to `None`.
        **settings: Of `WeightNoiseCallback`.

    Returns:
        A `WeightNoiseCallback`.

    Raises:
        ValueError: If an argument is out of its range.
        TypeError: If an argument is of another type, or `WeightNoiseCallback` has none of this name.

    Example:

    >>> from keras_weightnoise import recipes
    >>> recipes.rwp(0.01)
    WeightNoiseCallback(noise=Gaussian(stddev=0.01, relative_to='filter_norm'))

    References:
        - [Li et al., 2022](https://arxiv.org/abs/2211.11489)
    """
    check_magnitude("gamma", gamma)
    size = gamma if steps is None else _ramp(0.0, gamma, steps)
    return WeightNoiseCallback(noises.Gaussian(size, relative_to="filter_norm"), **settings)


def m_rwp(
    gamma: float = 0.015, alpha: float = 0.5, *, steps: int | None = None, **settings: Any
) -> WeightNoiseCallback:
    """Mixed random weight perturbation: `alpha g(w') + (1 - alpha) g(w)`, with the w' of `rwp`.

    The clean gradient lets it bear a larger gamma than `rwp`, for twice the cost: where a small gamma is
    enough, `rwp` does as well. BatchNormalization and metrics count the clean pass, as in the authors' code,
    where the two gradients are of two batches: `split_batch=True` has each of half a batch, which costs one
    pass in place of two.

    Args:
        gamma: Float >= 0. Defaults to `0.015`, the paper's.
        alpha: Float in (0, 1], the share of the noisy gradient. Defaults to `0.5`, the paper's.
        steps: See `rwp`.
        **settings: Of `WeightNoiseCallback`.

    Returns:
        A `WeightNoiseCallback`.

    Raises:
        ValueError: If an argument is out of its range.
        TypeError: If an argument is of another type, or `WeightNoiseCallback` has none of this name.

    Example:

    >>> from keras_weightnoise import recipes
    >>> recipes.m_rwp().clean_gradient
    0.5

    References:
        - [Li et al., 2022](https://arxiv.org/abs/2211.11489)
    """
    check_amount("alpha", alpha)
    if not 0.0 < alpha <= 1.0:
        raise ValueError(
            f"Invalid `alpha`. Expected a number > 0 and <= 1. Received: alpha={alpha!r}"
        )
    return rwp(gamma, steps=steps, **{"clean_gradient": 1.0 - alpha, **settings})


def lpf_sgd(
    gamma: float = 0.0005,
    *,
    draws: int = 8,
    rise: float = 15.0,
    steps: int | None = None,
    **settings: Any,
) -> WeightNoiseCallback:
    """Low-pass filtered SGD: the mean gradient over M draws, `w'_f = w_f + gamma_t ||w_f|| n`.

    Each draw has its part of the batch, so that a step computes as much as one pass does, and M times the
    noise. (A small network takes several times as long: each of its passes costs as much, of whatever part.)
    It looks for minima that are flat on average, as `rwp` does, with less variance. BatchNormalization sees
    parts, not the batch: not for batches of a few times M examples.

    Args:
        gamma: Float >= 0, where it starts. Defaults to `0.0005`; the authors have up to `0.002`.
        draws: Integer >= 1, M. Defaults to `8`, as in the authors' code.
        rise: Float >= 0: over `steps`, gamma rises along half a cosine to `(1 + rise) gamma`. Defaults to
            `15.0`, as in the authors' code.
        steps: Integer, optimizer steps in the whole training. `None`: gamma is constant. Defaults to `None`.
        **settings: Of `WeightNoiseCallback`.

    Returns:
        A `WeightNoiseCallback`.

    Raises:
        ValueError: If an argument is out of its range.
        TypeError: If an argument is of another type, or `WeightNoiseCallback` has none of this name.

    Example:

    >>> from keras_weightnoise import recipes
    >>> recipes.lpf_sgd(0.002).draws_per_step
    8

    References:
        - [Bisla et al., 2022](https://arxiv.org/abs/2201.08025)
    """
    check_amount("gamma", gamma)
    check_count("draws", draws)
    check_amount("rise", rise)
    size = gamma if steps is None else _ramp(gamma, (1.0 + rise) * gamma, steps)
    noise = noises.Gaussian(size, relative_to="filter_norm")
    return WeightNoiseCallback(
        noise, **{"draws_per_step": draws, "split_batch": draws > 1, **settings}
    )


def smoothout(limit: Magnitude, *, relative_to: Any = None, **settings: Any) -> WeightNoiseCallback:
    """SmoothOut: `w' = w + limit u` with u uniform on [-1, 1], or relative to a scale of the weights.

    It smooths the loss out, so that sharp minima vanish: in large batches, above all. Where minima are flat
    anyway, it only slows.

    Args:
        limit: Float >= 0, or a schedule of it. The paper has none for all networks; begin well below the size
            of the weights.
        relative_to: See `noises.Uniform`: `"weight"` and `"filter_norm"` are the paper's adaptive variants.
            Defaults to `None`.
        **settings: Of `WeightNoiseCallback`.

    Returns:
        A `WeightNoiseCallback`.

    Raises:
        ValueError: If an argument is out of its range.
        TypeError: If an argument is of another type, or `WeightNoiseCallback` has none of this name.

    Example:

    >>> from keras_weightnoise import recipes
    >>> recipes.smoothout(0.01)
    WeightNoiseCallback(noise=Uniform(limit=0.01, relative_to=None))

    References:
        - [Wen et al., 2018](https://arxiv.org/abs/1805.07898)
    """
    return WeightNoiseCallback(noises.Uniform(limit, relative_to=relative_to), **settings)


def layerwise(stddev: Magnitude, **settings: Any) -> WeightNoiseCallback:
    """Noise in one variable at a time: `w'_l = w_l + stddev n`, l chosen at random in each step.

    It regularizes as noise in all does, without the variance that adds up over many layers: for deep
    networks, and magnitudes that training with noise in all does not bear. In shallow ones, noise in all
    does more in each step.

    Args:
        stddev: Float >= 0, or a schedule of it. The paper has none for all networks.
        **settings: Of `WeightNoiseCallback`.

    Returns:
        A `WeightNoiseCallback`.

    Raises:
        ValueError: If an argument is out of its range.
        TypeError: If an argument is of another type, or `WeightNoiseCallback` has none of this name.

    Example:

    >>> from keras_weightnoise import recipes
    >>> recipes.layerwise(0.05)
    WeightNoiseCallback(noise=Gaussian(stddev=0.05, relative_to=None), one_at_a_time=True)

    References:
        - [Orvieto et al., 2023](https://arxiv.org/abs/2206.04613)
    """
    return WeightNoiseCallback(noises.Gaussian(stddev), **{"one_at_a_time": True, **settings})


def _ramp(start: float, end: float, steps: int) -> CosineRamp:
    """A rise over the whole training."""
    check_integer("steps", steps, 0)
    return CosineRamp(start, end, start_step=0, ramp_steps=steps)
