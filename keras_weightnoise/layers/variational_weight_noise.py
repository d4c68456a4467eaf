"""`VariationalWeightNoise`: a layer whose kernels are noisy in training, by as much as the data bears."""

import weakref
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_weightnoise import priors
from keras_weightnoise._checks import check_choice, check_magnitude, check_positive
from keras_weightnoise._not_public import outermost_graph, under_tape
from keras_weightnoise._random.generator import make_key
from keras_weightnoise._types import Tensor
from keras_weightnoise._weights.reachable import Layer
from keras_weightnoise._weights.selection import Target
from keras_weightnoise._weights.selectors import Selector
from keras_weightnoise._weights.values import stored_values
from keras_weightnoise.layers._estimators import Estimator
from keras_weightnoise.layers._learned_noise_wrapper import LearnedNoiseWrapper
from keras_weightnoise.layers._learned_stddev import LearnedStddev, draw_normal, initial_rho
from keras_weightnoise.layers._noise_parameters import name_in
from keras_weightnoise.noises.noise import Schedule
from keras_weightnoise.priors import Prior


def check_relative_to(relative_to: object) -> None:
    """Raises unless learned standard deviations can begin relative to this."""
    check_choice("relative_to", relative_to, (None, "std"))


@keras.saving.register_keras_serializable(package="keras_weightnoise")
class VariationalWeightNoise(LearnedNoiseWrapper[LearnedStddev]):
    """Wraps a layer so that its kernels are noisy in training, by a learned size: `w' = mu + sigma n`.

    Each kernel has for each weight a mean mu, which is the layer's own weight, and a standard deviation
    `sigma = softplus(rho)`, both trained: q(w) = N(mu, sigma^2) with n ~ N(0, 1). The loss gets

        kl_weight * KL(q || prior) / examples

    which pays for weights that are known precisely and holds sigma up where the data does not. So the whole
    is the evidence lower bound of variational inference (if the model's loss is a negative log likelihood,
    averaged over the examples), or Graves's description length, in nats for each example.

    Use it where the size of the noise is not known, for weights whose uncertainty is (`stddevs`), and for
    pruning by it. With `training=False` it is the wrapped layer at the means, bit for bit.

    The divergence is in `losses` in training only: where a gradient tape records, or if the layer's last call
    was one with `training=True`. So `val_loss` is that of the plain model. It is counted once in each step,
    however often the layer is called. (In Keras 3.5, losses of layers count once for each replica of a
    `tf.distribute.Strategy`: there, divide `kl_weight` by their number.)

    The parameters rho come after the wrapped layer's weights in `get_weights()`, are saved with them, and are
    never perturbed themselves. Weight decay draws them to 0 and sigma to 0.69: leave them out, with
    `optimizer.exclude_from_weight_decay(var_names=["_rho"])` before the model is built, and again after it is
    loaded. A warning says where a model's optimizer decays them. What is frozen is neither perturbed nor in
    the divergence. Let LoRA be enabled before the layer is wrapped.

    Args:
        layer: A `keras.Layer` or `keras.Model` with kernels, as for `GaussianWeightNoise`.
        examples: How many examples there are to train on, a number > 0. If the model's loss is a mean over
            more than the examples, such as the steps of sequences, how many of these there are.
        prior: Float > 0, the standard deviation of a Gaussian prior about 0; or one of
            `keras_weightnoise.priors`. Defaults to `1.0`.
        initial_stddev: Float > 0, what sigma begins with, in units of the weights, or of their standard
            deviation if `relative_to="std"`. Defaults to `0.05`.
        relative_to: `None`, or `"std"`: the standard deviation of the kernel when the layer is built. Take
            that for wide layers and trained ones, whose weights are small. Defaults to `None`.
        kl_weight: Float >= 0, or a `keras.optimizers.schedules.LearningRateSchedule` evaluated at the number
            of training steps that the layer has seen, which is saved with it. Other numbers than 1 make the
            posterior wider or narrower; a ramp from 0 lets the means find their places first (KL annealing).
            Defaults to `1.0`.
        estimator: `"shared"`, `"flipout"` or `"local_reparameterization"`: see `GaussianWeightNoise`.
            Defaults to `"shared"`.
        variables: Which variables of the wrapped layer: see `GaussianWeightNoise`. Defaults to `"kernels"`.
        exclude: Which of these not, in the same terms. Defaults to `None`.
        seed: Int in [0, 2^32), or `None` for one drawn from what `keras.utils.set_random_seed` seeds.
            Defaults to `None`.
        **kwargs: Keyword arguments of `keras.Layer`, such as `name`.

    Call arguments:
        Those of the wrapped layer, and `training`.

    Raises:
        ValueError: If `examples`, `initial_stddev` or a prior's number is not positive and finite; if
            `relative_to` is another word; if it is `"std"`, and all weights of a variable are equal; and
            where `GaussianWeightNoise` raises one. In a call with `training=True`: if a variable became
            trainable after the layer was built, as by `enable_lora`.
        TypeError: If an argument is of another type.

    Example:

    >>> import keras
    >>> from keras_weightnoise import VariationalWeightNoise
    >>> layer = VariationalWeightNoise(keras.layers.Dense(3), examples=1000, seed=1)
    >>> x = keras.ops.ones((2, 4))
    >>> clean, noisy = layer(x), layer(x, training=True)
    >>> bool(keras.ops.all(clean == noisy)), bool(keras.ops.all(clean == layer(x)))
    (False, True)
    >>> [(variable.name, stddev.shape) for variable, stddev in layer.stddevs()]
    [('kernel', TensorShape([4, 3]))]
    >>> float(layer.kl_divergence()) > 0.0
    True

    References:
        - [Graves, 2011](https://papers.nips.cc/paper/4329-practical-variational-inference-for-neural-networks)
        - [Blundell et al., 2015](https://arxiv.org/abs/1505.05424)
        - [Kingma et al., 2015](https://arxiv.org/abs/1506.02557) (`"local_reparameterization"`)
        - [Wen et al., 2018](https://arxiv.org/abs/1803.04386) (`"flipout"`)
    """

    serialized = (*LearnedNoiseWrapper.serialized, "prior", "kl_weight")

    def __init__(
        self,
        layer: Layer,
        *,
        examples: float,
        prior: Prior | float = 1.0,
        initial_stddev: float = 0.05,
        relative_to: str | None = None,
        kl_weight: float | Schedule = 1.0,
        estimator: Estimator = "shared",
        variables: Selector | None = "kernels",
        exclude: Selector | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        check_positive("examples", examples)
        check_positive("initial_stddev", initial_stddev)
        check_magnitude("kl_weight", kl_weight)
        check_relative_to(relative_to)
        prior = priors.get(prior)
        super().__init__(
            layer, estimator=estimator, variables=variables, exclude=exclude, seed=seed, **kwargs
        )
        self.examples = examples
        self.prior = prior
        self.initial_stddev = float(initial_stddev)
        self.relative_to = relative_to
        self.kl_weight = kl_weight
        # The graph of the last call, if it was made in one, and whether that call was in training.
        self._last_call: tuple[Any, bool] = (None, False)
        self.check_targets_if_built()

    def kl_divergence(self) -> Tensor:
        """KL(q || prior) of all variables that have learned standard deviations, in nats, not scaled.

        Returns:
            A scalar tensor. With `priors.ScaleMixture`, an estimate, in each call another.

        Raises:
            ValueError: If the layer is not built.
        """
        self._check_noise_is_built()
        return self._divergence(self._learned)

    def reset_stddevs(self) -> None:
        """Has the standard deviations begin anew, at `initial_stddev`.

        Where they are relative to the weights, these are the weights as they are now: of use after trained
        weights have been loaded into the wrapped layer.

        Raises:
            ValueError: If the layer is not built; if `relative_to="std"`, and all weights of a variable are
                equal.
        """
        self._check_noise_is_built()
        for each in self._learned:
            initial = initial_rho(
                self.layer, each.target.variable, self.initial_stddev, self.relative_to
            )
            each.rho.assign(initial(tuple(each.rho.shape), each.rho.dtype))

    def build_noise(self, targets: Sequence[Target]) -> None:
        """Makes rho, the prior's parameters and the count of steps: see the base class."""
        for target in targets:
            variable, name = target.variable, name_in(self.layer, target.variable)
            (value,) = stored_values([variable])
            rho = self.noise.add_parameter(
                f"{name}_rho",
                tuple(variable.shape),
                initial_rho(self.layer, variable, self.initial_stddev, self.relative_to),
                value.dtype.name,
                loss=None if self._learned else self._loss,  # The first has that of all.
                means=variable,
            )
            parameters = tuple(
                self.noise.add_parameter(
                    f"{name}_{parameter}", (), keras.initializers.Constant(initial)
                )
                for parameter, initial in self.prior.initial_parameters.items()
            )
            self._learned.append(LearnedStddev(target, rho, parameters))
        if callable(self.kl_weight):
            self.noise.add_step()
        self.noise.build()

    def call(self, *args: Any, training: bool | None = None, **kwargs: Any) -> Any:
        """Calls the wrapped layer, under noise if `training`."""
        graph = outermost_graph()
        self._last_call = (None if graph is None else weakref.ref(graph), bool(training))
        return super().call(*args, training=training, **kwargs)

    def is_noisy(self, training: bool | None) -> bool:
        """In training."""
        return bool(training)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, serialized."""
        return {
            **super().get_config(),
            "examples": self.examples,
            "prior": keras.saving.serialize_keras_object(self.prior),
            "initial_stddev": self.initial_stddev,
            "relative_to": self.relative_to,
            "kl_weight": keras.saving.serialize_keras_object(self.kl_weight),
        }

    def _loss(self) -> Tensor:
        """What is added to the losses of a step: 0 where it is none of training."""
        dtype = keras.config.floatx()
        recorded = under_tape()
        graph, training = self._last_call
        in_training = training and (graph() if graph else None) is outermost_graph()
        if not (recorded or in_training):
            return tf.zeros((), dtype)
        weight = self.kl_weight
        if callable(weight):
            weight = weight(self.noise.step.value)
            if recorded:
                self.noise.step.assign_add(1)
        trained = {id(variable) for variable in self.layer.trainable_variables}
        learned = [each for each in self._learned if id(each.target.variable) in trained]
        return tf.cast(weight, dtype) * tf.cast(self._divergence(learned) / self.examples, dtype)

    def _divergence(self, learned: Sequence[LearnedStddev]) -> Tensor:
        terms = []
        for each in learned:
            mean = each.mean

            def draw(target: Target = each.target, dtype: Any = mean.dtype) -> Tensor:
                (n,) = draw_normal(make_key(*tf.unstack(self.seed_generator.next())), [target])
                return tf.cast(n, dtype)

            parameters = [
                tf.cast(value, mean.dtype) for value in stored_values(each.prior_parameters)
            ]
            terms.append(self.prior.kl_divergence(mean, each.stddev, parameters, draw))
        return tf.add_n([tf.cast(term, tf.float32) for term in terms]) if terms else tf.zeros(())
