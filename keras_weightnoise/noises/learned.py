"""The noise that wrappers have learned."""

import dataclasses
from collections.abc import Sequence

import keras

from keras_weightnoise._random import laws
from keras_weightnoise._types import Tensor
from keras_weightnoise.noises.noise import Draw, Magnitude, Noise


@keras.saving.register_keras_serializable(package="keras_weightnoise")
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Learned(Noise):
    """What `VariationalWeightNoise` has learned: `w' = w + factor * sigma * n`, n ~ N(0, 1).

    sigma is the learned standard deviation of each weight. So each draw is one of the weights from their
    posterior q(w) = N(mu, sigma^2). Use it for the posterior predictive, as
    `WeightNoiseEnsemble(model, noises.Learned())`; and wherever a trained model is perturbed, such as in
    `perturb_weights`, `robustness_sweep` (over the factor) and `calibration_report`.

    It is in the variables that have a sigma, and in no others: biases stay as they are, unless they are
    among the wrapper's `variables`, and where there are several noises, variables without a sigma are left
    to the later ones. sigma is read at each draw: train the model further, and the noise follows. Variables
    that are frozen have the sigma that they had when they were; those whose sigma was never trained have no
    noise, as in training.

    It is for calls with `training=False`. In training the wrappers are noisy by themselves, with a gradient
    to sigma: a call with `training=True` is refused, so that there is no noise twice.

    Args:
        factor: Float >= 0: 1 is the posterior as learned, less is a colder one. Defaults to `1.0`.
        generator: See `Gaussian`. Defaults to `"threefry"`.

    Raises:
        ValueError: If `factor` is negative or not finite. Where it is used: if no variable has a learned
            standard deviation, or two wrappers learned one for the same variable.
        TypeError: If `factor` is not a number.

    Example:

    >>> import keras
    >>> from keras_weightnoise import WeightNoiseEnsemble, add_variational_weight_noise, noises
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="softmax")])
    >>> model = add_variational_weight_noise(model, examples=20)
    >>> model.compile("adam", "sparse_categorical_crossentropy")
    >>> x, y = keras.random.normal((20, 4), seed=1), keras.ops.arange(20) % 3
    >>> history = model.fit(x, y, verbose=0)
    >>> WeightNoiseEnsemble(model, noises.Learned(), members=8).predict_spread(x).stddev.shape
    (20, 3)

    References:
        - [Graves, 2011](https://papers.nips.cc/paper/4329-practical-variational-inference-for-neural-networks)
        - [Blundell et al., 2015](https://arxiv.org/abs/1505.05424)
        - [Wenzel et al., 2020](https://arxiv.org/abs/2002.02405) (colder posteriors)
    """

    factor: Magnitude = 1.0
    magnitude_name = "factor"
    needs_learned = True

    @property
    def draws(self) -> tuple[Draw, ...]:
        """One normal number for each weight."""
        return (Draw(laws.NORMAL),)

    def perturb(
        self, w: Tensor, draws: Sequence[Tensor], magnitude: Tensor, axes: tuple[int, ...]
    ) -> Tensor:
        n, stddevs = draws
        return w + magnitude * stddevs * n
