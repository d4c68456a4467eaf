"""Stateless in-graph random numbers: every element of every variable has its own.

A draw is a pure function of `(seed, step, position)`. `seed` and `step` are the key of a
Threefry-2x32-20 generator (Salmon et al. 2011) and the element's position in the model, counted over
all of `model.variables`, is the generator's counter. So no two elements share a stream, a variable's
numbers do not depend on which others are perturbed, and one call can draw for many variables at once.

It is the generator of `tf.random` with `alg="threefry"`, which TensorFlow has on CPU only in graphs
compiled by XLA, and where an element's bits depend on how many are drawn. So it is written out here. The
other one, Philox, takes XLA twice as long; and TensorFlow's own normals differ between XLA and plain
graphs, so from bits to numbers it is arithmetic of our own, too.
"""

import functools
import numbers
import random
from collections.abc import Callable, Sequence
from math import prod
from typing import Any, Literal

import tensorflow as tf

Tensor = Any  # TensorFlow ships no types.
Law = Literal["normal", "exact_normal", "truncated_normal", "uniform", "sign"]

_ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
_PARITY = 0x1BD11BDA
_STREAM = 2**40  # Counters of a stream: a pair of elements has one.
_ALIGNMENT = 64  # Elements: pieces of a draw that start on 256 bytes are views, not copies.
_ROW = 1024  # XLA on CPU draws rows of this length several times faster than odd shapes.

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

_COMPILED = 2**13  # Elements: fewer are drawn sooner than a kernel for them is compiled.
_LARGE = 750_000  # Elements: fewer are not worth a kernel compiled for their number.
_BATCH = 128  # Examples: what is assumed of a batch whose size is not known.
_CHOICE = 2**24 - 1  # The stream of `choose`, past those that noises count up from 0.
_TWO_SIGMAS = 0.9544997361036416  # P(|n| <= 2).


def resolve_seed(seed: int | None) -> int:
    """Returns `seed`, or one drawn from what `keras.utils.set_random_seed` seeds if it is `None`."""
    # Python's generator is where Keras's own layers and initializers take their default seeds from.
    return random.randint(1, 2**31 - 1) if seed is None else seed


def check_seed(seed: int | None) -> int | None:
    """Returns `seed` if it is `None` or an int in [0, 2^32), and raises otherwise."""
    if seed is None:
        return None
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral):
        raise TypeError(
            "Invalid `seed`. Expected an integer or `None`. "
            f"Received: seed={seed} (of type {type(seed).__name__})"
        )
    if not 0 <= seed < 2**32:
        raise ValueError(
            f"Invalid `seed`. Expected an integer in [0, 2**32). Received: seed={seed}"
        )
    return int(seed)


