"""Stateless in-graph random numbers: every element of every variable has its own.

A draw is a pure function of `(seed, step, position)`. `seed` and `step` are the key of the generator and
the element's position in the model, counted over all of `model.variables`, is its counter. So no two
elements share a stream, a variable's numbers do not depend on which others are perturbed, and one call can
draw for many variables at once.
"""

import functools
import itertools
from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import tensorflow as tf

from keras_weightnoise._random import generator, kernels, laws
from keras_weightnoise._random.generator import ROW
from keras_weightnoise._random.laws import Law
from keras_weightnoise._types import Tensor

ALIGNMENT = 64  # Elements: pieces of a draw that start on 256 bytes are views, not copies.
_SHORT = 2**15  # Elements in a run: fewer are sooner drawn together than run by run.
_BATCH = 128  # Examples: what is assumed of a batch whose size is not known.
_CHOICE = 2**24 - 1  # The stream of `choose`, past those that noises count up from 0.


def offsets(shapes: Sequence[Sequence[int]]) -> list[int]:
    """The position, in elements, at which each of these variables begins."""
    starts, end = [], 0
    for shape in shapes:
        starts.append(end)
        end += -(-prod(shape) // ALIGNMENT) * ALIGNMENT
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
    results: dict[int, Tensor] = {}
    for group, layout in layouts(starts, shapes, stream):
        pieces = cut(draw_rows(law, key, layout), layout.begins, [shapes[i] for i in group])
        results |= zip(group, pieces, strict=True)
    return [results[i] for i in range(len(shapes))]


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
    counter = generator.make_counter(number * ALIGNMENT, _CHOICE)
    word, _ = generator.split(generator.threefry(key, counter))
    return tf.cast(word, tf.int64) % count


def runs(starts: Sequence[int], shapes: Sequence[Sequence[int]]) -> list[list[int]]:
    """Neighbours to draw together: where the gaps cost less than calls of their own."""
    found: list[list[int]] = []
    for i, start in enumerate(starts):
        if found:
            first, last = found[-1][0], found[-1][-1]
            end = starts[last] + prod(shapes[last])
            if 0 <= start - end <= max(ROW, (end - starts[first]) // 8):
                found[-1].append(i)
                continue
        found.append([i])
    return found


class Layout(NamedTuple):
    """Where in rows of numbers the variables begin, and what the rows are counted from."""

    counter: Tensor
    rows: int
    row: int
    begins: Sequence[int]


def layouts(
    starts: Sequence[int], shapes: Sequence[Sequence[int]], stream: int
) -> list[tuple[list[int], Layout]]:
    """What is drawn in one call: a long run of neighbours, and all those in short runs."""
    short: list[list[int]] = []
    long: list[list[int]] = []
    for run in runs(starts, shapes):
        (short if sum(prod(shapes[i]) for i in run) < _SHORT else long).append(run)
    groups = [(run, _as_run) for run in long]
    if short:
        groups.append((list(itertools.chain(*short)), _as_run if len(short) == 1 else _as_rows))
    return [
        (group, layout([starts[i] for i in group], [shapes[i] for i in group], stream))
        for group, layout in groups
    ]


def _as_run(starts: Sequence[int], shapes: Sequence[Sequence[int]], stream: int) -> Layout:
    """Neighbours, from the first to the last with the gaps between."""
    length = starts[-1] + prod(shapes[-1]) - starts[0]
    counter = generator.make_counter(starts[0], stream)
    return Layout(counter, -(-length // ROW), ROW, [start - starts[0] for start in starts])


def _as_rows(starts: Sequence[int], shapes: Sequence[Sequence[int]], stream: int) -> Layout:
    """One behind the other, each row counted from where it is."""
    rows = [
        row
        for start, shape in zip(starts, shapes, strict=True)
        for row in range(start, start + prod(shape), ALIGNMENT)
    ]
    counters = generator.make_counters(rows, stream)
    return Layout(counters, len(rows), ALIGNMENT, offsets(shapes))


def draw_rows(law: Law, key: Tensor, layout: Layout, scale: Tensor | None = None) -> Tensor:
    """Draws all rows of a layout, times a scale if there is one."""
    compiled = kernels.worth_compiling(layout.rows * layout.row)
    arguments = layout.counter, layout.rows, layout.row // 2, compiled
    numbers = kernels.numbers(law, key, *arguments, scale if compiled else None)
    return numbers if scale is None or compiled else scale * numbers


def _split_rows(
    numbers: Tensor, starts: Sequence[int], shapes: Sequence[Sequence[int]]
) -> list[Tensor]:
    """The rows that each variable's numbers are in: views."""
    end = 0
    sizes: list[int] = []  # Of the gap before each variable, and of itself, in turn.
    for start, shape in zip(starts, shapes, strict=True):
        first, size = start // ALIGNMENT, -(-prod(shape) // ALIGNMENT)
        sizes += first - end, size
        end = first + size
    sizes.append(numbers.shape.num_elements() // ALIGNMENT - end)
    return tf.split(tf.reshape(numbers, [-1, ALIGNMENT]), sizes)[1::2]  # type: ignore[no-any-return]


def cut(numbers: Tensor, starts: Sequence[int], shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    """Cuts rows of numbers into variables."""
    # In a large model, ops are what the first step costs, and constants are ops: each once.
    constant = functools.cache(lambda *values: tf.constant(values, tf.int32))

    def in_shape(piece: Tensor, shape: Sequence[int]) -> Tensor:
        length = prod(shape)
        if piece.shape.num_elements() != length:
            flat = tf.reshape(piece, constant(-1))
            piece = tf.slice(flat, constant(0), constant(length))
        return tf.reshape(piece, constant(*shape))

    pieces = _split_rows(numbers, starts, shapes)
    return [in_shape(*each) for each in zip(pieces, shapes, strict=True)]
