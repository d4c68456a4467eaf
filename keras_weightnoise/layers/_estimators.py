"""What each example of a batch sees of weight noise: the estimators of `GaussianWeightNoise`.

`"shared"` is one noisy kernel for the whole batch, and is the wrapper's own. The others write the noise
as what it adds to a layer's outputs before bias and activation, where each example can have its own:

- `"flipout"`: `((x * s_in) dW) * s_out`, with dW the shared draw. Example i sees the kernel
  `W + dW * outer(s_in[i], s_out[i])`, which has the law of `W + dW` since dW is symmetric about 0.
- `"local_reparameterization"`: `e * sqrt((x^2) (stddev * scale)^2)`, with e ~ N(0, 1) for each output.

That takes a layer that is linear in its kernel, and known to be: these are written for the `call` of
`keras.layers.Dense` and of the convolutions, and refuse classes that replace it.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import keras
import tensorflow as tf
from keras import ops

from keras_weightnoise._checks import check_choice
from keras_weightnoise._random import drawing, laws
from keras_weightnoise._random.generator import make_key
from keras_weightnoise._types import Tensor
from keras_weightnoise._weights.reachable import Layer
from keras_weightnoise._weights.selection import Target
from keras_weightnoise.layers._noisy_reads import NoisyReads

Estimator = Literal["shared", "flipout", "local_reparameterization"]

_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_LAYERS: dict[str, tuple[type, ...]] = {
    "flipout": (keras.layers.Dense, *_CONVOLUTIONS),
    "local_reparameterization": (keras.layers.Dense,),
}
# What decides how a layer's outputs depend on its kernel.
_DECISIVE = ("__call__", "call", "convolution_op", "kernel")
_ONE_KERNEL = (
    "its law is that of weight noise only where an example meets the kernel once. Where one kernel "
    "serves several positions, a noisy kernel correlates them, and noise drawn for each would not"
)


def check_estimator(estimator: Any, layer: Layer) -> None:
    """Raises unless `estimator` is one, and one that applies to the layer."""
    check_choice("estimator", estimator, get_args(Estimator))
    if estimator == "shared":
        return
    kinds = _LAYERS[estimator]
    kind = next((each for each in kinds if isinstance(layer, each)), None)
    if kind is None:
        reason = f": {_ONE_KERNEL}" if estimator == "local_reparameterization" else ""
        raise ValueError(
            f"The estimator {estimator!r} does not apply to this layer{reason}. Expected a layer of "
            f"type {', '.join(each.__name__ for each in kinds)}, or `estimator='shared'`. "
            f"Received: layer={layer} (of type {type(layer).__name__}), estimator={estimator!r}"
        )
    for name in _DECISIVE:
        if name in vars(layer) or getattr(type(layer), name, None) is not getattr(kind, name, None):
            raise ValueError(
                f"The estimator {estimator!r} does not apply to this layer: its `{name}` is not that "
                f"of `keras.layers.{kind.__name__}`, whose formula the estimator is made for. Expected "
                "a layer that does not override it, or `estimator='shared'`. "
                f"Received: layer={layer} (of type {type(layer).__name__}), estimator={estimator!r}"
            )


def check_selection(estimator: Estimator, variables: object, exclude: object) -> None:
    """Raises unless the estimator can perturb what is selected: the kernel alone, or anything if shared."""
    if estimator != "shared" and (variables != "kernels" or exclude is not None):
        raise ValueError(
            f"The estimator {estimator!r} is for the kernel, and only that. Expected "
            "`variables='kernels'` and no `exclude`, or `estimator='shared'`. "
            f"Received: variables={variables}, exclude={exclude}"
        )


def check_input_shape(estimator: Estimator, layer: Layer, input_shape: Sequence[Any]) -> None:
    """Raises unless the estimator applies to inputs of this shape."""
    if estimator == "local_reparameterization" and len(input_shape) != 2:
        raise ValueError(
            f"The estimator {estimator!r} does not apply to these inputs of the layer "
            f"{layer.name!r}: {_ONE_KERNEL}. Expected inputs of shape (batch, features), or "
            f"`estimator='flipout'`. Received: input_shape={tuple(input_shape)}"
        )


def only_kernel(estimator: Estimator, layer: Layer, targets: Sequence[Target]) -> Target:
    """The target that is the kernel of a layer that `check_estimator` let pass.

    Raises:
        ValueError: If the layer is quantized or has LoRA enabled by now.
    """
    if layer.lora_enabled or layer.quantization_mode is not None:
        state = "LoRA enabled" if layer.lora_enabled else f"mode {layer.quantization_mode!r}"
        raise ValueError(
            f"The estimator {estimator!r} does not apply to the layer {layer.name!r} as it is now: "
            "its outputs are no longer linear in what is trained. Expected a layer without LoRA and "
            f"quantization, or `estimator='shared'`. Received: a layer with {state}"
        )
    (target,) = targets
    return target


def call(
    estimator: Estimator,
    layer: Layer,
    target: Target,
    size: Tensor,
    args: Sequence[Any],
    kwargs: dict[str, Any],
    *,
    seed: Tensor,
    step: Tensor,
) -> Tensor:
    """Calls `layer(*args, **kwargs)` with noise that is not the same for all examples.

    Args:
        estimator: Not `"shared"`.
        layer: A built layer that `check_estimator` let pass.
        target: Its trainable kernel.
        size: The standard deviation of the noise in at least `float32`: a tensor that broadcasts against the
            kernel. One of the kernel's own shape is one for each weight.
        args: Positional arguments of the call.
        kwargs: Keyword arguments of the call.
        seed: A scalar integer, modulo 2^32.
        step: A scalar integer, modulo 2^32.

    Returns:
        What the call returns.

    Raises:
        ValueError: If the inputs are of another rank than the estimator applies to.
    """
    inputs = args[0] if args else kwargs["inputs"]
    check_input_shape(estimator, layer, inputs.shape)
    key = make_key(seed, step)
    add_noise = {"flipout": _flipout, "local_reparameterization": _local_reparameterization}

    def formula(x: Tensor) -> Tensor:
        kernel = layer.kernel
        # What Keras's matmul would make of integers.
        x = ops.cast(x, keras.backend.result_type(x.dtype, kernel.dtype))
        y = add_noise[estimator](layer, target, size, key, x, _linear(layer, x, kernel))
        if layer.use_bias:
            y = ops.add(y, _per_channel(layer, layer.bias[None], y))
        return y if layer.activation is None else layer.activation(y)

    # Losses are held back, so that they are the layer's, and in any scope around this one.
    scope = NoisyReads([], [])
    with scope:
        outputs = _CalledLike(layer)(inputs, formula=formula)
    for loss in scope.losses:
        layer.add_loss(loss)
    return outputs


def _flipout(
    layer: Layer, target: Target, size: Tensor, key: Tensor, x: Tensor, y: Tensor
) -> Tensor:
    shape = tuple(target.variable.shape)
    (n,) = drawing.draw(laws.NORMAL, key, [target.start], [shape])
    n = tf.cast(n, size.dtype)
    # The signs' random numbers are those of elements beyond the kernel, and so independent of its own.
    _, beyond = drawing.offsets([shape, ()])
    channels = x.shape[_channel_axis(layer, x)]
    signs = drawing.draw_signs(key, target.start + beyond, (ops.shape(x)[0], channels + shape[-1]))
    before, after = signs[:, :channels], tf.cast(signs[:, channels:], size.dtype)
    if size.shape == n.shape or x.dtype == tf.float16:
        n *= size
    else:
        # A factor for each output is applied to the outputs: fewer, and where XLA on CPU fuses one
        # with the draw of a kernel, the draw takes twice as long. But float16 might overflow before.
        after *= tf.reshape(size, [1, -1])
    x *= _per_channel(layer, tf.cast(before, x.dtype), x)
    added = _linear(layer, x, tf.cast(n, x.dtype))
    return y + added * _per_channel(layer, tf.cast(after, x.dtype), y)


def _local_reparameterization(
    layer: Layer, target: Target, size: Tensor, key: Tensor, x: Tensor, y: Tensor
) -> Tensor:
    e = drawing.draw_shape(laws.NORMAL, key, target.start, ops.shape(y))
    squares = tf.square(tf.cast(x, size.dtype))
    if size.shape == target.variable.shape:
        deviation = _root(tf.matmul(squares, tf.square(size)))
    else:
        # One number for all of an output's weights: it leaves the sum.
        deviation = tf.reshape(size, [1, -1]) * _root(tf.reduce_sum(squares, -1, keepdims=True))
    added = deviation * tf.cast(e, size.dtype)
    return tf.cast(tf.cast(y, size.dtype) + added, y.dtype)


def _root(variance: Tensor) -> Tensor:
    """The square root, whose gradient at 0 is 0 in place of infinity."""
    positive = variance > 0.0
    return tf.where(positive, tf.sqrt(tf.where(positive, variance, 1.0)), 0.0)


def _linear(layer: Layer, x: Tensor, kernel: Tensor) -> Tensor:
    """What the layer computes before bias and activation, with another kernel."""
    if isinstance(layer, keras.layers.Dense):
        return ops.matmul(x, kernel)
    padding = layer.padding
    if padding == "causal":  # Of Conv1D, which pads in its `call`.
        before = [0, 0, 0]
        before[1 if layer.data_format == "channels_last" else 2] = layer.dilation_rate[0] * (
            layer.kernel_size[0] - 1
        )
        x, padding = ops.pad(x, [[n, 0] for n in before]), "valid"
    return ops.conv(
        x,
        kernel,
        strides=list(layer.strides),
        padding=padding,
        dilation_rate=layer.dilation_rate,
        data_format=layer.data_format,
    )


def _channel_axis(layer: Layer, x: Tensor) -> int:
    first = getattr(layer, "data_format", None) == "channels_first"
    return 1 if first else len(x.shape) - 1


def _per_channel(layer: Layer, values: Tensor, x: Tensor) -> Tensor:
    """Values of shape (batch or 1, channels), shaped to broadcast against `x`."""
    shape = [1] * len(x.shape)
    shape[0] = -1
    shape[_channel_axis(layer, x)] = values.shape[-1]
    return tf.reshape(values, shape)


class _CalledLike(keras.layers.Layer):  # type: ignore[misc]  # Keras ships no types.
    """Runs a formula as if it were another layer's `call`.

    With that layer's casts of inputs and variables, mask, name and activity regularizer: what Keras
    does in `__call__`, which differs between its versions.
    """

    def __init__(self, layer: Layer) -> None:
        super().__init__(
            name=layer.name,
            dtype=layer.dtype_policy,
            autocast=layer.autocast,
            activity_regularizer=layer.activity_regularizer,
        )
        self.supports_masking = layer.supports_masking

    def call(self, inputs: Tensor, *, formula: Callable[[Tensor], Tensor]) -> Tensor:
        return formula(inputs)
