"""Attributes that have another value for a while."""

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def replaced(owner: Any, **values: Any) -> Iterator[None]:
    """Within it, attributes have these values; after it, `owner` is what it was.

    An attribute of the object's own comes back as it was. One that the object only inherited is deleted
    again. A property gets back the value that it had.

    Args:
        owner: An object or a class. Keras does not track what is set.
        **values: The values, by the attributes' names.
    """
    own = {name: value for name, value in vars(owner).items() if name in values}
    own |= {name: getattr(owner, name) for name in values if _is_property(owner, name)}
    try:
        for name, value in values.items():
            _set(owner, name, value)
        yield
    finally:
        try:
            _put_back(owner, values, own)
        except BaseException:  # An interrupt came between.
            _put_back(owner, values, own)
            raise


def _put_back(owner: Any, names: Any, own: dict[str, Any]) -> None:
    for name in names:
        if name in own:
            _set(owner, name, own[name])
        elif name in vars(owner):
            _kind(owner).__delattr__(owner, name)


def _set(owner: Any, name: str, value: Any) -> None:
    _kind(owner).__setattr__(owner, name, value)


def _kind(owner: Any) -> Any:
    """The base class whose `__setattr__` and `__delattr__` do nothing else."""
    return type if isinstance(owner, type) else object


def _is_property(owner: Any, name: str) -> bool:
    # Not `inspect.getattr_static`, which takes longer than all else that is done here in a training step.
    found = (vars(cls)[name] for cls in type(owner).__mro__ if name in vars(cls))
    return inspect.isdatadescriptor(next(found, None))
