"""Published methods that begin with a trained model."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_weightnoise import noises
from keras_weightnoise._checks import check_amount, check_count
from keras_weightnoise.callbacks import WeightNoiseCallback
from keras_weightnoise.models import clip_weights, perturb_weights, perturbed_weights
from keras_weightnoise.noises import Magnitude


def noisytune(model: Any, intensity: float = 0.15, **settings: Any) -> Any:
    """NoisyTune: `w + (intensity / 2) std(w) u`, once before fine-tuning, for each variable.

    For pretrained language models on small tasks. A variable of one element has no deviation and stays as it
    is. Gains are small: compare several seeds.

    Args:
        model: A built, pretrained `keras.Model`.
        intensity: Float >= 0, the paper's lambda. Defaults to `0.15`, the paper's.
        **settings: Of `perturb_weights`, such as `inplace=True`.

    Returns:
        The perturbed model, a copy, or with `inplace=True` the model.

    Raises:
        ValueError: If `intensity` is negative or not finite, and where `perturb_weights` raises one.
        TypeError: If an argument is of another type.

    Example:

    >>> import keras
    >>> from keras_weightnoise import recipes
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> recipes.noisytune(model, seed=1) is model
    False

    References:
        - [Wu et al., 2022](https://arxiv.org/abs/2202.12024)
    """
    check_amount("intensity", intensity)
    return perturb_weights(model, noises.Uniform(intensity / 2, relative_to="std"), **settings)


def noisegrad(
    model: Any,
    explain: Callable[[Any], Any],
    stddev: float = 0.2,
    *,
    draws: int = 25,
    **settings: Any,
) -> Any:
    """NoiseGrad: the mean of an explanation over perturbed models, `w' = w (1 + stddev n)`.

    For saliency maps of trained classifiers, which it makes less noisy, at `draws` times their cost. An
    explanation that is wrong on average stays so.

    Args:
        model: A trained `keras.Model`. It is left as it was.
        explain: A function of the model, which returns an array or a structure of arrays of floats.
        stddev: Float >= 0. Defaults to `0.2`, the paper's.
        draws: Integer >= 1. Defaults to `25`.
        **settings: Of `perturbed_weights`.

    Returns:
        What `explain` returns, as NumPy arrays: the mean over the draws.

    Raises:
        ValueError: If a number is out of its range, and where `perturbed_weights` raises one.
        TypeError: If an argument is of another type.

    Example:

    >>> import keras, numpy as np
    >>> from keras_weightnoise import recipes
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> recipes.noisegrad(model, lambda m: m(np.ones((2, 4))), draws=3, seed=1).shape
    (2, 1)

    References:
        - [Bykov et al., 2022](https://arxiv.org/abs/2106.10185)
    """
    check_count("draws", draws)
    noise = noises.Gaussian(stddev, relative_to="weight")
    with perturbed_weights(model, noise, **settings) as noisy:
        total = tf.nest.map_structure(tf.convert_to_tensor, explain(model))
        for _ in range(draws - 1):
            noisy.redraw()
            total = tf.nest.map_structure(tf.add, total, explain(model))
    return tf.nest.map_structure(lambda each: each.numpy() / draws, total)


def hardware_aware(
    model: Any, stddev: Magnitude = 0.038, *, k: float = 2.0, **settings: Any
) -> WeightNoiseCallback:
    """Hardware-aware training: `w' = w + stddev max|w| n` in kernels that stay within k deviations.

    Fine-tunes a trained network for analog memory. Clips its kernels, in place, now and after each update
    (see `clip_weights`): without that, a few large weights set the noise of all. For a network that runs in
    digital arithmetic, it only costs.

    Args:
        model: A trained `keras.Model`, which is changed: it is clipped.
        stddev: Float >= 0, or a schedule of it. Defaults to `0.038`, the paper's for ResNet-32; others have
            up to `0.2`.
        k: Float >= 1, standard deviations. Defaults to `2.0`, the paper's.
        **settings: Of `WeightNoiseCallback`.

    Returns:
        A `WeightNoiseCallback`.

    Raises:
        ValueError: If an argument is out of its range, and where `clip_weights` raises one.
        TypeError: If an argument is of another type, or `WeightNoiseCallback` has none of this name.

    Example:

    >>> import keras
    >>> from keras_weightnoise import recipes
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> recipes.hardware_aware(model, 0.1)
    WeightNoiseCallback(noise=Gaussian(stddev=0.1, relative_to='max'), variables='kernels')

    References:
        - [Joshi et al., 2020](https://doi.org/10.1038/s41467-020-16108-9)
    """
    noise = noises.Gaussian(stddev, relative_to="max")
    callback = WeightNoiseCallback(noise, **{"variables": "kernels", **settings})
    clip_weights(model, k, variables=callback.variables, exclude=callback.exclude)
    return callback
