"""Hearing of every update by an optimizer, whoever holds it and whatever its class overrides."""

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from keras_weightnoise._attributes import replaced
from keras_weightnoise._types import VARIABLE_TYPES

# `apply_gradients` calls `apply`, unless a subclass overrides it.
_METHODS = ("apply", "apply_gradients")


@dataclasses.dataclass
class Update:
    """One update, from when the first optimizer is called until it returns.

    Attributes:
        optimizer: The one that was called.
        variables: What it is about to update; `None`: the variables it was built with.
        gradients: What it was called with, one for each of these. A listener may put others in their place.
        made: Whether the optimizer makes it. A listener may say no.
        passed_on: The optimizers that were called meanwhile: those inside of it, or itself by `super`.
    """

    optimizer: Any
    variables: list[Any] | None
    gradients: list[Any]
    made: bool = True
    passed_on: list[Any] = dataclasses.field(default_factory=list)


# Is told of an update. Returns a context for it, with a tensor that it has to wait for, or `None`.
Listener = Callable[[Update], contextlib.AbstractContextManager[Any]]


class _Hearing(threading.local):
    listener: Listener | None = None
    update: Update | None = None


_hearing = _Hearing()
_lock = threading.Lock()
_installed = contextlib.ExitStack()
_users = 0


@contextlib.contextmanager
def intercepting() -> Iterator[None]:
    """Within it, each update is told to what `listening` names, in the threads that it names it in."""
    global _users
    # Training may go on in other threads, with noise and without.
    with _lock:
        _users += 1
        if _users == 1:
            for cls in _classes():
                if names := [name for name in _METHODS if _defines(cls, name)]:
                    telling = {name: _telling(getattr(cls, name)) for name in names}
                    _installed.enter_context(replaced(cls, **telling))
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                _installed.close()


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Within it, `listener` hears of each update in this thread, also of one inside of another."""
    before = _hearing.listener, _hearing.update
    _hearing.listener, _hearing.update = listener, None
    try:
        yield
    finally:
        _hearing.listener, _hearing.update = before


def _classes() -> list[Any]:
    """The classes of optimizers there are now: looked for in each step, as more may have been defined."""
    found: list[Any] = [keras.optimizers.Optimizer]
    for cls in found:  # Grows meanwhile.
        found += cls.__subclasses__()
    return found


def _defines(cls: Any, name: str) -> bool:
    # Keras's public base class inherits them from one that is not public.
    return name in vars(cls) or cls is keras.optimizers.Optimizer


def _telling(method: Callable[..., Any]) -> Callable[..., Any]:
    # AutoGraph may convert this, in a `train_step` that is a `tf.function`: then it does the method too.
    def tell_and_update(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _told(self, args, kwargs) as (made, args, kwargs):
            return method(self, *args, **kwargs) if made else self.iterations

    return tell_and_update


@tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
@contextlib.contextmanager
def _told(
    optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Iterator[tuple[bool, tuple[Any, ...], dict[str, Any]]]:
    """Within it, an update is made, and has been told. Yields whether it is, and with what arguments."""
    if _hearing.listener is None:
        yield True, args, kwargs
        return
    if _hearing.update is not None:  # One optimizer passes it on to another, or `super` is called.
        _hearing.update.passed_on.append(optimizer)
        yield True, args, kwargs
        return
    # An iterator, such as `zip(gradients, variables)`, can be read once.
    args = tuple(list(arg) if isinstance(arg, Iterator) else arg for arg in args)
    kwargs = {k: list(arg) if isinstance(arg, Iterator) else arg for k, arg in kwargs.items()}
    gradients = _gradients(args, kwargs)
    update = _hearing.update = Update(optimizer, _variables(args, kwargs), gradients)
    try:
        _build(update)
        with (
            _hearing.listener(update) as token,
            tf.control_dependencies([] if token is None else [token]),
        ):
            if update.gradients is not gradients:
                args, kwargs = _with_gradients(update.gradients, args, kwargs)
            yield update.made, args, kwargs
    finally:
        _hearing.update = None


def _variables(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any] | None:
    """The variables among the arguments of `apply` or `apply_gradients`, however they are named."""
    if args and isinstance(args[0], list | tuple) and not args[0]:
        return []  # No gradients.
    for argument in (*args[1:], *kwargs.values()):  # apply(grads, trainable_variables)
        if _are_variables(argument):
            return list(argument)
    for argument in (*args, *kwargs.values()):  # apply_gradients([(grad, variable), ...])
        if _are_pairs(argument):
            return [variable for _, variable in argument]
    return None


def _gradients(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """The gradients among the arguments."""
    place = _place(args, kwargs)
    if place is None:
        return []
    argument = args[place] if isinstance(place, int) else kwargs[place]
    return [gradient for gradient, _ in argument] if _are_pairs(argument) else list(argument)


def _with_gradients(
    gradients: list[Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with these gradients in place of those there are."""
    place = _place(args, kwargs)
    before = args[place] if isinstance(place, int) else kwargs[str(place)]
    after: list[Any] = gradients
    if _are_pairs(before):
        after = [(g, variable) for g, (_, variable) in zip(gradients, before, strict=True)]
    if isinstance(place, int):
        return (*args[:place], after, *args[place + 1 :]), kwargs
    return args, {**kwargs, str(place): after}


def _place(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | str | None:
    """Which argument has the gradients: its position or its name."""
    places: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
    for place, argument in places:
        if isinstance(argument, list | tuple) and not _are_variables(argument):
            return place
    return None


def _are_pairs(values: Any) -> bool:
    """Whether these are pairs of a gradient and a variable."""
    return (
        isinstance(values, list | tuple)
        and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in values)
        and _are_variables([variable for _, variable in values])
    )


def _are_variables(values: Any) -> bool:
    return (
        isinstance(values, list | tuple)
        and bool(values)
        and all(isinstance(value, VARIABLE_TYPES) for value in values)
    )


def _build(update: Update) -> None:
    """Builds an optimizer as `apply` does, but without waiting.

    In a graph, what makes variables must not depend on anything there. Eagerly, `apply` itself does it:
    after the clean values are back, which an optimizer may copy.
    """
    optimizer = update.optimizer
    if tf.executing_eagerly() or not update.variables or optimizer.built:
        return
    with keras.name_scope(optimizer.name, caller=optimizer):
        optimizer.build(update.variables)
    optimizer.built = True
