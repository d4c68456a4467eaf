"""Which variables are selected."""

import re

import keras
import pytest
import tensorflow as tf

from keras_weightnoise._weights import selection, selectors

L = keras.layers


def network():
    inputs = keras.Input((6, 6, 1))
    x = L.Conv2D(2, 3, name="conv")(inputs)
    x = L.BatchNormalization(name="norm")(x)
    x = L.Flatten()(x)
    x = L.Dropout(0.5, name="drop")(x)
    frozen = L.Dense(4, name="frozen")
    frozen.trainable = False
    x = frozen(x)
    shared = L.Dense(4, name="shared")
    x = shared(shared(x))
    x = L.Reshape((2, 2))(x)
    x = L.Bidirectional(L.GRU(3, name="gru"), name="both")(x)
    return keras.Model(inputs, L.Dense(2, name="head")(x), name="net")


CONV, NORM = {"conv/kernel", "conv/bias"}, {"norm/gamma", "norm/beta"}
SHARED, HEAD = {"shared/kernel", "shared/bias"}, {"head/kernel", "head/bias"}
GRU = {
    f"both/{way}_gru/gru_cell/{name}"
    for way in ("forward", "backward")
    for name in ("kernel", "recurrent_kernel", "bias")
}
EVERYTHING = CONV | NORM | SHARED | HEAD | GRU
KERNELS_ONLY = {path for path in EVERYTHING if path.endswith("kernel")}

SELECTIONS = {
    "all": (lambda m: None, lambda m: None, EVERYTHING),
    "kernels": (lambda m: "kernels", lambda m: None, KERNELS_ONLY),
    "regex": (lambda m: "conv|head", lambda m: None, CONV | HEAD),
    "regex, end": (
        lambda m: "(?<!recurrent_)kernel$",
        lambda m: None,
        {path for path in KERNELS_ONLY if "recurrent" not in path},
    ),
    "layer": (lambda m: m.get_layer("both"), lambda m: None, GRU),
    "class": (lambda m: L.Dense, lambda m: None, SHARED | HEAD),
    "base class": (lambda m: L.RNN, lambda m: None, GRU),
    "variable": (lambda m: m.get_layer("head").kernel, lambda m: None, {"head/kernel"}),
    "exclude a variable": (
        lambda m: ["head", m.get_layer("conv").bias],
        lambda m: [m.get_layer("head").bias],
        {"head/kernel", "conv/bias"},
    ),
    "predicate": (lambda m: lambda v: v.shape[0] == 6, lambda m: None, {"head/kernel"}),
    "list": (
        lambda m: [L.Conv2D, "head", m.get_layer("shared")],
        lambda m: None,
        CONV | HEAD | SHARED,
    ),
    "exclude": (lambda m: None, lambda m: "both", EVERYTHING - GRU),
    "exclude a class": (lambda m: "kernels", lambda m: L.GRU, KERNELS_ONLY - GRU),
    "exclude what is frozen": (lambda m: "head", lambda m: "frozen", HEAD),
    "exclude a list": (lambda m: None, lambda m: ["bias", L.BatchNormalization], KERNELS_ONLY),
}


@pytest.mark.parametrize(("variables", "exclude", "expected"), SELECTIONS.values(), ids=SELECTIONS)
def test_selected(variables, exclude, expected):
    model = network()
    targets = selection.select(model, variables(model), exclude(model))
    paths = [target.variable.path for target in targets]
    assert set(paths) == expected
    assert len(paths) == len(expected), "a variable is selected twice"
    order = [v.path for v in model.variables]
    assert paths == sorted(paths, key=order.index)


def test_random_numbers_belong_to_the_variable_whatever_is_selected():
    model = network()
    starts = {t.variable.path: t.start for t in selection.select(model)}
    some = {t.variable.path: t.start for t in selection.select(model, "head|gru")}
    assert some == {path: starts[path] for path in HEAD | GRU}
    assert len(set(starts.values())) == len(starts)


@pytest.mark.parametrize("name", ["variables", "exclude"])
@pytest.mark.parametrize(
    "nothing",
    ["hed", L.Conv3D, lambda v: False, ["head", "nowhere"], L.Dense(1), keras.Variable(1.0)],
    ids=["regex", "class", "predicate", "second of a list", "foreign layer", "foreign variable"],
)
def test_nothing_matched(name, nothing):
    with pytest.raises(ValueError, match=f"`{name}` matches no") as info:
        selection.select(network(), **{name: nothing})
    message = str(info.value)
    assert f"Received: {name}=" in message
    assert re.search(r"\n  head/kernel\n", message)
    if name == "variables":
        assert re.search(r"\n  frozen/kernel  \(not eligible: frozen\)\n", message)


