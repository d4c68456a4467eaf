"""Published methods of training against the worst perturbation of the weights."""

from typing import Any

from keras_weightnoise import adversaries
from keras_weightnoise.callbacks import WeightNoiseCallback
from keras_weightnoise.noises import Magnitude


def sam(rho: Magnitude = 0.05, **settings: Any) -> WeightNoiseCallback:
    """Sharpness-aware minimization: the gradient at `w + rho g / ||g||`.

    g is the gradient at w, and the norm is one over all weights. It helps generalisation in vision models
    trained from scratch, at the cost of two passes: where plain training for twice as long does as well, it
    gains nothing. As in the authors' code, BatchNormalization counts the first, clean pass.

    Args:
        rho: Float >= 0, or a schedule of it. Defaults to `0.05`, the paper's.
        **settings: Of `WeightNoiseCallback`. With `per_replica=True`, g is each replica's own (the paper's
            m-sharpness), else that of the whole batch.

    Returns:
        A `WeightNoiseCallback`.

    Raises:
        ValueError: If `rho` is negative or not finite, or a setting is out of its range.
        TypeError: If an argument is of another type, or `WeightNoiseCallback` has none of this name.

    Example:

    >>> from keras_weightnoise import recipes
    >>> recipes.sam()
    WeightNoiseCallback(noise=SAM(rho=0.05))

    References:
        - [Foret et al., 2021](https://arxiv.org/abs/2010.01412)
    """
    return WeightNoiseCallback(adversaries.SAM(rho), **settings)


def asam(rho: Magnitude = 0.5, **settings: Any) -> WeightNoiseCallback:
    """Adaptive sharpness-aware minimization: the gradient at `w + rho w^2 g / ||w g||`.

    As `sam`, at the same cost, but for a step that does not depend on how weights are scaled between layers:
    rho carries over from one network to another more easily. A weight of 0, as most biases are at first, is
    not perturbed.

    Args:
        rho: Float >= 0, or a schedule of it. Defaults to `0.5`, the paper's for CIFAR-10.
        **settings: Of `WeightNoiseCallback`.

    Returns:
        A `WeightNoiseCallback`.

    Raises:
        ValueError: If `rho` is negative or not finite, or a setting is out of its range.
        TypeError: If an argument is of another type, or `WeightNoiseCallback` has none of this name.

    Example:

    >>> from keras_weightnoise import recipes
    >>> recipes.asam()
    WeightNoiseCallback(noise=ASAM(rho=0.5))

    References:
        - [Kwon et al., 2021](https://arxiv.org/abs/2102.11600)
    """
    return WeightNoiseCallback(adversaries.ASAM(rho), **settings)


def awp(gamma: Magnitude = 0.01, **settings: Any) -> WeightNoiseCallback:
    """Adversarial weight perturbation: the gradient at `w_l + gamma ||w_l|| g_l / ||g_l||`, in kernels.

    For adversarial training, whose robust overfitting it reduces. For plain training it is not made: see
    `sam`. If the `train_step` makes adversarial examples, each pass makes its own: those of the second meet
    the perturbed weights.

    Args:
        gamma: Float >= 0, or a schedule of it. Defaults to `0.01`, the paper's (with TRADES `0.005`).
        **settings: Of `WeightNoiseCallback`.

    Returns:
        A `WeightNoiseCallback`.

    Raises:
        ValueError: If `gamma` is negative or not finite, or a setting is out of its range.
        TypeError: If an argument is of another type, or `WeightNoiseCallback` has none of this name.

    Example:

    >>> from keras_weightnoise import recipes
    >>> recipes.awp()
    WeightNoiseCallback(noise=AWP(gamma=0.01), variables='kernels')

    References:
        - [Wu et al., 2020](https://arxiv.org/abs/2004.05884)
    """
    return WeightNoiseCallback(adversaries.AWP(gamma), **{"variables": "kernels", **settings})
