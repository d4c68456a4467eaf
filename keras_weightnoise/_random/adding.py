"""Random numbers added to weights, in fewer passes and ops than to draw them and add them takes."""

import functools
from collections.abc import Sequence
from math import prod

import tensorflow as tf

from keras_weightnoise._random import drawing, generator, kernels, short_vectors
from keras_weightnoise._random.laws import Law
from keras_weightnoise._types import Tensor

_LARGE = 750_000  # Elements: fewer are not worth a kernel compiled for their number.


def add(
    law: Law,
    key: Tensor,
    starts: Sequence[int],
    values: Sequence[Tensor],
    factors: Sequence[Tensor],
    stream: int = 0,
    active: bool | Tensor = True,
) -> list[Tensor]:
    """Adds random numbers to the values of variables: w + factor * n, with what `drawing.draw` has for n.

    The same to the bit, but where an outer graph is compiled; and faster: where nearly all are in large
    variables, it is the pass that draws them which adds; and short vectors of a size are added to at once.

    Args:
        law: See `drawing.draw`.
        key: What `generator.make_key` returns.
        starts: For each variable, where it begins: see `drawing.offsets`.
        values: For each variable, what is added to, `float32` or `float64`.
        factors: For each variable, a `float32` scalar.
        stream: See `drawing.draw`.
        active: Whether to: `True`, or a scalar tensor where all factors are the same one. If not, nothing is
            drawn, and the values come back bit for bit. Defaults to `True`.

    Returns:
        A list of tensors like the values.
    """
    shapes = [tuple(value.shape) for value in values]
    results = list(values)
    large = _large(starts, values)
    for i in large:
        counter = generator.make_counter(starts[i], stream)
        add_ = functools.partial(_add_large, law, key, counter, factors[i], values[i])
        results[i] = add_() if active is True else tf.cond(active, add_, lambda i=i: values[i])
    rest = [i for i in range(len(values)) if i not in large]
    places = [starts[i] for i in rest], [shapes[i] for i in rest]
    for group, layout in drawing.layouts(*places, stream):
        own = [rest[place] for place in group]
        clean = [values[i] for i in own]
        if all(factors[i] is factors[own[0]] for i in own):
            # The gradient of a sum is that of the value: what is drawn has none.
            noise = tf.stop_gradient(_draw_if(active, law, key, layout, factors[own[0]]))
            sums = _add(noise, layout.begins, clean)
        else:
            numbers = drawing.draw_rows(law, key, layout)
            pieces = drawing.cut(numbers, layout.begins, [shapes[i] for i in own])
            noises = [factors[i] * n for i, n in zip(own, pieces, strict=True)]
            sums = [w + tf.cast(n, w.dtype) for w, n in zip(clean, noises, strict=True)]
        for i, noisy in zip(own, sums, strict=True):
            results[i] = noisy
    return results


def is_large(shape: Sequence[int]) -> bool:
    """Whether a variable of this shape is worth a draw of its own."""
    return prod(shape) >= _LARGE


def _draw_if(
    active: bool | Tensor, law: Law, key: Tensor, layout: drawing.Layout, scale: Tensor
) -> Tensor:
    """What is drawn, or what adds nothing: so that the sums, each of which would be ops, are no branch's."""
    if active is True:
        return drawing.draw_rows(law, key, layout, scale)
    return tf.cond(
        active,
        lambda: drawing.draw_rows(law, key, layout, scale),
        lambda: tf.fill([layout.rows, layout.row], -0.0),  # 0 would make 0 of -0.
    )


def _add_large(law: Law, key: Tensor, counter: Tensor, factor: Tensor, value: Tensor) -> Tensor:
    def add(w: Tensor) -> Tensor:
        flat = tf.reshape(tf.stop_gradient(w), [-1])
        return tf.reshape(kernels.add(law, key, counter, factor, flat), value.shape)

    # A tape would look inside, and trace kernels for gradients that nobody asks for. And the gradient of an
    # embedding stays that of the rows that were read.
    return tf.grad_pass_through(add)(value)


def _large(starts: Sequence[int], values: Sequence[Tensor]) -> list[int]:
    """Those that get a kernel each, to add to them: none of a run unless they are nearly all of it.

    Each size has a kernel to compile, and each kernel is a call.
    """
    if not kernels.worth_compiling(_LARGE):
        return []
    sizes = [value.shape.num_elements() for value in values]
    found = []
    for run in drawing.runs(starts, [value.shape for value in values]):
        large = [
            i
            for i in run
            if values[i].dtype == tf.float32 and sizes[i] >= _LARGE and kernels.can_add(sizes[i])
        ]
        if sum(sizes[i] for i in large) >= 0.9 * sum(sizes[i] for i in run):
            found += large
    return found


def _add(noise: Tensor, starts: Sequence[int], values: Sequence[Tensor]) -> list[Tensor]:
    """Adds to each of these values what rows of noise have for it."""
    results = list(values)
    groups, others = short_vectors.alike([(value.dtype, value.shape) for value in values])
    for group in groups:
        own = [starts[i] for i in group], [values[i] for i in group]
        for i, w in zip(group, _add_at_once(noise, *own), strict=True):
            results[i] = w
    shapes = [tuple(values[i].shape) for i in others]
    for i, n in zip(others, drawing.cut(noise, [starts[i] for i in others], shapes), strict=True):
        results[i] = values[i] + tf.cast(n, values[i].dtype)
    return results


def _add_at_once(noise: Tensor, starts: Sequence[int], vectors: Sequence[Tensor]) -> list[Tensor]:
    """The same of short vectors of one size."""
    size = vectors[0].shape[0]
    length = -(-size // drawing.ALIGNMENT)
    firsts = [start // drawing.ALIGNMENT for start in starts]
    rows = [row for first in firsts for row in range(first, first + length)]
    table = tf.reshape(noise, [-1, drawing.ALIGNMENT])
    # Neighbours are a view.
    near = rows == list(range(rows[0], rows[0] + len(rows)))
    own = table[rows[0] : rows[0] + len(rows)] if near else tf.gather(table, rows)
    numbers = tf.reshape(own, [len(vectors), length * drawing.ALIGNMENT])
    if size != numbers.shape[1]:
        numbers = numbers[:, :size]
    return tf.unstack(tf.stack(vectors) + tf.cast(numbers, vectors[0].dtype))  # type: ignore[no-any-return]
