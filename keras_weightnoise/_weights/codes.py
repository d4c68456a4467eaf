"""The integer codes that the kernels of a quantized model hold, as `model.quantize` leaves them."""

import dataclasses
import math
from collections.abc import Sequence

import tensorflow as tf

from keras_weightnoise._types import Tensor
from keras_weightnoise._weights.reachable import Layer, Variable, own_name


@dataclasses.dataclass(frozen=True)
class Code:
    """How a variable of bytes holds codes in two's complement.

    Attributes:
        bits: Of a code: 8, or 4, of which each byte has two, the first of them in its lower half.
        axis: Of 4 bits, the axis along which the two in a byte are neighbours.
        length: And how many codes there are along it: where that is odd, the last byte's upper half is none.
    """

    bits: int
    axis: int = 0
    length: int = 0

    def read(self, stored: Tensor) -> Tensor:
        """The codes that bytes hold, as `float32`, in the shape that the layer computes with."""
        if self.bits == 8:
            return tf.cast(stored, tf.float32)
        lower, upper = _halves(stored)
        return self.join(tf.cast(lower, tf.float32), tf.cast(upper, tf.float32))

    def write(self, codes: Tensor, stored: Tensor) -> Tensor:
        """The bytes that hold these codes, and what they held where there is no code."""
        if self.bits == 8:
            return tf.cast(codes, stored.dtype)
        _, upper = _halves(stored)
        lower, rest = (codes[self._along(slice(first, None, 2))] for first in (0, 1))
        kept = upper[self._along(slice(self.length // 2, None))]
        upper = tf.concat([tf.cast(rest, tf.int32), kept], self.axis)
        return tf.cast(
            16 * upper + tf.bitwise.bitwise_and(tf.cast(lower, tf.int32), 15), stored.dtype
        )

    def join(self, lower: Tensor, upper: Tensor) -> Tensor:
        """What there is of each 4-bit code, from what there is of each half of the bytes."""
        shape = lower.shape.as_list()
        shape[self.axis] *= 2
        both = tf.reshape(tf.stack([lower, upper], self.axis + 1), shape)
        return both[self._along(slice(self.length))]

    def _along(self, part: slice) -> tuple[slice, ...]:
        return (*[slice(None)] * self.axis, part)


def code_of(variable: Variable, layer: Layer) -> Code | None:
    """How a variable holds codes: `None` if it does not, or not in a form that is known.

    Args:
        variable: A variable of the layer's.
        layer: The layer that owns it.
    """
    name, mode = own_name(variable), layer.quantization_mode
    is_code = name in ("kernel", "embeddings", "reverse_embeddings")
    if not is_code or mode not in ("int8", "int4") or tf.as_dtype(variable.dtype) != tf.int8:
        return None
    stored = tuple(variable.shape)
    if mode == "int8":
        return Code(8)
    if name == "reverse_embeddings":
        return _packed(stored, (layer.output_dim, layer.input_dim))
    unpacked = getattr(layer, name)
    # Keras 3.11 keeps to itself how many codes there are.
    return None if unpacked is variable else _packed(stored, tuple(unpacked.shape))


def _packed(stored: Sequence[int], shape: Sequence[int]) -> Code | None:
    """Where each byte of a shape has two codes of another shape."""
    if len(stored) != len(shape):  # An EinsumDense has flattened its kernel to a matrix.
        shape = [stored[0], math.prod(shape) // stored[0]]
    for axis, length in enumerate(shape):
        if tuple(stored) == (*shape[:axis], -(-length // 2), *shape[axis + 1 :]):
            return Code(4, axis, length)
    return None


def _halves(stored: Tensor) -> tuple[Tensor, Tensor]:
    """The numbers in the lower and in the upper four bits of each byte, with their signs."""
    wide = tf.cast(stored, tf.int32)
    lower = tf.bitwise.bitwise_and(wide, 15)
    return lower - 2 * tf.bitwise.bitwise_and(lower, 8), tf.bitwise.right_shift(wide, 4)
