"""The kernels that draw: compiled by XLA where that is faster, plain ops elsewhere. The same numbers.

A compiled one goes from the key to the numbers, or to the weights they are added to, in one pass: nothing of
their size is kept in between. The two words of a pair become the two parts of a complex number: so XLA makes
both at once, and writes one behind the other. Seen as floats, that is the result.
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from math import gcd
from typing import Any

import tensorflow as tf

from keras_weightnoise._random import generator
from keras_weightnoise._random.laws import Law
from keras_weightnoise._types import Tensor

_COMPILED = 2**13  # Elements: fewer are drawn sooner than a kernel for them is compiled.


class _Graphs(threading.local):
    outside_xla = False


_graphs = _Graphs()


@contextlib.contextmanager
def outside_xla() -> Iterator[None]:
    """Within it, the graphs that are made are known not to be compiled by XLA, and need kernels alone."""
    before, _graphs.outside_xla = _graphs.outside_xla, True
    try:
        yield
    finally:
        _graphs.outside_xla = before


def numbers(
    law: Law,
    key: Tensor,
    counter: Tensor,
    rows: int | Tensor,
    width: int,
    compiled: bool,
    factor: Tensor | None = None,
) -> Tensor:
    """Random numbers in rows, times a factor if there is one.

    Args:
        law: One of those in `laws`.
        key: What `generator.make_key` returns.
        counter: A scalar `uint64`, from which all are counted; or one for each row, `[rows, 1]`.
        rows: How many rows.
        width: Pairs of numbers in a row.
        compiled: Whether compiled code should draw them.
        factor: A `float32` scalar. Defaults to `None`.
    """
    arguments = key, counter, tf.convert_to_tensor(rows), factor
    shape = [-1 if tf.is_tensor(rows) else rows, 2 * width]

    def by_ops() -> Tensor:
        return tf.reshape(_numbers_by_ops(law, width)(*arguments), shape)

    def by_kernel() -> Tensor:
        return _as_numbers(_numbers_kernel(law, width)(*arguments), law, shape)

    return _unless_in_xla(by_kernel, by_ops) if compiled else by_ops()


def add(law: Law, key: Tensor, counter: Tensor, factor: Tensor, weights: Tensor) -> Tensor:
    """Adds random numbers, times a factor, to a `float32` vector: of a length that `can_add` likes."""
    (length,) = weights.shape
    width = _width(length)
    # Told to the kernel: where it knows them by itself, it keeps all counters, half of the weights' size.
    rows = tf.constant(length // (2 * width))

    def by_ops() -> Tensor:
        n = _numbers_by_ops(law, width)(key, counter, rows, factor)
        return weights + tf.reshape(n, [length])

    def by_kernel() -> Tensor:
        sums = _add_kernel(law, width)(key, counter, rows, factor, weights)
        return _as_numbers(sums, law, [length])

    return _unless_in_xla(by_kernel, by_ops)


def can_add(length: int) -> bool:
    """Whether so many weights can be cut into rows that are added to fast."""
    # Others are left to code for one number at a time, ten times as slow.
    return length % 16 == 0


def _width(length: int) -> int:
    """Pairs in a row, of so many elements in rows."""
    return gcd(length // 2, 512)


@functools.cache
def _numbers_by_ops(law: Law, width: int) -> Callable[..., Tensor]:
    def numbers(key: Tensor, counter: Tensor, rows: Tensor, factor: Tensor | None) -> Tensor:
        words = generator.make_words(key, counter, _steps(counter, rows, width))
        return _times(factor, law.transform(words))

    # Its ops are hundreds, and a call of it is one: else, tracing a step would be tracing the generator. Not
    # inlined, or Grappler would make in advance, of a length that is constant, what may never be asked for.
    return tf.function(  # type: ignore[no-any-return]
        numbers, autograph=False, experimental_attributes={"_noinline": True}
    )


@functools.cache
def _numbers_kernel(law: Law, width: int) -> Callable[..., Tensor]:
    def numbers(key: Tensor, counter: Tensor, rows: Tensor, factor: Tensor | None) -> Tensor:
        halves = generator.make_halves(key, counter, _steps(counter, rows, width))
        parts = (_times(factor, law.transform(words)) for words in halves)
        return tf.complex(*(tf.bitcast(part, tf.float32) for part in parts))

    return _compile(numbers)


@functools.cache
def _add_kernel(law: Law, width: int) -> Callable[..., Tensor]:
    def add(key: Tensor, counter: Tensor, rows: Tensor, factor: Tensor, weights: Tensor) -> Tensor:
        pairs = tf.reshape(weights, [-1, width, 2])
        steps = _steps(counter, rows, width)
        parts = []
        for i, words in enumerate(generator.make_halves(key, counter, steps)):
            n = factor * law.transform(words)
            # Rounded before it is added, as numbers that are kept are: a product goes into a sum unrounded.
            parts.append(pairs[..., i] + tf.minimum(n, tf.float32.max))
        return tf.complex(*parts)

    return _compile(add)


def _steps(counter: Tensor, rows: Tensor, width: int) -> Tensor:
    return generator.make_steps(1 if counter.shape.rank else rows, width)


def _times(factor: Tensor | None, numbers: Tensor) -> Tensor:
    return numbers if factor is None else factor * numbers


def _as_numbers(pairs: Tensor, law: Law, shape: Sequence[int]) -> Tensor:
    return tf.reshape(tf.bitcast(pairs, law.dtype), shape)


def _unless_in_xla(kernel: Callable[[], Tensor], ops: Callable[[], Tensor]) -> Tensor:
    """Calls a kernel; within a graph that XLA compiles, ops: there, complex numbers are never seen as floats.

    Whether XLA compiles a graph is not known while it is traced, unless `outside_xla` says so.
    """
    if tf.executing_eagerly() or _graphs.outside_xla:
        return kernel()
    on_cpu = tf.raw_ops.DeviceIndex(device_names=["CPU"])  # To XLA, no device is one of these.
    return tf.switch_case(on_cpu, [kernel], default=ops)


def _compile(function: Callable[..., Any]) -> Callable[..., Any]:
    # Of partials, which have no code of their own, TensorFlow does not warn that the same code is traced
    # again and again.
    return tf.function(  # type: ignore[no-any-return]
        functools.partial(function), jit_compile=True, autograph=False
    )


def compiled(function: Callable[..., Any], elements: int) -> Callable[..., Any]:
    """A function of tensors with so many elements as the first: fused by XLA where that is faster.

    Elsewhere it is one call, too: of a large model's many small variables, each op would count, in each eager
    draw and in tracing a step.
    """
    return _kernel(function) if worth_compiling(elements) else _call(function)


@functools.cache
def _kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    return _compile(function)


@functools.cache
def _call(function: Callable[..., Any]) -> Callable[..., Any]:
    traced = tf.function(
        functools.partial(function),
        autograph=False,
        reduce_retracing=True,  # Few traces, of whatever shape.
        experimental_attributes={"_noinline": True},
    )

    def call(first: Tensor, *others: Tensor) -> Any:
        results = traced(first, *others)
        for result in tf.nest.flatten(results):
            result.set_shape(first.shape)
        return results

    return call


def worth_compiling(elements: int) -> bool:
    """Whether so many are drawn faster by compiled code."""
    return elements >= _COMPILED and xla_works()


@functools.cache
def xla_works() -> bool:
    """Whether this build of TensorFlow can compile for this machine, and that is known to be fast."""
    if tf.config.get_visible_devices("GPU"):
        return False  # Never measured there.
    try:
        with tf.init_scope():
            tf.function(lambda: tf.zeros(()), jit_compile=True)()
    except (tf.errors.OpError, ValueError):
        return False
    return True
