"""`ParametricNoise`: a layer whose kernels are always noisy, by a share of their spread that is trained."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_weightnoise._checks import check_positive
from keras_weightnoise._types import Tensor
from keras_weightnoise._weights.reachable import Layer, Variable
from keras_weightnoise._weights.selection import Target
from keras_weightnoise._weights.selectors import Selector
from keras_weightnoise._weights.values import stored_values, widen
from keras_weightnoise.layers._estimators import Estimator
from keras_weightnoise.layers._learned_noise_wrapper import LearnedNoiseWrapper
from keras_weightnoise.layers._learned_stddev import LearnedNoise
from keras_weightnoise.layers._noise_parameters import name_in
from keras_weightnoise.noises._scales import scale


@dataclasses.dataclass(frozen=True, eq=False)
class _LearnedAlpha(LearnedNoise):
    """A variable, and the share of its spread that its noise has.

    Attributes:
        alpha: A scalar variable: `factor = alpha std(W)`.
    """

    alpha: Variable

    @property
    def parameter(self) -> Variable:
        return self.alpha

    @property
    def factor(self) -> Tensor:
        w = self.mean
        alpha = widen(stored_values([self.alpha])[0])
        return tf.cast(alpha, w.dtype) * scale(w, "std", self.target.axes)

    @property
    def stddev(self) -> Tensor:
        return tf.abs(self.factor)  # As n is as likely as -n, the sign of alpha means nothing.


@keras.saving.register_keras_serializable(package="keras_weightnoise")
class ParametricNoise(LearnedNoiseWrapper[_LearnedAlpha]):
    """Wraps a layer so that its kernels are always noisy, by a trained size: `w' = w + alpha std(W) n`.

    Each kernel W has one number alpha, which is trained with the weights, and n ~ N(0, 1) is drawn anew for
    each call, in training and with `training=False`. std(W) is that of the kernel as it is, and carries no
    gradient. The loss says how large alpha is to be: nothing else draws it up or down.

    Use it against adversarial examples, as parametric noise injection (PNI) does: train on clean and on
    attacked inputs. (On clean inputs alone, alpha shrinks.) To judge what it is worth, average the gradient
    of an attack over many calls: that of one call misleads the attack more than it would an attacker. For
    noise in training only, see `VariationalWeightNoise` and `GaussianWeightNoise`.

    The clean layer is `layer.layer`, which shares the weights; `strip_weight_noise` gives a clean model. What
    is frozen is perturbed, too: the noise is part of what the layer computes.

    The numbers alpha come after the wrapped layer's weights in `get_weights()`, are saved with them, and are
    never perturbed themselves. Weight decay draws them to 0: leave them out, with
    `optimizer.exclude_from_weight_decay(var_names=["_alpha"])` before the model is built.

    Args:
        layer: A `keras.Layer` or `keras.Model` with kernels, as for `GaussianWeightNoise`.
        initial_alpha: Float > 0, what each alpha begins with. Defaults to `0.25`.
        estimator: `"shared"`, `"flipout"` or `"local_reparameterization"`: see `GaussianWeightNoise`.
            Defaults to `"shared"`, which is the published one.
        variables: Which variables of the wrapped layer: see `GaussianWeightNoise`. Defaults to `"kernels"`.
        exclude: Which of these not, in the same terms. Defaults to `None`.
        seed: Int in [0, 2^32), or `None` for one drawn from what `keras.utils.set_random_seed` seeds.
            Defaults to `None`.
        **kwargs: Keyword arguments of `keras.Layer`, such as `name`.

    Call arguments:
        Those of the wrapped layer, and `training`.

    Raises:
        ValueError: If `initial_alpha` is not positive and finite, and where `GaussianWeightNoise` raises one.
            In a call: if the layer has variables that it did not have when it was built, as by `enable_lora`.
        TypeError: If an argument is of another type.

    Example:

    >>> import keras
    >>> from keras_weightnoise import ParametricNoise
    >>> layer = ParametricNoise(keras.layers.Dense(3), seed=1)
    >>> x = keras.ops.ones((2, 4))
    >>> bool(keras.ops.all(layer(x) == layer(x))), bool(keras.ops.all(layer.layer(x) == layer.layer(x)))
    (False, True)
    >>> [(variable.name, float(alpha)) for variable, alpha in layer.alphas()]
    [('kernel', 0.25)]

    References:
        - [He et al., 2019](https://arxiv.org/abs/1811.09310)
        - [Athalye et al., 2018](https://arxiv.org/abs/1802.00420) (attacks on average over noise)
    """

    perturbs_frozen = True

    def __init__(
        self,
        layer: Layer,
        *,
        initial_alpha: float = 0.25,
        estimator: Estimator = "shared",
        variables: Selector | None = "kernels",
        exclude: Selector | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        check_positive("initial_alpha", initial_alpha)
        super().__init__(
            layer, estimator=estimator, variables=variables, exclude=exclude, seed=seed, **kwargs
        )
        self.initial_alpha = float(initial_alpha)
        self.check_targets_if_built()

    def alphas(self) -> list[tuple[Variable, Variable]]:
        """Pairs of each variable that is perturbed and its alpha.

        Returns:
            A list of pairs of `keras.Variable`s: one of the wrapped layer, and a scalar.

        Raises:
            ValueError: If the layer is not built.
        """
        self._check_noise_is_built()
        return [(each.target.variable, each.alpha) for each in self._learned]

    def build_noise(self, targets: Sequence[Target]) -> None:
        """Makes the numbers alpha: see the base class."""
        for target in targets:
            alpha = self.noise.add_parameter(
                f"{name_in(self.layer, target.variable)}_alpha",
                (),
                keras.initializers.Constant(self.initial_alpha),
            )
            self._learned.append(_LearnedAlpha(target, alpha))
        self.noise.build()

    def is_noisy(self, training: bool | None) -> bool:
        """Always."""
        return True

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, serialized."""
        return {**super().get_config(), "initial_alpha": self.initial_alpha}
