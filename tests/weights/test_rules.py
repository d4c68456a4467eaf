"""Different noise for different variables."""

import keras
import pytest

from keras_weightnoise import noises
from keras_weightnoise._weights.rules import assign, get_rules
from keras_weightnoise.schedules import LinearRamp

A, B, C = noises.Gaussian(0.1), noises.DropConnect(0.2), noises.LogNormal(0.3)


def network():
    x = inputs = keras.Input((3,))
    for name in ("first", "second", "last"):
        x = keras.layers.Dense(2, name=name)(x)
    return keras.Model(inputs, x)


KERNELS = ["first/kernel", "second/kernel", "last/kernel"]
BIASES = ["first/bias", "second/bias", "last/bias"]

RULES = {
    "a number": (0.1, [(None, A)]),
    "a noise": (B, [(None, B)]),
    "a composition": (A + B, [(None, A + B)]),
    "serialized": (keras.saving.serialize_keras_object(B), [(None, B)]),
    "pairs": ([("kernels", A), ("bias", B)], [("kernels", A), ("bias", B)]),
    "pairs of numbers": ((("a", 0.1), [None, 0.1]), [("a", A), (None, A)]),
    "a mapping": ({"kernels": 0.1, None: B}, [("kernels", A), (None, B)]),
}


@pytest.mark.parametrize(("argument", "rules"), RULES.values(), ids=RULES)
def test_rules(argument, rules):
    assert get_rules(argument) == rules


def test_a_schedule_is_a_noise():
    ramp = LinearRamp(0.0, 0.1, 0, 5)
    assert get_rules(ramp) == [(None, noises.Gaussian(ramp))]


@pytest.mark.parametrize(
    ("argument", "error"),
    [
        ([], ValueError),
        ({}, ValueError),
        (["kernels", 0.1], TypeError),
        (("kernels", 0.1), TypeError),
        ([("kernels", 0.1, 3)], TypeError),
        (["ab"], TypeError),
        ([("kernels", "loud")], TypeError),
        ([("(", 0.1)], ValueError),
        ([(3, 0.1)], TypeError),
        ([("kernels", -0.1)], ValueError),
        ("kernels", TypeError),
        (None, TypeError),
    ],
)
def test_bad_rules(argument, error):
    with pytest.raises(error, match=r"Invalid `noise`\. Expected .* Received: noise="):
        get_rules(argument)


ASSIGNED = {
    "one": (A, {}, [KERNELS + BIASES]),
    "disjoint": ([("kernels", A), ("bias", B)], {}, [KERNELS, BIASES]),
    "the first match wins": (
        [("first", A), ("kernels", B), (None, C)],
        {},
        [["first/kernel", "first/bias"], KERNELS[1:], BIASES[1:]],
    ),
    "the same, otherwise ordered": (
        [("kernels", B), ("first", A), (None, C)],
        {},
        [KERNELS, ["first/bias"], BIASES[1:]],
    ),
    "some are left clean": ([("last", A)], {}, [["last/kernel", "last/bias"]]),
    "with variables and exclude": (
        [("kernels", A), (None, B)],
        {"variables": "first|last", "exclude": "last/bias"},
        [["first/kernel", "last/kernel"], ["first/bias"]],
    ),
}


@pytest.mark.parametrize(("noise", "chosen", "paths"), ASSIGNED.values(), ids=ASSIGNED)
def test_assigned(noise, chosen, paths):
    rules = get_rules(noise)
    assigned = assign(network(), rules, **chosen)
    assert [noise for noise, _ in assigned] == [noise for _, noise in rules]
    assert [sorted(t.variable.path for t in targets) for _, targets in assigned] == [
        sorted(each) for each in paths
    ]


@pytest.mark.parametrize("selector", ["nowhere", keras.layers.Conv2D])
def test_nothing_matched(selector):
    with pytest.raises(ValueError, match=r"`noise` matches no(.|\n)*first/kernel"):
        assign(network(), get_rules([("kernels", A), (selector, B)]))


def test_nothing_left():
    with pytest.raises(ValueError, match=r"without variables.*Expected.*Received: noise=.*'last'"):
        assign(network(), get_rules([(None, A), ("last", B)]))
