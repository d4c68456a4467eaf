"""`AdaptiveStddev`: a size of parameter noise that holds how far actions are off."""

from typing import Any, Literal, get_args

import keras
import tensorflow as tf

from keras_weightnoise._checks import check_choice, check_magnitude, check_positive, is_number
from keras_weightnoise._types import Tensor
from keras_weightnoise._weights.values import stored_values
from keras_weightnoise.noises.noise import Magnitude

Distance = Literal["rms", "kl"]


@keras.saving.register_keras_serializable(package="keras_weightnoise")
class AdaptiveStddev(keras.layers.Layer):  # type: ignore[misc]  # Keras ships no types.
    """A standard deviation of noise that adapts, until actions are off by a target distance.

        stddev <- stddev * factor  where distance(clean, noisy) <= target, else  stddev / factor

    with `clean` what a policy gives for some states, and `noisy` what it gives under noise. The distances:

    - `"rms"`: `sqrt(mean((clean - noisy)^2))`, of continuous actions, over states and components. The target
      is the standard deviation that noise on the actions themselves would have.
    - `"kl"`: `KL(softmax(clean) || softmax(noisy))`, of the values of actions (Q) or of logits, the mean over
      states. Exploration by epsilon-greedy among n actions has that of a target `-log(1 - e + e / n)`.

    Use it for parameter noise in reinforcement learning, where an agent acts under `noisy_call` with
    `stddev` for its noise: which size of noise in the weights does anything changes as they are trained. Keep
    the noise for an episode (`step` of `noisy_call` is the episode), so that the agent is of one mind, and
    adapt once for each or so, on states from the replay buffer and with a draw of its own (another `seed`).
    Published policies have layer normalization, so that one size suits all layers, and no noise in its
    parameters (`variables="kernels"`). For sizes that are trained, see `NoisyDense`.

    It is a `keras.Layer` to be saved: with the agent, if that is a `keras.Model` that has it as an
    attribute, or in a `tf.train.Checkpoint`. It is never called.

    Args:
        target: The distance to hold. Float > 0, or a scalar tensor or variable of floats that changes.
        distance: `"rms"` or `"kl"`.
        initial_stddev: Float > 0, what the standard deviation begins with. Defaults to `0.1`.
        factor: Float > 1. Defaults to `1.01`.
        **kwargs: Keyword arguments of `keras.Layer`, such as `name`.

    Attributes:
        stddev: A scalar `keras.Variable`, which is not trained: a magnitude for `noisy_call` and for any of
            `keras_weightnoise.noises`.

    Raises:
        ValueError: If `target` or `initial_stddev` is not positive and finite, `factor` not above 1 and
            finite, or `distance` not one of these.
        TypeError: If one of the numbers is none.

    Example:

    >>> import keras, tensorflow as tf
    >>> from keras_weightnoise import AdaptiveStddev, noisy_call
    >>> policy = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, activation="tanh")])
    >>> adaptive = AdaptiveStddev(0.2, distance="rms")
    >>> states = keras.random.normal((64, 4), seed=1)
    >>> @tf.function
    ... def adapt(episode):
    ...     noisy = noisy_call(policy, adaptive.stddev, states, seed=2, step=episode)
    ...     return adaptive.update(policy(states), noisy)
    >>> distances = [float(adapt(tf.constant(episode))) for episode in range(200)]
    >>> 0.15 < sum(distances[100:]) / 100 < 0.25
    True

    References:
        - [Plappert et al., 2018](https://arxiv.org/abs/1706.01905) (section 3, appendix C)
    """

    def __init__(
        self,
        target: Magnitude,
        *,
        distance: Distance,
        initial_stddev: float = 0.1,
        factor: float = 1.01,
        **kwargs: Any,
    ) -> None:
        if callable(target):
            raise TypeError(
                "Invalid `target`. Expected a number, or a scalar tensor or variable, to which you assign: "
                f"there is no optimizer step here to evaluate a schedule at. Received: target={target}"
            )
        check_magnitude("target", target)
        if is_number(target):
            check_positive("target", target)
        check_choice("distance", distance, get_args(Distance))
        check_positive("initial_stddev", initial_stddev)
        check_positive("factor", factor)
        if factor <= 1.0:
            raise ValueError(
                f"Invalid `factor`. Expected a number > 1. Received: factor={factor!r}"
            )
        super().__init__(**kwargs)
        self.target = float(target) if is_number(target) else target
        self.distance = distance
        self.initial_stddev = float(initial_stddev)
        self.factor = float(factor)
        self.stddev = self.add_weight(
            name="stddev",
            shape=(),
            dtype="float32",
            initializer=keras.initializers.Constant(self.initial_stddev),
            trainable=False,
            aggregation="only_first_replica",
        )
        self.build()

    def build(self) -> None:
        """Builds nothing: the variable is there."""

    def update(self, clean: Tensor, noisy: Tensor) -> Tensor:
        """Makes the standard deviation larger or smaller by the factor. Also in a `tf.function`.

        Args:
            clean: What the policy gives, a tensor of floats, of shape `(states, ..., actions)`: actions for
                `"rms"`, values or logits of actions for `"kl"`.
            noisy: What it gives under noise, in the same shape.

        Returns:
            The distance, a scalar tensor in `float32`.

        Raises:
            ValueError: If the shapes differ, or if for `"kl"` there are not several actions.
        """
        clean = tf.cast(tf.convert_to_tensor(clean), tf.float32)
        noisy = tf.cast(tf.convert_to_tensor(noisy), tf.float32)
        if not clean.shape.is_compatible_with(noisy.shape):
            raise ValueError(
                "Expected `clean` and `noisy` in one shape. "
                f"Received: clean.shape={tuple(clean.shape)}, noisy.shape={tuple(noisy.shape)}"
            )
        if self.distance == "kl" and (clean.shape.rank == 0 or clean.shape[-1] == 1):
            raise ValueError(
                "Expected values of several actions on the last axis for `distance='kl'`. "
                f"Received: clean.shape={tuple(clean.shape)}"
            )
        distance = _rms(clean, noisy) if self.distance == "rms" else _kl(clean, noisy)
        (stddev,) = stored_values([self.stddev])
        # A distance that is not a number is none within the target, and the noise gets smaller.
        near = distance <= tf.cast(self.target, tf.float32)
        self.stddev.assign(tf.where(near, stddev * self.factor, stddev / self.factor))
        return distance

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, serialized."""
        return {
            **super().get_config(),
            "target": self.target if is_number(self.target) else float(self.target),
            "distance": self.distance,
            "initial_stddev": self.initial_stddev,
            "factor": self.factor,
        }


def _rms(clean: Tensor, noisy: Tensor) -> Tensor:
    return tf.sqrt(tf.reduce_mean(tf.square(clean - noisy)))


def _kl(clean: Tensor, noisy: Tensor) -> Tensor:
    log_p, log_q = tf.nn.log_softmax(clean), tf.nn.log_softmax(noisy)
    # Where an action has probability 0, as one that is masked by a logit of -inf, it adds nothing.
    terms = tf.math.multiply_no_nan(log_p - log_q, tf.exp(log_p))
    return tf.reduce_mean(tf.reduce_sum(terms, -1))