def offsets(shapes: Sequence[Sequence[int]]) -> list[int]:
    """The position, in elements, at which each of these variables begins."""
    starts, end = [], 0
    for shape in shapes:
        starts.append(end)
        end += -(-prod(shape) // _ALIGNMENT) * _ALIGNMENT
    return starts


def make_key(seed: Tensor, step: Tensor) -> Tensor:
    """The generator's key, a scalar `uint64`: the seed above, the step below (both modulo 2^32)."""
    return _join(tf.cast(step, tf.uint32), tf.cast(seed, tf.uint32))


def draw(
    law: Law,
    key: Tensor,
    starts: Sequence[int],
    shapes: Sequence[Sequence[int]],
    stream: int = 0,
) -> list[Tensor]:
    """Draws one `float32` tensor per variable.

    The laws, for the 32 bits of an element read as a signed integer b:

    - `"uniform"`: u = (b + 1/2) / 2^31, rounded to float32: on [-1, 1].
    - `"normal"`: n = sqrt(2) erfinv(u) by a polynomial, the distance of |u| from 1 taken from the
      integer, not from the rounded u. It is within 1e-5 of the exact inverse up to the last value, 6.34.
    - `"exact_normal"`: the same inverse in `float64`, with u not rounded, and n rounded to `float32`:
      at the speed of TensorFlow's own.
    - `"truncated_normal"`: the same with P(|n| <= 2) u for u, so that n is in [-2, 2].
    - `"sign"`: -1 or 1, by the sign of b.

    Args:
        law: One of `"normal"`, `"exact_normal"`, `"truncated_normal"`, `"uniform"`, `"sign"`.
        key: What `make_key` returns.
        starts: For each variable, where it begins: see `offsets`.
        shapes: For each variable, its shape.
        stream: An int below 2^24: draws of different streams are independent.

    Returns:
        A list of `float32` tensors of these shapes.
    """
    results: list[Tensor] = []
    for run in _runs(starts, shapes):
        words, compiled = _words_of(run, key, starts, shapes, stream)
        begins = [starts[i] - starts[run[0]] for i in run]
        numbers = _transform_kernel(law, compiled)(words)
        results += _cut(numbers, begins, [shapes[i] for i in run])
    return results


def add(
    law: Law,
    key: Tensor,
    starts: Sequence[int],
    values: Sequence[Tensor],
    scale: Tensor,
    stream: int = 0,
) -> list[Tensor]:
    """Adds random numbers to the values of variables: w + scale * n, with what `draw` returns for n.

    The same to the bit, but where an outer graph is compiled; and faster: where nearly all are in large
    variables, it is the pass that draws them which adds.

    Args:
        law: See `draw`.
        key: What `make_key` returns.
        starts: For each variable, where it begins: see `offsets`.
        values: For each variable, what is added to, `float32` or `float64`.
        scale: A `float32` scalar.
        stream: See `draw`.

    Returns:
        A list of tensors like the values.
    """
    shapes = [tuple(value.shape) for value in values]
    results = list(values)
    for run in _runs(starts, shapes):
        words, compiled = _words_of(run, key, starts, shapes, stream)
        begins = [starts[i] - starts[run[0]] for i in run]
        large = _large(run, values) if compiled else []
        rest = [i for i in run if i not in large]
        if large:
            rows = _split_rows(words, begins, [shapes[i] for i in run])
            pieces = dict(zip(run, rows, strict=True))
            for i in large:
                own, value = tf.reshape(pieces[i], [-1]), tf.reshape(values[i], [-1])
                added = _add_kernel(law)(own[: prod(shapes[i])], scale, value)
                results[i] = tf.reshape(added, shapes[i])
            if not rest:
                continue
            words = tf.concat([pieces[i] for i in rest], 0)
            begins = offsets([shapes[i] for i in rest])
        numbers = _transform_kernel(law, compiled)(words, *([scale] if compiled else []))
        for i, piece in zip(rest, _cut(numbers, begins, [shapes[i] for i in rest]), strict=True):
            # In plain code, Grappler would move a constant scale into the law, and round otherwise than
            # of numbers that are kept.
            n = piece if compiled else scale * piece
            results[i] = values[i] + tf.cast(n, values[i].dtype)
    return results


def draw_shape(law: Law, key: Tensor, start: int, shape: Sequence[int | Tensor]) -> Tensor:
    """Draws one `float32` tensor whose shape may be known only when the graph runs.

    The same numbers as `draw` has for a variable of that shape.

    Args:
        law: See `draw`.
        key: What `make_key` returns.
        start: Where it begins: a multiple of what `offsets` aligns to.
        shape: Its dimensions: ints and scalar `int32` tensors, as `keras.ops.shape` returns.
    """
    known = [size for size in shape if isinstance(size, int)]
    if len(known) == len(shape):
        return draw(law, key, [start], [known])[0]
    # A kernel is compiled for each length that occurs: with one unknown, for each size of a batch.
    compiled = prod(known) * _BATCH >= _COMPILED and xla_works()
    length = tf.reduce_prod(shape)
    bits = _bits_kernel(None, compiled)(key, _counter(start), length)
    numbers = _transform_kernel(law, compiled)(_words(bits))
    return tf.reshape(tf.reshape(numbers, [-1])[:length], shape)


def draw_signs(key: Tensor, start: int, shape: Sequence[int | Tensor]) -> Tensor:
    """Draws independent signs, -1.0 or 1.0, in a shape that may be known only when the graph runs.

    Where `draw` has an element of the law `"sign"`, this has 32 of them, one for each bit of the word:
    a quarter of the time.

    Args:
        key: What `make_key` returns.
        start: Where it begins: a multiple of what `offsets` aligns to.
        shape: Its dimensions: ints and scalar `int32` tensors, as `keras.ops.shape` returns.
    """
    count = tf.reduce_prod(shape)
    length = -(-count // 32)
    words = tf.reshape(_words(_bits(key, _counter(start), length)), [-1])[:length]
    signs = _sign(tf.bitwise.left_shift(words[:, None], tf.range(32)))
    return tf.reshape(tf.reshape(signs, [-1])[:count], shape)


def choose(key: Tensor, count: int) -> Tensor:
    """Draws a scalar `int64` from 0 to `count - 1`, each as likely to within `count` in 2^32."""
    word, _ = _split(_bits(key, _counter(0, _CHOICE), 1)[0, 0])
    return tf.cast(word, tf.int64) % count


def occurs(u: Tensor, probability: Tensor) -> Tensor:
    """Whether an event of this probability occurs, for a draw u of the law `"uniform"`.

    By |u|, which is never 0 and may be 1: so at 0 never, at 1 always, and exact for rare events, as
    `float32` is finest about 0. u may be `float64`, but its values are those of `float32`.
    """
    return tf.abs(u) <= probability


def _runs(starts: Sequence[int], shapes: Sequence[Sequence[int]]) -> list[list[int]]:
    """Neighbours to draw together: where the gaps cost less than calls of their own."""
    runs: list[list[int]] = []
    for i, start in enumerate(starts):
        if runs:
            first, last = runs[-1][0], runs[-1][-1]
            end = starts[last] + prod(shapes[last])
            if 0 <= start - end <= max(_ROW, (end - starts[first]) // 8):
                runs[-1].append(i)
                continue
        runs.append([i])
    return runs


def _words_of(
    run: Sequence[int],
    key: Tensor,
    starts: Sequence[int],
    shapes: Sequence[Sequence[int]],
    stream: int,
) -> tuple[Tensor, bool]:
    """The words of a run, and whether compiled code makes them, and should make the numbers."""
    begin, last = starts[run[0]], run[-1]
    length = starts[last] + prod(shapes[last]) - begin
    compiled = length >= _COMPILED and xla_works()
    return _words(_bits_kernel(length, compiled)(key, _counter(begin, stream))), compiled


def _large(run: Sequence[int], values: Sequence[Tensor]) -> list[int]:
    """Those of a run that get a kernel each, to add to them: none unless they are nearly all of it.

    The rest has to be gathered, which costs more than their share saves where it is more than a tenth.
    """
    sizes = {i: values[i].shape.num_elements() for i in run}
    large = [i for i in run if values[i].dtype == tf.float32 and sizes[i] >= _LARGE]
    return large if sum(sizes[i] for i in large) >= 0.9 * sum(sizes.values()) else []


def _split_rows(
    words: Tensor, starts: Sequence[int], shapes: Sequence[Sequence[int]]
) -> list[Tensor]:
    """The rows that each variable's words or numbers are in, where the first starts at 0: views."""
    ends = [*starts[1:], words.shape.num_elements()]
    sizes: list[int] = []  # Of each variable and of the gap behind it, in turn.
    for start, end, shape in zip(starts, ends, shapes, strict=True):
        size = -(-prod(shape) // _ALIGNMENT)
        sizes += size, (end - start) // _ALIGNMENT - size
    return tf.split(tf.reshape(words, [-1, _ALIGNMENT]), sizes)[::2]  # type: ignore[no-any-return]


def _cut(numbers: Tensor, starts: Sequence[int], shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    """Cuts rows of numbers into variables."""
    pieces = _split_rows(numbers, starts, shapes)
    # In a large model, ops are what the first step costs, and constants are ops.
    constants = {shape: tf.constant(shape, tf.int32) for shape in dict.fromkeys(map(tuple, shapes))}
    return [
        tf.reshape(
            piece
            if piece.shape.num_elements() == prod(shape)
            else tf.reshape(piece, [-1])[: prod(shape)],
            constants[tuple(shape)],
        )
        for piece, shape in zip(pieces, shapes, strict=True)
    ]


# The kernels are apart from each other, because XLA on CPU works in lanes of the largest type there is; and
# from whatever uses them, because it would draw again for each use.


@functools.cache
def _bits_kernel(length: int | None, compiled: bool) -> Callable[..., Tensor]:
    """`_bits` for so many elements, or as many as it is told; compiled, for which it is made."""
    bits = _bits if length is None else functools.partial(_bits, length=length)
    return _compile(bits) if compiled else bits


@functools.cache
def _transform_kernel(law: Law, compiled: bool) -> Callable[..., Tensor]:
    """From words to numbers; compiled, times a factor where there is one."""
    if not compiled:
        return _LAWS[law]

    def transform(words: Tensor, scale: Tensor | None = None) -> Tensor:
        numbers = _LAWS[law](words)
        return numbers if scale is None else scale * numbers

    return _compile(transform)


@functools.cache
def _add_kernel(law: Law) -> Callable[..., Tensor]:
    """From words to weights with their numbers, times a factor, added. Compiled for each size."""

    def add(words: Tensor, scale: Tensor, weights: Tensor) -> Tensor:
        n = scale * _LAWS[law](words)
        # Rounded before it is added, as numbers that are kept are: a product goes into a sum unrounded.
        return weights + tf.minimum(n, tf.float32.max)

    of_any_size = [
        tf.TensorSpec(shape, dtype)
        for shape, dtype in [([None], tf.int32), ([], tf.float32), ([None], tf.float32)]
    ]
    return tf.function(add, of_any_size, jit_compile=True, autograph=False)  # type: ignore[no-any-return]


def _compile(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    # Of partials, which have no code of their own, TensorFlow does not warn that the same code is traced
    # again and again.
    return tf.function(  # type: ignore[no-any-return]
        functools.partial(function), jit_compile=True, autograph=False
    )


@functools.cache
def xla_works() -> bool:
    """Whether this build of TensorFlow can compile for this machine."""
    try:
        with tf.init_scope():
            tf.function(lambda: tf.zeros(()), jit_compile=True)()
    except (tf.errors.OpError, ValueError):
        return False
    return True


def _counter(start: int, stream: int = 0) -> Tensor:
    """The generator's counter at an element."""
    return tf.constant(stream * _STREAM + start // 2, tf.uint64)


def _bits(key: Tensor, counter: Tensor, length: int | Tensor) -> Tensor:
    """The generator's output from a counter on: rows of `uint64`, one for two elements."""
    rows = -(-length // _ROW)
    steps = tf.reshape(tf.range(rows * (_ROW // 2)), [rows, _ROW // 2])
    return _threefry(key, counter + tf.cast(steps, tf.uint64))


def _words(pairs: Tensor) -> Tensor:
    """The words of rows of pairs of them, as `int32`."""
    return tf.reshape(tf.bitcast(pairs, tf.int32), [-1, _ROW])


def _threefry(key: Tensor, counter: Tensor) -> Tensor:
    """Threefry-2x32-20, with pairs of words, the first below the second, as `uint64`."""
    k0, k1 = _split(key)
    keys = k0, k1, k0 ^ k1 ^ _PARITY
    x0, x1 = _split(counter)
    x0, x1 = x0 + k0, x1 + k1
    for i in range(20):
        bits = _ROTATIONS[i % 8]
        x0 += x1
        x1 = tf.bitwise.left_shift(x1, bits) | tf.bitwise.right_shift(x1, 32 - bits)
        x1 ^= x0
        if i % 4 == 3:
            turn = i // 4 + 1
            x0 += keys[turn % 3]
            x1 += keys[(turn + 1) % 3] + turn
    return _join(x0, x1)


def _split(pair: Tensor) -> tuple[Tensor, Tensor]:
    return tf.cast(pair, tf.uint32), tf.cast(tf.bitwise.right_shift(pair, 32), tf.uint32)


def _join(low: Tensor, high: Tensor) -> Tensor:
    return tf.cast(low, tf.uint64) | tf.bitwise.left_shift(tf.cast(high, tf.uint64), 32)


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
    return _sign(bits) * tf.cast(-tf.math.ndtri(tail), tf.float32)


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
    log2 = exponent + f + f * (1.0 - f) * _horner(_LOG2, f)
    return _horner(_INVERSE, tf.sqrt(tf.maximum(log2 * -_LN2, 0.0)) - 2.32)


def _horner(coefficients: Sequence[float], x: Tensor) -> Tensor:
    value: Any = coefficients[0]
    for coefficient in coefficients[1:]:
        value = value * x + coefficient
    return value


def _sign(bits: Tensor) -> Tensor:
    return tf.where(bits < 0, -1.0, 1.0)


_LAWS: dict[str, Callable[[Tensor], Tensor]] = {
    "normal": _normal,
    "exact_normal": _exact_normal,
    "truncated_normal": _truncated_normal,
    "uniform": _uniform,
    "sign": _sign,
}
