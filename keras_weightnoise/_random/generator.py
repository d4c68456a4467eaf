"""The generator: Threefry-2x32-20 (Salmon et al. 2011), from a key and counters to random bits.

It is the generator of `tf.random` with `alg="threefry"`, which TensorFlow has on CPU only in graphs
compiled by XLA, and where an element's bits depend on how many are drawn. So it is written out here. The
other one, Philox, takes XLA twice as long.
"""

import tensorflow as tf

from keras_weightnoise._types import Tensor

_ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
_PARITY = 0x1BD11BDA
STREAM = 2**40  # Counters of a stream: a pair of elements has one.
ROW = 1024  # XLA on CPU draws rows of this length several times faster than odd shapes.


def make_key(seed: Tensor, step: Tensor) -> Tensor:
    """The generator's key, a scalar `uint64`: the seed above, the step below (both modulo 2^32)."""
    return join(tf.cast(step, tf.uint32), tf.cast(seed, tf.uint32))


def make_counter(start: int, stream: int = 0) -> Tensor:
    """The generator's counter at an element."""
    return tf.constant(stream * STREAM + start // 2, tf.uint64)


def make_pairs(key: Tensor, counter: Tensor, length: int | Tensor) -> Tensor:
    """The generator's output from a counter on: rows of `uint64`, one for two elements."""
    rows = -(-length // ROW)
    steps = tf.reshape(tf.range(rows * (ROW // 2)), [rows, ROW // 2])
    return threefry(key, counter + tf.cast(steps, tf.uint64))


def as_words(pairs: Tensor) -> Tensor:
    """The words of rows of pairs of them, as `int32`."""
    return tf.reshape(tf.bitcast(pairs, tf.int32), [-1, ROW])


def threefry(key: Tensor, counter: Tensor) -> Tensor:
    """Threefry-2x32-20, with pairs of words, the first below the second, as `uint64`."""
    k0, k1 = split(key)
    keys = k0, k1, k0 ^ k1 ^ _PARITY
    x0, x1 = split(counter)
    x0, x1 = x0 + k0, x1 + k1
    for i in range(20):
        turns = _ROTATIONS[i % 8]
        x0 += x1
        x1 = tf.bitwise.left_shift(x1, turns) | tf.bitwise.right_shift(x1, 32 - turns)
        x1 ^= x0
        if i % 4 == 3:
            injection = i // 4 + 1
            x0 += keys[injection % 3]
            x1 += keys[(injection + 1) % 3] + injection
    return join(x0, x1)


def split(pair: Tensor) -> tuple[Tensor, Tensor]:
    return tf.cast(pair, tf.uint32), tf.cast(tf.bitwise.right_shift(pair, 32), tf.uint32)


def join(low: Tensor, high: Tensor) -> Tensor:
    return tf.cast(low, tf.uint64) | tf.bitwise.left_shift(tf.cast(high, tf.uint64), 32)
