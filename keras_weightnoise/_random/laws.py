"""The laws: from random bits to numbers. All that is said of a law is said here, in its record.

TensorFlow's own normals differ between XLA and plain graphs, so from bits to numbers it is arithmetic of
our own.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from keras_weightnoise._types import Tensor

# The inverse of the normal distribution function, as Giles (2012), "Approximating the erfinv function",
# has it: n = x P(sqrt(w)) with w = -log(1 - x^2). But one polynomial for all w, highest power first, in
# sqrt(w) - 2.32: two, and choosing, took twice as long. Fitted to the least largest error of n.
_INVERSE = (
    -3.38578544e-06, 5.0989361e-06, 7.02159127e-05, -0.000120431805, -0.000585237991, 0.00126510037,
    0.00226997464, -0.00781980627, -0.000499348159, 0.0309123687, -0.0654520104, 0.0790616688,
    1.36634691, 3.05537845,
)  # fmt: skip
# log2(1 + f) = f + f (1 - f) Q(f) on [0, 1], to 2e-6.
_LOG2 = (0.02584144, -0.09595645, 0.18194887, -0.27560031, 0.44254494)
_LN2 = 0.6931471805599453
_TWO_SIGMAS = 0.9544997361036416  # P(|n| <= 2).

TFRandom = Callable[[Sequence[int], Tensor], Tensor]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Law:
    """A distribution of random numbers.

    Attributes:
        name: Its name, for people.
        transform: From the 32 bits of each element, an `int32`, to numbers of `dtype`.
        stddev: The standard deviation.
        half_power: The size that half of the law's power is below: of a sum of squares, the numbers of at
            most this size have half.
        tf_random: From a shape and a seed (two `int64`) to numbers that `tf.random` draws; or `None` if
            it has no such law.
        dtype: Of the numbers.
    """

    name: str
    transform: Callable[[Tensor], Tensor]
    stddev: float
    half_power: float
    tf_random: TFRandom | None
    dtype: tf.DType = tf.float32

    def __repr__(self) -> str:
        return self.name


def occurs(u: Tensor, probability: Tensor) -> Tensor:
    """Whether an event of this probability occurs, for a draw u of the law `UNIFORM`.

    By |u|, which is never 0 and may be 1: so at 0 never, at 1 always, and exact for rare events, as
    `float32` is finest about 0. u may be `float64`, but its values are those of `float32`.
    """
    return tf.abs(u) <= probability


def _uniform(bits: Tensor) -> Tensor:
    return (tf.cast(bits, tf.float32) + 0.5) * 2.0**-31


def _beyond(bits: Tensor) -> Tensor:
    """How many values |u| has that are larger than this one."""
    return tf.int32.max - tf.bitwise.bitwise_xor(bits, tf.bitwise.right_shift(bits, 31))


def _normal(bits: Tensor) -> Tensor:
    tail = tf.cast(_beyond(bits), tf.float32) * 2.0**-31 + 2.0**-32  # 1 - |u|
    return _uniform(bits) * _inverse(tail * (2.0 - tail))


def _exact_normal(bits: Tensor) -> Tensor:
    tail = (tf.cast(_beyond(bits), tf.float64) + 0.5) * 2.0**-32  # (1 - |u|) / 2, beyond |n|
    return sign(bits) * tf.cast(-tf.math.ndtri(tail), tf.float32)


def _truncated_normal(bits: Tensor) -> Tensor:
    x = _uniform(bits) * _TWO_SIGMAS
    return tf.clip_by_value(x * _inverse((1.0 - x) * (1.0 + x)), -2.0, 2.0)  # Errors may exceed it.


def _inverse(y: Tensor) -> Tensor:
    """n / x, where P(|N(0, 1)| <= |n|) = |x|, for y = 1 - x^2."""
    # The logarithm, from the bits of a float32: faster than the op.
    word = tf.bitcast(y, tf.int32)
    exponent = tf.cast(tf.bitwise.right_shift(word, 23) - 127, tf.float32)
    mantissa = tf.bitwise.bitwise_or(tf.bitwise.bitwise_and(word, 0x7FFFFF), 0x3F800000)
    f = tf.bitcast(mantissa, tf.float32) - 1.0
    log2 = exponent + f + f * (1.0 - f) * horner(_LOG2, f)
    return horner(_INVERSE, tf.sqrt(tf.maximum(log2 * -_LN2, 0.0)) - 2.32)


def horner(coefficients: Sequence[float], x: Tensor) -> Tensor:
    """The polynomial of these coefficients, the highest power first."""
    value: Any = coefficients[0]
    for coefficient in coefficients[1:]:
        value = value * x + coefficient
    return value


def sign(bits: Tensor) -> Tensor:
    """-1.0 or 1.0, by the sign of an integer."""
    return tf.where(bits < 0, -1.0, 1.0)


_philox = functools.partial(functools.partial, alg="philox")


def _of_bits(transform: Callable[[Tensor], Tensor]) -> TFRandom:
    """A transform of bits that `tf.random` draws."""

    def numbers(shape: Sequence[int], seed: Tensor) -> Tensor:
        draw = tf.random.stateless_uniform
        return transform(draw(shape, seed, None, None, tf.int32, alg="philox"))

    return numbers


# For the bits of an element, read as a signed integer b.
UNIFORM = Law("uniform", _uniform, 3**-0.5, 0.5 ** (1 / 3), _of_bits(_uniform))
"""u = (b + 1/2) / 2^31, rounded to `float32`: on [-1, 1]."""

NORMAL = Law("normal", _normal, 1.0, 1.5381722545, _philox(tf.random.stateless_normal))
"""n = sqrt(2) erfinv(u) by a polynomial, the distance of |u| from 1 taken from the integer, not from the
rounded u. It is within 1e-5 of the exact inverse up to the last value, 6.34."""

EXACT_NORMAL = Law("exact_normal", _exact_normal, 1.0, NORMAL.half_power, None)
"""The same inverse in `float64`, with u not rounded, and n rounded to `float32`: at the speed of
TensorFlow's own."""

TRUNCATED_NORMAL = Law(
    "truncated_normal",
    _truncated_normal,
    0.8796256610342398,
    1.3145250803,
    _philox(tf.random.stateless_truncated_normal),
)
"""As `NORMAL`, with P(|n| <= 2) u for u, so that n is in [-2, 2]."""

SIGN = Law("sign", sign, 1.0, 1.0, _of_bits(sign))
"""-1 or 1, by the sign of b."""

BITS = Law(
    "bits",
    lambda bits: bits,
    2**31 * 3**-0.5,
    2**31 * 0.5 ** (1 / 3),
    _of_bits(tf.identity),
    tf.int32,
)
"""b itself, an `int32`: 32 random bits."""
