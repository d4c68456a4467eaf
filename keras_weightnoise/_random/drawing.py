"""Stateless in-graph random numbers: every element of every variable has its own.

A draw is a pure function of `(seed, step, position)`. `seed` and `step` are the key of the generator and
the element's position in the model, counted over all of `model.variables`, is its counter. So no two
elements share a stream, a variable's numbers do not depend on which others are perturbed, and one call can
draw for many variables at once.
"""

import functools
from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import tensorflow as tf

from keras_weightnoise._random import generator, kernels, laws
from keras_weightnoise._random.generator import ROW
from keras_weightnoise._random.laws import Law
from keras_weightnoise._types import Tensor

_ALIGNMENT = 64  # Elements: pieces of a draw that start on 256 bytes are views, not copies.
_LARGE = 750_000  # Elements: fewer are not worth a kernel compiled for their number.
_SHORT = 2**12  # Elements: fewer are copied sooner than they are added to one by one.
_BATCH = 128  # Examples: what is assumed of a batch whose size is not known.
_CHOICE = 2**24 - 1  # The stream of `choose`, past those that noises count up from 0.


def offsets(shapes: Sequence[Sequence[int]]) -> list[int]:
    """The position, in elements, at which each of these variables begins."""
    starts, end = [], 0
    for shape in shapes:
        starts.append(end)
        end += -(-prod(shape) // _ALIGNMENT) * _ALIGNMENT
    return starts


def draw(
    law: Law,
    key: Tensor,
    starts: Sequence[int],
    shapes: Sequence[Sequence[int]],
    stream: int = 0,
) -> list[Tensor]:
    """Draws one tensor per variable.

    Args:
        law: One of those in `laws`.
        key: What `generator.make_key` returns.
        starts: For each variable, where it begins: see `offsets`.
        shapes: For each variable, its shape.
        stream: An int below 2^24: draws of different streams are independent.

    Returns:
        A list of tensors of these shapes, of the law's dtype.
    """
    results: list[Tensor] = []
    for run in _runs(starts, shapes):
        own = [shapes[i] for i in run]
        layout = _as_run([starts[i] for i in run], own, stream)
        results += _cut(_draw(law, key, layout), layout.begins, own)
    return results


def add(
    law: Law,
    key: Tensor,
    starts: Sequence[int],
    values: Sequence[Tensor],
    factors: Sequence[Tensor],
    stream: int = 0,
    active: bool | Tensor = True,
) -> list[Tensor]:
    """Adds random numbers to the values of variables: w + factor * n, with what `draw` returns for n.

    The same to the bit, but where an outer graph is compiled; and faster: where nearly all are in large
    variables, it is the pass that draws them which adds; and short vectors are added to all at once.

    Args:
        law: See `draw`.
        key: What `generator.make_key` returns.
        starts: For each variable, where it begins: see `offsets`.
        values: For each variable, what is added to, `float32` or `float64`.
        factors: For each variable, a `float32` scalar.
        stream: See `draw`.
        active: Whether to: a bool, or a scalar tensor. If not, nothing is drawn, and the values come back
            bit for bit. Defaults to `True`.

    Returns:
        A list of tensors like the values.
    """
    shapes = [tuple(value.shape) for value in values]
    results = list(values)
    for run in _runs(starts, shapes):
        large = _large(run, values) if kernels.worth_compiling(_LARGE) else []
        for i in large:
            counter = generator.make_counter(starts[i], stream)
            add_ = functools.partial(_add_large, law, key, counter, factors[i], values[i])
            results[i] = add_() if active is True else tf.cond(active, add_, lambda i=i: values[i])
        rest = [i for i in run if i not in large]
        if not rest:
            continue
        places = [starts[i] for i in rest], [shapes[i] for i in rest]
        layout = (_as_rows if large else _as_run)(*places, stream)
        clean = [values[i] for i in rest]
        if all(factors[i] is factors[rest[0]] for i in rest):
            # The gradient of a sum is that of the value: what is drawn has none.
            noise = tf.stop_gradient(_draw_if(active, law, key, layout, factors[rest[0]]))
            sums = _add(noise, layout.begins, clean)
        else:
            pieces = _cut(_draw(law, key, layout), layout.begins, places[1])
            noises = [factors[i] * n for i, n in zip(rest, pieces, strict=True)]
            sums = [w + tf.cast(n, w.dtype) for w, n in zip(clean, noises, strict=True)]
        for i, noisy in zip(rest, sums, strict=True):
            results[i] = noisy
    return results


def is_large(shape: Sequence[int]) -> bool:
    """Whether a variable of this shape is worth a draw of its own."""
    return prod(shape) >= _LARGE


def draw_shape(law: Law, key: Tensor, start: int, shape: Sequence[int | Tensor]) -> Tensor:
    """Draws one tensor whose shape may be known only when the graph runs.

    The same numbers as `draw` has for a variable of that shape.

    Args:
        law: See `draw`.
        key: What `generator.make_key` returns.
        start: Where it begins: a multiple of what `offsets` aligns to.
        shape: Its dimensions: ints and scalar `int32` tensors, as `keras.ops.shape` returns.
    """
    known = [size for size in shape if isinstance(size, int)]
    if len(known) == len(shape):
        return draw(law, key, [start], [known])[0]
    # A kernel is compiled for each length that occurs: with one unknown, for each size of a batch.
    compiled = kernels.worth_compiling(prod(known) * _BATCH)
    length = tf.reduce_prod(shape)
    counter = generator.make_counter(start)
    numbers = kernels.numbers(law, key, counter, -(-length // ROW), ROW // 2, compiled)
    return tf.reshape(tf.reshape(numbers, [-1])[:length], shape)


def draw_signs(key: Tensor, start: int, shape: Sequence[int | Tensor]) -> Tensor:
    """Draws independent signs, -1.0 or 1.0, in a shape that may be known only when the graph runs.

    Where `draw` has an element of the law `SIGN`, this has 32 of them, one for each bit of the word:
    a quarter of the time.

    Args:
        key: What `generator.make_key` returns.
        start: Where it begins: a multiple of what `offsets` aligns to.
        shape: Its dimensions: ints and scalar `int32` tensors, as `keras.ops.shape` returns.
    """
    count = tf.reduce_prod(shape)
    length = -(-count // 32)
    steps = generator.make_steps(-(-length // ROW), ROW // 2)
    words = generator.make_words(key, generator.make_counter(start), steps)
    words = tf.reshape(words, [-1])[:length]
    signs = laws.sign(tf.bitwise.left_shift(words[:, None], tf.range(32)))
    return tf.reshape(tf.reshape(signs, [-1])[:count], shape)


def choose(key: Tensor, count: int, number: int = 0) -> Tensor:
    """Draws a scalar `int64` from 0 to `count - 1`, each as likely to within `count` in 2^32.

    Args:
        key: What `generator.make_key` returns.
        count: See above.
        number: Which of the independent draws of this key. Defaults to `0`.
    """
    counter = generator.make_counter(number * _ALIGNMENT, _CHOICE)
    word, _ = generator.split(generator.threefry(key, counter))
    return tf.cast(word, tf.int64) % count


def _runs(starts: Sequence[int], shapes: Sequence[Sequence[int]]) -> list[list[int]]:
    """Neighbours to draw together: where the gaps cost less than calls of their own."""
    runs: list[list[int]] = []
    for i, start in enumerate(starts):
        if runs:
            first, last = runs[-1][0], runs[-1][-1]
            end = starts[last] + prod(shapes[last])
            if 0 <= start - end <= max(ROW, (end - starts[first]) // 8):
                runs[-1].append(i)
                continue
        runs.append([i])
    return runs


class _Layout(NamedTuple):
    """Where in rows of numbers the variables begin, and what the rows are counted from."""

    counter: Tensor
    rows: int
    row: int
    begins: Sequence[int]


def _as_run(starts: Sequence[int], shapes: Sequence[Sequence[int]], stream: int) -> _Layout:
    """Neighbours, from the first to the last with the gaps between."""
    length = starts[-1] + prod(shapes[-1]) - starts[0]
    counter = generator.make_counter(starts[0], stream)
    return _Layout(counter, -(-length // ROW), ROW, [start - starts[0] for start in starts])


def _as_rows(starts: Sequence[int], shapes: Sequence[Sequence[int]], stream: int) -> _Layout:
    """A few of many, each row counted from where it is."""
    rows = [
        row
        for start, shape in zip(starts, shapes, strict=True)
        for row in range(start, start + prod(shape), _ALIGNMENT)
    ]
    counters = generator.make_counters(rows, stream)
    return _Layout(counters, len(rows), _ALIGNMENT, offsets(shapes))


def _draw(law: Law, key: Tensor, layout: _Layout, scale: Tensor | None = None) -> Tensor:
    compiled = kernels.worth_compiling(layout.rows * layout.row)
    arguments = layout.counter, layout.rows, layout.row // 2, compiled
    numbers = kernels.numbers(law, key, *arguments, scale if compiled else None)
    return numbers if scale is None or compiled else scale * numbers


def _add_large(law: Law, key: Tensor, counter: Tensor, factor: Tensor, value: Tensor) -> Tensor:
    flat = tf.reshape(value, [-1])
    return tf.reshape(kernels.add(law, key, counter, factor, flat), value.shape)


def _draw_if(
    active: bool | Tensor, law: Law, key: Tensor, layout: _Layout, scale: Tensor
) -> Tensor:
    """What is drawn, or what adds nothing: so that the sums, each of which would be ops, are no branch's."""
    if active is True:
        return _draw(law, key, layout, scale)
    return tf.cond(
        active,
        lambda: _draw(law, key, layout, scale),
        lambda: tf.fill([layout.rows, layout.row], -0.0),  # 0 would make 0 of -0.
    )


def _large(run: Sequence[int], values: Sequence[Tensor]) -> list[int]:
    """Those of a run that get a kernel each, to add to them: none unless they are nearly all of it.

    Each size has a kernel to compile, and each kernel is a call.
    """
    sizes = {i: values[i].shape.num_elements() for i in run}
    large = [
        i
        for i in run
        if values[i].dtype == tf.float32 and sizes[i] >= _LARGE and kernels.can_add(sizes[i])
    ]
    return large if sum(sizes[i] for i in large) >= 0.9 * sum(sizes.values()) else []


def _split_rows(
    numbers: Tensor, starts: Sequence[int], shapes: Sequence[Sequence[int]]
) -> list[Tensor]:
    """The rows that each variable's numbers are in: views."""
    end = 0
    sizes: list[int] = []  # Of the gap before each variable, and of itself, in turn.
    for start, shape in zip(starts, shapes, strict=True):
        first, size = start // _ALIGNMENT, -(-prod(shape) // _ALIGNMENT)
        sizes += first - end, size
        end = first + size
    sizes.append(numbers.shape.num_elements() // _ALIGNMENT - end)
    return tf.split(tf.reshape(numbers, [-1, _ALIGNMENT]), sizes)[1::2]  # type: ignore[no-any-return]


def _cut(numbers: Tensor, starts: Sequence[int], shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    """Cuts rows of numbers into variables."""
    pieces = _split_rows(numbers, starts, shapes)
    # In a large model, ops are what the first step costs, and constants are ops.
    constants = {shape: tf.constant(shape, tf.int32) for shape in dict.fromkeys(map(tuple, shapes))}
    return [
        tf.reshape(
            piece
            if piece.shape.num_elements() == prod(shape)
            else tf.slice(tf.reshape(piece, [-1]), [0], [prod(shape)]),
            constants[tuple(shape)],
        )
        for piece, shape in zip(pieces, shapes, strict=True)
    ]


def _add(noise: Tensor, starts: Sequence[int], values: Sequence[Tensor]) -> list[Tensor]:
    """Adds to each of these values what rows of noise have for it."""
    results = list(values)
    short = [i for i, value in enumerate(values) if _is_short(value)]
    own = [starts[i] for i in short], [values[i] for i in short]
    for i, w in zip(short, _add_at_once(noise, *own) if short else [], strict=True):
        results[i] = w
    others = sorted(set(range(len(values))).difference(short))
    shapes = [tuple(values[i].shape) for i in others]
    for i, n in zip(others, _cut(noise, [starts[i] for i in others], shapes), strict=True):
        results[i] = values[i] + tf.cast(n, values[i].dtype)
    return results


def _is_short(value: Tensor) -> bool:
    """Whether it is a short vector: to flatten others takes as many ops as to add to them."""
    return bool(value.dtype == tf.float32 and value.shape.rank == 1 and value.shape[0] <= _SHORT)


def _add_at_once(noise: Tensor, starts: Sequence[int], vectors: Sequence[Tensor]) -> list[Tensor]:
    """The same of short vectors, one behind the other."""
    sizes = [vector.shape[0] for vector in vectors]
    gaps = {gap: tf.zeros([gap]) for gap in {-size % _ALIGNMENT for size in sizes}}
    rows: list[int] = []
    parts: list[Tensor] = []  # Each vector, and what fills its last row.
    for start, size, vector in zip(starts, sizes, vectors, strict=True):
        rows += range(start // _ALIGNMENT, -(-(start + size) // _ALIGNMENT))
        parts += vector, gaps[-size % _ALIGNMENT]
    own = tf.gather(tf.reshape(noise, [-1, _ALIGNMENT]), rows)
    sums = tf.concat(parts, 0) + tf.reshape(own, [-1])
    return tf.split(sums, [part.shape[0] for part in parts])[::2]  # type: ignore[no-any-return]
