"""Attributes that have another value for a while."""

import contextlib

import keras
import pytest

from keras_weightnoise._attributes import replaced


class Base:
    shared = "of the class"


class Plain(Base):
    def __init__(self):
        self.own = "its own"
        self.stored = "behind a property"

    @property
    def shown(self):
        return self.stored

    @shown.setter
    def shown(self, value):
        self.stored = value


def dense():
    layer = keras.layers.Dense(2)
    layer.build((None, 3))
    return layer


OWNERS = {
    "an attribute of its own": (Plain, "own"),
    "inherited": (Plain, "shared"),
    "a property": (Plain, "shown"),
    "not there": (Plain, "new"),
    "of a class": (lambda: type("Child", (Plain,), {"shared": 1}), "shared"),
    "inherited by a class": (lambda: type("Child", (Plain,), {}), "shared"),
    "a layer's method": (dense, "call"),
    "a layer's flag": (dense, "trainable"),
    "what Keras tracks": (dense, "bias_initializer"),
}


@pytest.mark.parametrize("name", OWNERS)
@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_what_was_there_is_put_back(name, error):
    make, attribute = OWNERS[name]
    owner = make()
    before, value = dict(vars(owner)), getattr(owner, attribute, None)

    with (
        pytest.raises(error) if error else contextlib.nullcontext(),
        replaced(owner, **{attribute: False}),
    ):
        assert getattr(owner, attribute) is False
        if error:
            raise error
    assert dict(vars(owner)) == before
    assert getattr(owner, attribute, None) == value


def test_what_is_set_is_not_tracked():
    layer, other = dense(), dense()
    with replaced(layer, call=other):
        assert layer.call is other
        assert len(layer.variables) == 2


def test_they_nest():
    owner = Plain()
    with replaced(owner, own=1, shared=2), replaced(owner, own=3):
        assert (owner.own, owner.shared) == (3, 2)
    assert (owner.own, owner.shared) == ("its own", "of the class")


def test_what_is_deleted_inside_comes_back():
    owner = Plain()
    with replaced(owner, own=1, shared=2):
        del owner.own, owner.shared
    assert (owner.own, owner.shared) == ("its own", "of the class")


def test_an_interrupt_while_it_is_put_back():
    class Interrupted(Plain):
        times = 0

        @property
        def first(self):
            return self.stored

        @first.setter
        def first(self, value):
            self.times += 1
            if self.times == 2:
                raise KeyboardInterrupt
            self.stored = value

    owner = Interrupted()
    with pytest.raises(KeyboardInterrupt), replaced(owner, first=1, own=2):
        pass
    assert (owner.first, owner.own) == ("behind a property", "its own")
