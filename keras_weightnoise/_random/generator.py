"""The generator: Threefry-2x32-20 (Salmon et al. 2011), from a key and counters to random bits.

It is the generator of `tf.random` with `alg="threefry"`, which TensorFlow has on CPU only in graphs
compiled by XLA, and where an element's bits depend on how many are drawn. So it is written out here. The
other one, Philox, takes XLA twice as long.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_weightnoise._types import Tensor

_ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
_PARITY = 0x1BD11BDA
STREAM = 2**40  # Counters of a stream: a pair of elements has one.
ROW = 1024  # Elements: XLA on CPU draws rows of this length several times faster than odd shapes.


def make_key(seed: Tensor, step: Tensor) -> Tensor:
    """The generator's key, a scalar `uint64`: the seed above, the step below (both modulo 2^32)."""
    return join(tf.cast(step, tf.uint32), tf.cast(seed, tf.uint32))


def make_counter(start: int, stream: int = 0) -> Tensor:
    """The generator's counter at an element."""
    return tf.constant(stream * STREAM + start // 2, tf.uint64)


def make_counters(starts: Sequence[int], stream: int = 0) -> Tensor:
    """The same at several elements, in a column."""
    pairs = np.asarray(starts, np.uint64)[:, np.newaxis] // np.uint64(2)
    return tf.constant(pairs + np.uint64(stream * STREAM))


def make_steps(rows: int | Tensor, width: int) -> Tensor:
    """Counters of pairs from 0 on, in rows, as `uint32`."""
    return tf.cast(tf.reshape(tf.range(rows * width), [rows, width]), tf.uint32)


def make_words(key: Tensor, counter: Tensor, steps: Tensor) -> Tensor:
    """The generator's output, so many steps from a counter on: rows of `int32`, two for each step."""
    pairs = threefry(key, counter + tf.cast(steps, tf.uint64))
    return tf.reshape(tf.bitcast(pairs, tf.int32), [-1, 2 * steps.shape[-1]])


def make_halves(key: Tensor, counter: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    """The same words in two tensors: the first one of each step, and the second.

    What there is for each step has 32 bits: XLA on CPU works in lanes of the largest type there is.
    """
    low, high = split(counter)
    lows = low + steps
    first, second = _threefry(split(key), lows, high + tf.cast(lows < low, tf.uint32))
    return tf.bitcast(first, tf.int32), tf.bitcast(second, tf.int32)


def threefry(key: Tensor, counter: Tensor) -> Tensor:
    """Threefry-2x32-20, with pairs of words, the first below the second, as `uint64`."""
    return join(*_threefry(split(key), *split(counter)))


def _threefry(key: tuple[Tensor, Tensor], x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
    k0, k1 = key
    keys = k0, k1, k0 ^ k1 ^ _PARITY
    # Each once: constants are ops, which the first step of a model has to make.
    turns = {n: tf.constant(n, tf.uint32) for r in _ROTATIONS for n in (r, 32 - r)}
    x0, x1 = x0 + k0, x1 + k1
    for i in range(20):
        rotation = _ROTATIONS[i % 8]
        x0 += x1
        x1 = tf.bitwise.left_shift(x1, turns[rotation]) | tf.bitwise.right_shift(
            x1, turns[32 - rotation]
        )
        x1 ^= x0
        if i % 4 == 3:
            injection = i // 4 + 1
            x0 += keys[injection % 3]
            x1 += keys[(injection + 1) % 3] + injection
    return x0, x1


def split(pair: Tensor) -> tuple[Tensor, Tensor]:
    return tf.cast(pair, tf.uint32), tf.cast(tf.bitwise.right_shift(pair, 32), tf.uint32)


def join(low: Tensor, high: Tensor) -> Tensor:
    return tf.cast(low, tf.uint64) | tf.bitwise.left_shift(tf.cast(high, tf.uint64), 32)
