"""Hearing of every `apply` of an optimizer, whoever holds the optimizer."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

# Those Keras classes that have an `apply` of their own. A subclass that overrides it calls theirs.
_CLASSES: tuple[Any, ...] = (keras.optimizers.Optimizer, keras.optimizers.LossScaleOptimizer)

_lock = threading.Lock()
_installed: list[tuple[Any, Any]] = []
_users = 0
_listener = threading.local()

# Is told the optimizer and the variables it is about to update (`None`: those it was built with), and
# returns a tensor that the update has to wait for, or `None`.
Listener = Callable[[Any, "list[Any] | None"], Any]


@contextlib.contextmanager
def intercepting() -> Iterator[None]:
    """Within it, `apply` calls what `listening` names, in the threads that it names it in."""
    global _users
    # Training may go on in other threads, with noise and without.
    with _lock:
        _users += 1
        if not _installed:
            for cls in _CLASSES:
                own = vars(cls).get("apply")
                _installed.append((cls, own))
                cls.apply = _telling(cls.apply)
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            while not _users and _installed:
                cls, own = _installed.pop()
                if own is None:
                    del cls.apply
                else:
                    cls.apply = own


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Within it, `listener` hears of each `apply` in this thread."""
    before = getattr(_listener, "value", None)
    _listener.value = listener
    try:
        yield
    finally:
        _listener.value = before


def _telling(apply: Callable[..., Any]) -> Callable[..., Any]:
    def tell_and_apply(
        self: Any, grads: Any, trainable_variables: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        listener: Listener | None = getattr(_listener, "value", None)
        if listener is None:
            return apply(self, grads, trainable_variables, *args, **kwargs)
        if trainable_variables is not None:
            trainable_variables = list(trainable_variables)
            if not self.built:
                # As `apply` does, but without waiting: what makes variables must not depend on
                # anything in the graph.
                with keras.name_scope(self.name, caller=self):
                    self.build(trainable_variables)
                self.built = True
        token = listener(self, trainable_variables)
        with tf.control_dependencies([] if token is None else [token]):
            return apply(self, grads, trainable_variables, *args, **kwargs)

    return tell_and_apply