@pytest.mark.parametrize("selector", ["frozen", lambda v: "frozen" in v.path])
def test_frozen_variables_are_selected_only_if_asked(selector):
    with pytest.raises(ValueError, match=r"matches no.* frozen, which noise reaches .*frozen=True"):
        selection.select(network(), selector, frozen=False)
    with pytest.raises(ValueError, match="`variables` matches no") as info:
        selection.select(network(), selector)  # By a function without such an argument.
    assert "frozen=True" not in str(info.value)
    found = [target.variable.name for target in selection.select(network(), selector, frozen=True)]
    assert found == ["kernel", "bias"]


@pytest.mark.slow
def test_why_variables_are_not_eligible():
    layers = [
        L.Dense(3, name="dense"),
        L.BatchNormalization(name="norm"),
        L.Dropout(0.5, name="drop"),
    ]
    model = keras.Sequential([keras.Input((3,)), L.Dense(3, name="int"), *layers])
    model.get_layer("int").quantize("int8")
    model.get_layer("dense").kernel.trainable = False
    with pytest.raises(ValueError, match="matches no") as info:
        selection.select(model, "nowhere")
    reasons = dict(re.findall(r"\n  (\S+)(?:  \(not eligible: (.*)\))?", str(info.value)))
    assert reasons == {
        "int/kernel": "quantized to int8",
        "int/kernel_scale": "quantized to int8",
        "int/bias": "",
        "dense/kernel": "frozen",
        "dense/bias": "",
        "norm/gamma": "",
        "norm/beta": "",
        "norm/moving_mean": "state of its layer, not learned",
        "norm/moving_variance": "state of its layer, not learned",
        "drop/seed_generator_state": reasons["drop/seed_generator_state"],
    }
    assert reasons["drop/seed_generator_state"] in ("of dtype int64", "of dtype uint32")


def test_frozen_weights_where_they_are_eligible():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            L.Dense(3, name="dense"),
            L.Dropout(0.5),
            L.BatchNormalization(name="bn"),
            L.Normalization(name="adapted"),
        ]
    )
    learned = ["kernel", "bias", "gamma", "beta"]

    def names(**options):
        return [t.variable.name for t in selection.select(model, **options)]

    assert names(frozen=True) == names() == learned
    model.get_layer("dense").kernel.trainable = False
    model.get_layer("bn").trainable = False
    assert names(frozen=True) == learned
    assert names() == ["bias"]
    model.trainable = False
    assert names(frozen=True) == learned
    with pytest.raises(ValueError, match="`variables` matches no eligible"):
        selection.select(model, "moving_mean", frozen=True)


def test_everything_excluded():
    with pytest.raises(ValueError, match=r"No variable of 'net' is left.*Expected.*Received: "):
        selection.select(network(), "head", "head")


@pytest.mark.parametrize(
    ("selector", "error"),
    [("(", ValueError), ([], ValueError), (3, TypeError), (int, TypeError), (["a", 3], TypeError)],
)
def test_bad_selectors(selector, error):
    with pytest.raises(error, match=r"Invalid `exclude`\. Expected .* Received: exclude="):
        selectors.check_selector("exclude", selector)


@pytest.mark.parametrize(
    "selector", [None, "kernels", "a.*b", L.Dense, L.Dense(1), keras.Variable(1.0), print, ["a"]]
)
def test_good_selectors(selector):
    selectors.check_selector("variables", selector)


@pytest.mark.parametrize("selector", [keras.Variable(1.0), L.Dense, ["a", L.Dense(1)]])
def test_what_cannot_be_saved(selector):
    with pytest.raises(ValueError, match=r"cannot be saved.* Received: exclude="):
        selectors.serialize("exclude", selector)


def test_integers_are_not_selected():
    class Counting(keras.Layer):
        def build(self, shape):
            self.weight = self.add_weight(shape=(3,), name="weight")
            self.count = self.add_weight(shape=(), dtype="int32", name="count", trainable=True)

    layer = Counting()
    layer.build((None, 3))
    assert [t.variable.name for t in selection.select(layer)] == ["weight"]
    assert tf.as_dtype(layer.count.dtype).is_integer
