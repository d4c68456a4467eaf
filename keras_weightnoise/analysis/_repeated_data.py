"""What models are evaluated on, to read any number of times."""

import functools
import math
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_weightnoise._checks import check_count, is_number


class RepeatedData:
    """What `evaluate` or `predict` takes, to pass on any number of times.

    Args:
        name: The argument's name, for errors.
        data: A tuple `(x, y)` or `(x, y, sample_weight)` of arrays; a `tf.data.Dataset`, a
            `keras.utils.PyDataset`, or whatever else Keras takes as `x`. An iterator, which can be
            read only once, is read here, and its batches are kept.
        batch_size: Examples in a batch of arrays, or `None`.
        steps: How many batches to use, or `None` for all.
    """

    def __init__(
        self, name: str, data: Any, batch_size: int | None = None, steps: int | None = None
    ) -> None:
        if data is None or is_number(data) or isinstance(data, str | type) or callable(data):
            raise TypeError(
                f"Invalid `{name}`. Expected a tuple of arrays (x, y), a `tf.data.Dataset`, or whatever else "
                "`model.evaluate` takes (of a generator function, what it returns). "
                f"Received: {name}={data!r} (of type {type(data).__name__})"
            )
        for key, value in (("batch_size", batch_size), ("steps", steps)):
            if value is not None:
                check_count(key, value)
        batched = isinstance(data, tf.data.Dataset | keras.utils.PyDataset | Iterator)
        if batched and batch_size is not None:
            raise ValueError(
                f"`{name}` comes in batches of its own. Expected `batch_size=None`. "
                f"Received: batch_size={batch_size}"
            )
        self._batches = _read(name, data, steps) if isinstance(data, Iterator) else None
        if isinstance(data, tuple) and len(data) not in (2, 3):
            raise ValueError(
                f"Invalid `{name}`. Expected a tuple to be (x, y) or (x, y, sample_weight). "
                f"Received: a tuple of {len(data)}"
            )
        if _is_empty(data):
            raise ValueError(f"`{name}` is empty. Expected at least one example. Received: none")
        if (
            isinstance(data, tf.data.Dataset)
            and steps is None
            and data.cardinality() == tf.data.INFINITE_CARDINALITY
        ):
            raise ValueError(f"`{name}` has no end. Expected `steps`. Received: steps=None")
        self._name = name
        self._data = () if self._batches is not None else data
        self._options = {"batch_size": batch_size, "steps": steps}

    def check_targets(self, model: Any) -> None:
        """Raises if a model's loss will miss the targets, which Keras says in words of its own."""
        if model.loss is None or type(model).test_step is not keras.Model.test_step:
            return
        data = self._data
        if isinstance(data, list) and len(data) in (2, 3) and _is_one_input(model):
            received = f"a list of {len(data)}"
        elif isinstance(data, tf.data.Dataset) and not isinstance(data.element_spec, tuple):
            received = f"a dataset of {data.element_spec}"
        elif isinstance(data, list | dict | np.ndarray) or tf.is_tensor(data):
            received = f"inputs alone (of type {type(data).__name__})"
        else:
            return
        raise ValueError(
            f"Invalid `{self._name}`. Model {model.name!r} has a loss, which needs targets. Expected a "
            "tuple (x, y) or (x, y, sample_weight), or batches of such tuples. "
            f"Received: {received}"
        )

    def inputs(self) -> dict[str, Any]:
        """The arguments of `predict`."""
        if self._batches is not None:
            return {"x": (batch for batch in self._batches), "steps": len(self._batches)}
        if self._dataset is not None:
            return {"x": self._dataset, "steps": self._options["steps"]}
        x = self._data[0] if isinstance(self._data, tuple) else self._data
        return {"x": x, **self._options}

    def labelled(self) -> tuple[dict[str, Any], Any]:
        """The arguments of `predict`, and the targets in the same order. Batches are read, and kept."""
        size, steps = self._options["batch_size"], self._options["steps"]
        if isinstance(self._data, tuple) and len(self._data) == 2:
            x, y = self._data
            if steps and size:  # Else Keras makes as many batches of all that there is.
                x, y = keras.tree.map_structure(lambda a: a[: steps * size], (x, np.asarray(y)))
        else:
            batches = self._labelled_batches(steps)
            x, y = keras.tree.map_structure(lambda *parts: np.concatenate(parts), *batches)
            size = len(keras.tree.flatten(batches[0])[0])
        return RepeatedData(self._name, (x, y), size).inputs(), y

    def _labelled_batches(self, steps: int | None) -> list[Any]:
        batches = self._batches or []
        if isinstance(self._data, keras.utils.PyDataset):
            batches = [self._data[i] for i in range(steps or self._data.num_batches)]
        elif isinstance(self._data, tf.data.Dataset):
            batches = list(self._data.take(steps or -1))
        if not (batches and all(isinstance(each, tuple) and len(each) == 2 for each in batches)):
            kind = type(batches[0] if batches else self._data).__name__
            raise ValueError(
                f"Invalid `{self._name}`. Expected a tuple of arrays (x, y), or batches of such tuples. "
                f"Received: {'batches' if batches else self._name} of type {kind}"
            )
        return batches

    def examples(self) -> dict[str, Any]:
        """The arguments of `evaluate`."""
        if not isinstance(self._data, tuple) or self._dataset is not None:
            return self.inputs()
        return {**self.inputs(), **dict(zip(("y", "sample_weight"), self._data[1:], strict=False))}

    def __getstate__(self) -> dict[str, Any]:
        # Datasets cannot be copied.
        return {name: value for name, value in vars(self).items() if name != "_dataset"}

    @functools.cached_property
    def _dataset(self) -> tf.data.Dataset | None:
        return _as_dataset(self._data, **self._options)


