"""A variational model, made of an existing one."""

from typing import Any

from keras_weightnoise._weights.selectors import Selector
from keras_weightnoise.layers._estimators import Estimator
from keras_weightnoise.layers.variational_weight_noise import (
    VariationalWeightNoise,
    check_relative_to,
)
from keras_weightnoise.models._compiling import compile_like
from keras_weightnoise.models._wrapping import wrap_layers
from keras_weightnoise.noises.noise import Schedule
from keras_weightnoise.priors import Prior


def add_variational_weight_noise(
    model: Any,
    *,
    examples: float,
    prior: Prior | float = 1.0,
    initial_stddev: float = 0.05,
    relative_to: str | None = None,
    kl_weight: float | Schedule = 1.0,
    estimator: Estimator = "shared",
    variables: Selector | None = None,
    exclude: Selector | None = None,
    seed: int | None = None,
) -> Any:
    """Returns a copy of a model whose noise in training learns its size: `w' = mu + sigma n`.

    Use it to make a Bayesian network of one that is trained already, or of any that is functional or
    Sequential: train the copy, then predict with `WeightNoiseEnsemble(copy, noises.Learned())`, look at
    `signal_to_noise(copy)`, or have the plain model back by `strip_weight_noise(copy)`.

    Each layer is wrapped in a `VariationalWeightNoise` of the layer's own name, as `add_weight_noise` wraps
    them in `GaussianWeightNoise`: also in nested models, at any depth, and once if it is called several
    times. The means are the weights of `model`: with `training=False` outputs are those of `model`, bit for
    bit. `model` itself is not touched, and shares nothing with the copy.

    In training the loss gets the sum over layers of `kl_weight * KL(q || prior) / examples`. So the loss that
    the model is compiled with should be a negative log likelihood, averaged over the examples.

    Args:
        model: A built functional or Sequential model, compiled or not.
        examples: How many examples there are to train on, a number > 0: see `VariationalWeightNoise`.
        prior: Float > 0, the standard deviation of a Gaussian prior about 0; or one of
            `keras_weightnoise.priors`. Defaults to `1.0`.
        initial_stddev: Float > 0, what sigma begins with, in units of the weights, or of their standard
            deviation. Defaults to `0.05`.
        relative_to: `"std"`: `initial_stddev` is a share of the standard deviation of each kernel, as it is
            in `model`. Defaults to `None`.
        kl_weight: Float >= 0, or a schedule of the training step. Defaults to `1.0`.
        estimator: What each example of a batch sees of the noise: see `GaussianWeightNoise`. Defaults
            to `"shared"`.
        variables: Which kernels: see `add_weight_noise`. Layers that have noise already stay as they are, and
            of a layer with LoRA, only the factors have a sigma. Defaults to `None`.
        exclude: Which of these not, in the same terms. Defaults to `None`.
        seed: Int in [0, 2^32), from which each wrapper gets one of its own, whatever else is wrapped.
            `None`: each takes one from what `keras.utils.set_random_seed` seeds. Defaults to `None`.

    Returns:
        A model of the class of `model`, compiled as it is, with an optimizer that begins anew, and that does
        not decay sigma. (If what `compile` was given cannot be made again, it is not compiled, with a
        warning.)

    Raises:
        ValueError: Where `add_weight_noise` and `VariationalWeightNoise` raise one.
        TypeError: If an argument is of another type.

    Example:

    >>> import keras
    >>> from keras_weightnoise import add_variational_weight_noise, strip_weight_noise
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="head")])
    >>> variational = add_variational_weight_noise(model, examples=1000, seed=1)
    >>> x = keras.ops.ones((2, 4))
    >>> bool(keras.ops.all(variational(x) == model(x)))
    True
    >>> bool(keras.ops.all(variational(x, training=True) == model(x)))
    False
    >>> plain, stddevs = strip_weight_noise(variational, return_stddevs=True)
    >>> [(variable.name, tuple(stddev.shape)) for variable, stddev in stddevs]
    [('kernel', (4, 3))]

    References:
        - [Graves, 2011](https://papers.nips.cc/paper/4329-practical-variational-inference-for-neural-networks)
        - [Blundell et al., 2015](https://arxiv.org/abs/1505.05424)
    """
    check_relative_to(relative_to)
    arguments = {
        "examples": examples,
        "prior": prior,
        "initial_stddev": initial_stddev,
        "kl_weight": kl_weight,
        "estimator": estimator,
    }
    new, made = wrap_layers(
        model,
        VariationalWeightNoise,
        arguments,
        variables=variables,
        exclude=exclude,
        seed=seed,
        frozen=False,  # Each would have as many parameters as weights.
    )
    for wrapper in made:
        # Only now are the weights there that these may be relative to.
        wrapper.relative_to = relative_to
        wrapper.reset_stddevs()
    compile_like(model, new)
    return new
