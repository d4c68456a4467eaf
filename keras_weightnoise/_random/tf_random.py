"""Draws that are made by `tf.random` itself: by Philox, and anyone can make them again.

What `drawing.draw` draws by the library's own generator, this draws by one call per variable, such as

    tf.random.stateless_normal(shape, seed=[a, b], alg="philox")

where `a = seed * 2**32 + step` and `b = stream * 2**40 + start`, both modulo 2^64 as `int64`. `start` is
where the variable begins: the elements of all variables before it in `model.variables`, each rounded up to
a multiple of 64. `stream` is 0 where there is one draw. No two draws share a pair, and TensorFlow scrambles
pairs one to one into a key and a counter: so no two share numbers.
"""

from collections.abc import Sequence

import tensorflow as tf

from keras_weightnoise._random.generator import STREAM
from keras_weightnoise._random.laws import Law
from keras_weightnoise._types import Tensor


def draw(
    law: Law,
    key: Tensor,
    starts: Sequence[int],
    shapes: Sequence[Sequence[int]],
    stream: int = 0,
) -> list[Tensor]:
    """Draws one tensor per variable: see `drawing.draw`."""
    assert law.tf_random is not None, law  # Noises refuse such laws.
    first = tf.bitcast(key, tf.int64)
    results = []
    for start, shape in zip(starts, shapes, strict=True):
        second = tf.bitcast(tf.constant(stream * STREAM + start, tf.uint64), tf.int64)
        results.append(law.tf_random(shape, tf.stack([first, second])))
    return results
