"""What a variable is: whether it is a kernel, whether noise can be added to it, what its axes mean."""

import re

import keras
import tensorflow as tf

from keras_weightnoise._weights.reachable import Layer, Variable, own_name

# "kernel", "recurrent_kernel", "lora_kernel_a", "reverse_embeddings", ...
_KERNEL = re.compile(r"(.*_)?(kernel|embeddings)(_[ab])?")
# "attention_bias", "relative_bias_table", "layer_scale", "gamma_1", "kernel_zero", ...
_NO_KERNEL = re.compile(r"(.*_)?(bias(_.*)?|gamma|beta|scale|alpha|zero)(_\d+)?")


def is_kernel(variable: Variable) -> bool:
    """Whether a weight is a kernel: what comes into its layer is multiplied by it.

    That is what Keras calls `kernel` or `embeddings`, of any rank, recurrent, depthwise, pointwise and
    low-rank (LoRA) ones included; and, in layers that call their weights otherwise, those of rank 2 and
    above that are not named bias, gamma, beta, scale, alpha or zero.
    """
    # By its name, as nothing else tells a `MultiHeadAttention`'s bias, of rank 2, from its kernel, and the
    # kernel of an `EinsumDense`, of rank 1, from a bias.
    name = own_name(variable)
    if _KERNEL.fullmatch(name):
        return True
    return len(variable.shape) >= 2 and not _NO_KERNEL.fullmatch(name)


def is_float(variable: Variable) -> bool:
    # float8 training overwrites its scales with their "gradients": they are no weights.
    return tf.as_dtype(variable.dtype).is_floating and not getattr(
        variable, "overwrite_with_gradient", False
    )


def filter_axes(variable: Variable, layer: Layer) -> tuple[int, ...]:
    """The axes of a variable that one output channel (filter, row) extends over.

    What is no kernel, and what has one axis, counts as one filter.
    """
    rank = len(variable.shape)
    kept = _output_axes(variable, layer) if is_kernel(variable) and rank > 1 else set()
    return tuple(axis for axis in range(rank) if axis not in kept)


def _output_axes(variable: Variable, layer: Layer) -> set[int]:
    """The axes of a kernel, of rank 2 or above, that tell output channels apart."""
    name, rank = own_name(variable), len(variable.shape)
    layers = keras.layers
    if isinstance(layer, layers.Embedding) and name in ("embeddings", "lora_embeddings_a"):
        return {0}
    if name == "depthwise_kernel" or isinstance(
        layer, layers.DepthwiseConv1D | layers.DepthwiseConv2D
    ):
        return {rank - 2, rank - 1}
    if isinstance(layer, layers.Conv1DTranspose | layers.Conv2DTranspose | layers.Conv3DTranspose):
        return {rank - 2}
    if isinstance(layer, layers.EinsumDense):
        # "abc,cde->abde": the kernel's letters that the output keeps.
        inputs, output = layer.equation.replace(" ", "").replace("...", "").split("->")
        letters = inputs.split(",")[1]
        if (
            len(letters) != rank
        ):  # In int4, Keras holds the kernel as a matrix, what is reduced first.
            return {rank - 1}
        if name == "lora_kernel_b":  # (rank of the factors, last axis of the kernel)
            return {1} if letters[-1] in output else {0}
        return {axis for axis, letter in enumerate(letters) if letter in output}
    return {rank - 1}
