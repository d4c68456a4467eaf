"""Variables and ops on each replica of the current `tf.distribute` strategy, one of them or several."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import tensorflow as tf

from keras_weightnoise._not_public import handle
from keras_weightnoise._types import Tensor


def state(value: Tensor, shape: tf.TensorShape | None = None) -> tf.Variable:
    """A variable to keep something in from step to step, one on each replica.

    Args:
        value: Its first value.
        shape: Of what it may keep. Defaults to `None`: that of the value.
    """
    return tf.Variable(value, trainable=False, shape=shape)


def stored(variable: Any) -> Any:
    """The TensorFlow variable of one of Keras's; of one of TensorFlow's, itself."""
    return variable if isinstance(variable, tf.Variable) else variable.value


def local(variable: Any) -> tuple[Any, ...]:
    """A variable's copies on this worker's replicas."""
    strategy = tf.distribute.get_strategy()
    return strategy.experimental_local_results(variable)  # type: ignore[no-any-return]


def merge_call(make: Callable[[], Any]) -> Any:
    """Runs `make` once for all replicas."""
    return tf.distribute.get_replica_context().merge_call(lambda strategy: make())


def merge_call_with(make: Callable[[list[list[Tensor]]], Any], values: list[Tensor]) -> Any:
    """Runs `make` once for all replicas, with the values that each replica has."""

    def merged(strategy: Any, values: Sequence[Any]) -> Any:
        by_value = [strategy.experimental_local_results(value) for value in values]
        return make([list(each) for each in zip(*by_value, strict=True)])

    return tf.distribute.get_replica_context().merge_call(merged, args=(values,))


def all_reduce(values: list[Tensor]) -> list[Tensor]:
    """The sums over all replicas."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return values
    return context.all_reduce(tf.distribute.ReduceOp.SUM, values)  # type: ignore[no-any-return]


def write(variable: Any, value: Any) -> Any:
    """Writes a value, or what a function returns for a replica's number, to each replica's copy."""
    ops = [
        v.assign(value(r) if callable(value) else value, read_value=False)
        for r, v in enumerate(local(variable))
    ]
    return ops[0] if len(ops) == 1 else tf.group(*made(ops))


def made(ops: Iterable[Any]) -> list[Any]:
    """Without the `None`s that stand for ops in eager mode."""
    return [op for op in ops if op is not None]


def replace_value(variable: Any, values: Sequence[Tensor]) -> None:
    """Gives each replica's copy of a state variable a value of any shape. Not in a graph."""
    for v, value in zip(local(variable), values, strict=True):
        tf.raw_ops.AssignVariableOp(resource=handle(v), value=value, validate_shape=False)


def free(variable: Any) -> None:
    """Frees the memory of a state variable, until its value is replaced. Not in a graph.

    TensorFlow keeps graphs that nothing refers to any more, and a graph keeps the variables it uses (as of
    2.21). What is not freed would outlive the objects here.
    """
    replace_value(variable, [tf.zeros([0], v.dtype) for v in local(variable)])
