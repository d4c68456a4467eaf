"""Which bits of weights are flipped."""

from collections.abc import Sequence

import tensorflow as tf

from keras_weightnoise._types import Tensor

_WORD = 32
_DIGITS = 16  # Binary, of the number that each bit has to itself.


def by_rate(rate: Tensor, x: Tensor, y: Tensor, positions: Sequence[int]) -> Tensor:
    """Flips each of some bits of a weight with a probability.

    A bit is flipped where a number of its own, uniform on [0, 1), is below the rate: so those at one rate are
    among those at each higher one. The numbers' first binary digits are compared for all bits at once: a
    word has one digit of 32 bits, or several of fewer. Words are those of xoroshiro64 (Blackman and Vigna,
    2021), which two random words seed for each weight: any three bits are independent, to the last digit in
    spans of 8, 16 or 32, in others nearly. The digits that follow are one number for all bits of a weight.

    Args:
        rate: A scalar in [0, 1].
        x: `int32`, for each weight a random word.
        y: And another.
        positions: Numbers of the bits that may be flipped, from the least significant.

    Returns:
        `int32`: for each weight, a word that has 1 in the bits that are flipped.
    """
    span = positions[-1] - positions[0] + 1
    scaled = rate * 2.0**_DIGITS
    whole = tf.minimum(tf.floor(scaled), 2.0**_DIGITS - 1.0)
    threshold = tf.cast(whole, tf.uint32)
    state = tf.bitcast(x, tf.uint32), tf.bitcast(y, tf.uint32)
    below, equal = tf.zeros_like(state[0]), ~tf.zeros_like(state[0])
    for i in range(_DIGITS):
        part = i % (_WORD // span)
        if part == 0:
            word, state = state[0], _next(*state)
        digits = tf.bitwise.right_shift(word, part * span)
        digit = tf.bitwise.right_shift(threshold, _DIGITS - 1 - i) & 1  # All of them 0 or 1.
        ones = tf.zeros_like(digit) - digit
        below |= equal & ones & ~digits
        equal &= ~(ones ^ digits)
    rest = tf.cast(tf.bitwise.right_shift(state[0], 8), rate.dtype) * 2.0**-24
    flips = tf.bitcast(tf.where(rest < scaled - whole, below | equal, below), tf.int32)
    chosen = sum(1 << bit - positions[0] for bit in positions)
    return tf.bitwise.left_shift(flips & _signed(chosen), positions[0])


def by_count(count: Tensor, draws: Sequence[Tensor], positions: Sequence[int]) -> Tensor:
    """Flips the bits whose numbers are the smallest: exactly so many, also where two are equal.

    Args:
        count: A scalar.
        draws: For each bit, a uniform number for each weight.
        positions: See `by_rate`.

    Returns:
        See `by_rate`.
    """
    numbers = tf.reshape(tf.abs(tf.stack(draws)), [-1])
    order = tf.argsort(numbers, stable=True)
    first = tf.range(tf.size(order)) < tf.cast(count, tf.int32)
    hits = tf.scatter_nd(order[:, None], tf.cast(first, tf.int32), tf.shape(order))
    hits = tf.reshape(hits, [len(draws), *draws[0].shape])
    return tf.add_n([hits[i] * _signed(1 << bit) for i, bit in enumerate(positions)])


def _next(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    y ^= x
    return _rotate(x, 26) ^ y ^ tf.bitwise.left_shift(y, 9), _rotate(y, 13)


def _rotate(word: Tensor, turns: int) -> Tensor:
    return tf.bitwise.left_shift(word, turns) | tf.bitwise.right_shift(word, _WORD - turns)


def _signed(word: int) -> int:
    """The `int32` of these 32 bits."""
    return word - 2**_WORD if word >= 2 ** (_WORD - 1) else word