def _as_dataset(data: Any, batch_size: int | None, steps: int | None) -> tf.data.Dataset | None:
    """The batches that Keras makes of arrays: it traces graphs for that in each call, for 50 ms.

    `None` for what is not plain arrays of numbers, in which Keras knows its way.
    """
    parts = data if isinstance(data, tuple) else (data,)
    if len(parts) == 3 and keras.tree.is_nested(parts[1]):
        return None  # Keras knows which weights are those of which targets.
    if not isinstance(data, tuple | np.ndarray) or not all(
        map(_is_plain, keras.tree.flatten(parts))
    ):
        return None
    lengths = {len(array) for array in keras.tree.flatten(parts)}
    if len(lengths) != 1:
        return None  # An error of Keras's.
    size = batch_size or (math.ceil(max(lengths) / steps) if steps else 32)
    arrays = keras.tree.map_structure(_in_floatx, keras.tree.lists_to_tuples(data))
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    batches = tf.data.Dataset.from_tensor_slices(arrays).batch(size)
    return batches.prefetch(tf.data.AUTOTUNE).with_options(options)


def _is_empty(data: Any) -> bool:
    """Whether there is nothing to evaluate on, of which Keras speaks in other words, or not at all."""
    if isinstance(data, tf.data.Dataset):
        return int(data.cardinality()) == 0
    arrays = keras.tree.flatten(data) if isinstance(data, tuple | list | dict) else [data]
    return any(getattr(array, "shape", None) and array.shape[0] == 0 for array in arrays)


def _is_plain(array: Any) -> bool:
    return type(array) is np.ndarray and array.dtype.kind in "biuf" and array.size > 0


def _in_floatx(array: np.ndarray) -> np.ndarray:
    return array.astype(keras.config.floatx(), copy=False) if array.dtype.kind == "f" else array


def _is_one_input(model: Any) -> bool:
    return len(getattr(model, "inputs", None) or [None]) == 1


def _read(name: str, data: Iterator[Any], steps: int | None) -> list[Any]:
    batches: list[Any] = []
    # Asked for no more than `steps`: what others read from it goes on where this ended.
    while steps is None or len(batches) < steps:
        try:
            batch = next(data)
        except StopIteration:
            break
        # A generator may fill the same array again.
        batches.append(
            keras.tree.map_structure(lambda a: a.copy() if isinstance(a, np.ndarray) else a, batch)
        )
    if not batches or (steps is not None and len(batches) < steps):
        raise ValueError(
            f"`{name}` ended too soon. Expected {'at least one batch' if steps is None else steps}. "
            f"Received: {len(batches)} batches"
        )
    return batches
