"""What a variable is: whether noise can be added to it, and what its axes mean."""

import keras
import tensorflow as tf

from keras_weightnoise._weights.reachable import Layer, Variable


def is_float(variable: Variable) -> bool:
    # float8 training overwrites its scales with their "gradients": they are no weights.
    return tf.as_dtype(variable.dtype).is_floating and not getattr(
        variable, "overwrite_with_gradient", False
    )


def filter_axes(variable: Variable, layer: Layer) -> tuple[int, ...]:
    """The axes of a variable that one output channel (filter, row) extends over."""
    rank = len(variable.shape)
    if rank < 2 or variable.name == "bias":  # A GRU's has rank 2, an EinsumDense layer's any.
        kept = set()
    elif isinstance(layer, keras.layers.Embedding) and variable.name == "embeddings":
        kept = {0}
    elif _is_depthwise(variable, layer):
        kept = {rank - 2, rank - 1}
    elif isinstance(
        layer,
        keras.layers.Conv1DTranspose | keras.layers.Conv2DTranspose | keras.layers.Conv3DTranspose,
    ):
        kept = {rank - 2}
    elif isinstance(layer, keras.layers.EinsumDense):
        # "abc,cde->abde": the kernel's letters that the output keeps.
        inputs, output = layer.equation.replace(" ", "").replace("...", "").split("->")
        kernel = inputs.split(",")[1]
        kept = {i for i, letter in enumerate(kernel) if letter in output} or {rank - 1}
    else:
        kept = {rank - 1}
    return tuple(axis for axis in range(rank) if axis not in kept)


def _is_depthwise(variable: Variable, layer: Layer) -> bool:
    return variable.name == "depthwise_kernel" or (
        isinstance(layer, keras.layers.DepthwiseConv1D | keras.layers.DepthwiseConv2D)
    )
