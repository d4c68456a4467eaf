"""`NoisyDense`: the layer of noisy networks, which explore by noise of a learned size."""

import math
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_weightnoise._checks import check_count, check_flag, check_positive
from keras_weightnoise._random import drawing, laws, seeds
from keras_weightnoise._random.generator import make_key
from keras_weightnoise._types import Tensor
from keras_weightnoise._weights.noise_parameters import mark
from keras_weightnoise._weights.values import stored_values, widen


@keras.saving.register_keras_serializable(package="keras_weightnoise")
class NoisyDense(keras.layers.Layer):  # type: ignore[misc]  # Keras ships no types.
    """A dense layer with noise of a learned size: `y = x (W + S * E) + b + s * e`, of NoisyNet.

    W and b are means, S and s the sizes of the noise, all trained; `*` is elementwise. With `training=True`
    the layer is noisy: from p inputs to q outputs,

    - factorised, `E[i, j] = f(u[i]) f(v[j])` and `e[j] = f(v[j])`, with `f(a) = sign(a) sqrt(|a|)` and p + q
      numbers u, v ~ N(0, 1): few to draw;
    - independent, E, e ~ N(0, 1), one for each weight and bias.

    With `training=False` it is `y = x W + b`.

    Use it in the place of the last dense layers of a value network or policy, which then explores in place of
    epsilon-greedy: the agent acts with `training=True`, too, and sizes shrink where the noise does harm. For
    noise of a learned size in other layers and for a posterior, see `VariationalWeightNoise`.

    Weight decay draws the sizes to 0, and with them the noise: leave them out, with
    `optimizer.exclude_from_weight_decay(var_names=["_sigma"])` before the model is built.

    Each noisy call draws anew, or, with `hold=True`, only when `redraw` is called: so an agent keeps one
    policy for an episode, or one draw for the two calls of a step. All examples of a batch see one draw. The
    draws are those of a `keras.random.SeedGenerator`: not saved, as those of Dropout.

    Args:
        units: How many outputs. Int >= 1.
        activation: An activation, as `keras.layers.Dense` takes. Defaults to `None`.
        use_bias: Whether there are biases b, and sizes s. Defaults to `True`.
        factorised: Whether the noise is factorised. Defaults to `True`.
        initial_stddev: Float > 0, sigma_0: what each size begins with, if factorised over `sqrt(p)`.
            Defaults to `None`, which is `0.5` if factorised, else `0.017`.
        hold: Whether a draw is held until `redraw` is called. Defaults to `False`.
        seed: Int in [0, 2^32), or `None` for one drawn from what `keras.utils.set_random_seed` seeds.
            Defaults to `None`.
        **kwargs: Keyword arguments of `keras.Layer`, such as `name`.

    Call arguments:
        inputs: A tensor of shape `(batch, ..., p)`.
        training: Whether the call is noisy.

    Returns:
        From a call, a tensor of shape `(batch, ..., units)`.

    Raises:
        ValueError: If `units` is below 1, or `initial_stddev` or `seed` out of its range.
        TypeError: If an argument is of another type.

    Example:

    >>> import keras
    >>> from keras_weightnoise import NoisyDense
    >>> layer = NoisyDense(2, hold=True, seed=1)
    >>> x = keras.ops.ones((1, 4))
    >>> first, again = layer(x, training=True), layer(x, training=True)
    >>> layer.redraw()
    >>> other = layer(x, training=True)
    >>> bool(keras.ops.all(first == again)), bool(keras.ops.all(first == other))
    (True, False)

    References:
        - [Fortunato et al., 2018](https://arxiv.org/abs/1706.10295)
    """

    def __init__(
        self,
        units: int,
        activation: Any = None,
        *,
        use_bias: bool = True,
        factorised: bool = True,
        initial_stddev: float | None = None,
        hold: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        check_count("units", units)
        check_flag("use_bias", use_bias)
        check_flag("factorised", factorised)
        if initial_stddev is not None:
            check_positive("initial_stddev", initial_stddev)
        check_flag("hold", hold)
        seeds.check_seed(seed)
        super().__init__(**kwargs)
        self.units = int(units)
        self.activation = keras.activations.get(activation)
        self.use_bias = use_bias
        self.factorised = factorised
        self.initial_stddev = initial_stddev
        self.hold = hold
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.input_spec = keras.layers.InputSpec(min_ndim=2)
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        """Makes the means and the sizes, the means first."""
        inputs = input_shape[-1]
        limit = math.sqrt((1.0 if self.factorised else 3.0) / inputs)
        size = self.initial_stddev or (0.5 if self.factorised else 0.017)
        if self.factorised:
            size /= math.sqrt(inputs)
        shapes: dict[str, tuple[int, ...]] = {"kernel": (inputs, self.units)}
        if self.use_bias:
            shapes["bias"] = (self.units,)
        means = [
            self.add_weight(
                name=name, shape=shape, initializer=keras.initializers.RandomUniform(-limit, limit)
            )
            for name, shape in shapes.items()
        ]
        sizes = [
            self.add_weight(
                name=f"{name}_sigma", shape=shape, initializer=keras.initializers.Constant(size)
            )
            for name, shape in shapes.items()
        ]
        for variable in sizes:
            mark(variable)
        self.kernel, self.bias = (*means, None)[:2]
        self.kernel_sigma, self.bias_sigma = (*sizes, None)[:2]
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: inputs})

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Means, and noise if `training`."""
        kernel, bias = self._noisy() if training else (self.kernel, self.bias)
        y = ops.matmul(inputs, kernel)
        if bias is not None:
            y = ops.add(y, bias)
        return y if self.activation is None else self.activation(y)

    def redraw(self) -> None:
        """Has the noisy calls to come see the next draw. Also in a `tf.function`, as one of its steps."""
        self.seed_generator.next()

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        """That of the inputs, with `units` last."""
        return (*input_shape[:-1], self.units)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, serialized."""
        return {
            **super().get_config(),
            "units": self.units,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "factorised": self.factorised,
            "initial_stddev": self.initial_stddev,
            "hold": self.hold,
            "seed": self.seed,
        }

    def _noisy(self) -> tuple[Tensor, Tensor | None]:
        """Kernel and bias under noise, summed in at least `float32` and rounded once."""
        state = self.seed_generator.state if self.hold else self.seed_generator.next()
        seed, draw = tf.unstack(tf.convert_to_tensor(state))
        variables = [self.kernel, self.kernel_sigma]
        variables += [self.bias, self.bias_sigma] if self.use_bias else []
        values = [widen(value) for value in stored_values(variables)]
        noise = self._draw(make_key(seed, draw), values[0].dtype)
        noisy = [
            tf.cast(mean + size * n, self.compute_dtype)
            for mean, size, n in zip(values[::2], values[1::2], noise, strict=False)
        ]
        return noisy[0], noisy[1] if self.use_bias else None

    def _draw(self, key: Tensor, dtype: Any) -> tuple[Tensor, Tensor]:
        """The numbers E and e that the sizes are multiplied with."""
        inputs, units = self.kernel.shape
        shapes = [(inputs,), (units,)] if self.factorised else [(inputs, units), (units,)]
        starts = drawing.offsets(shapes)
        first, second = (tf.cast(n, dtype) for n in drawing.draw(laws.NORMAL, key, starts, shapes))
        if not self.factorised:
            return first, second
        u, v = (tf.sign(n) * tf.sqrt(tf.abs(n)) for n in (first, second))
        return u[:, None] * v, v
