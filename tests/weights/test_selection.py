"""Which variables are selected, and which axes one output channel of each kind of kernel has."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_weightnoise import noises
from keras_weightnoise._weights import selection, selectors
from keras_weightnoise._weights.perturbation import perturb

L = keras.layers

# Layer, input shape, and for each variable the axes that tell its output channels apart.
KERNELS = {
    "Dense": (lambda: L.Dense(3), (4,), {"kernel": (1,), "bias": ()}),
    "Conv1D": (lambda: L.Conv1D(3, 2), (6, 4), {"kernel": (2,), "bias": ()}),
    "Conv2D": (lambda: L.Conv2D(3, 2), (6, 6, 4), {"kernel": (3,), "bias": ()}),
    "Conv2D, groups": (lambda: L.Conv2D(4, 2, groups=2), (6, 6, 4), {"kernel": (3,), "bias": ()}),
    "Conv3D": (lambda: L.Conv3D(3, 2), (4, 4, 4, 2), {"kernel": (4,), "bias": ()}),
    "Conv1DTranspose": (lambda: L.Conv1DTranspose(3, 2), (6, 4), {"kernel": (1,), "bias": ()}),
    "Conv2DTranspose": (lambda: L.Conv2DTranspose(3, 2), (6, 6, 4), {"kernel": (2,), "bias": ()}),
    "Conv3DTranspose": (
        lambda: L.Conv3DTranspose(3, 2),
        (4, 4, 4, 2),
        {"kernel": (3,), "bias": ()},
    ),
    "DepthwiseConv1D": (
        lambda: L.DepthwiseConv1D(2, depth_multiplier=3),
        (6, 4),
        {"kernel": (1, 2), "bias": ()},
    ),
    "DepthwiseConv2D": (
        lambda: L.DepthwiseConv2D(2, depth_multiplier=3),
        (6, 6, 4),
        {"kernel": (2, 3), "bias": ()},
    ),
    "SeparableConv1D": (
        lambda: L.SeparableConv1D(3, 2, depth_multiplier=2),
        (6, 4),
        {"depthwise_kernel": (1, 2), "pointwise_kernel": (2,), "bias": ()},
    ),
    "SeparableConv2D": (
        lambda: L.SeparableConv2D(3, 2, depth_multiplier=2),
        (6, 6, 4),
        {"depthwise_kernel": (2, 3), "pointwise_kernel": (3,), "bias": ()},
    ),
    "EinsumDense, one output axis": (
        lambda: L.EinsumDense("ab,bc->ac", 3, bias_axes="c"),
        (4,),
        {"kernel": (1,), "bias": ()},
    ),
    "EinsumDense, several output axes": (
        lambda: L.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de"),
        (5, 4),
        {"kernel": (1, 2), "bias": ()},
    ),
    "EinsumDense, several input axes": (
        lambda: L.EinsumDense("abcd,cde->abe", (None, 3), bias_axes="e"),
        (5, 2, 4),
        {"kernel": (2,), "bias": ()},
    ),
    "EinsumDense, output axis first": (
        lambda: L.EinsumDense("ab,cb->ac", 3),
        (4,),
        {"kernel": (0,)},
    ),
    "EinsumDense, ellipsis": (
        lambda: L.EinsumDense("...x,xyz->...yz", (2, 3)),
        (5, 4),
        {"kernel": (1, 2)},
    ),
    "Embedding": (lambda: L.Embedding(7, 3), (5,), {"embeddings": (0,)}),
    "SimpleRNN": (
        lambda: L.SimpleRNN(3),
        (5, 4),
        {"kernel": (1,), "recurrent_kernel": (1,), "bias": ()},
    ),
    "LSTM": (lambda: L.LSTM(3), (5, 4), {"kernel": (1,), "recurrent_kernel": (1,), "bias": ()}),
    "GRU": (lambda: L.GRU(3), (5, 4), {"kernel": (1,), "recurrent_kernel": (1,), "bias": ()}),
    "ConvLSTM1D": (
        lambda: L.ConvLSTM1D(3, 2),
        (5, 6, 4),
        {"kernel": (2,), "recurrent_kernel": (2,), "bias": ()},
    ),
    "BatchNormalization": (lambda: L.BatchNormalization(), (4,), {"gamma": (), "beta": ()}),
    "LayerNormalization": (lambda: L.LayerNormalization(), (4,), {"gamma": (), "beta": ()}),
    "PReLU": (lambda: L.PReLU(), (4,), {"alpha": ()}),
}


def targets_of(make, shape):
    layer = make()
    layer.build((None, *shape))
    targets = selection.select(layer)
    rng = np.random.default_rng(0)
    for target in targets:
        target.variable.assign(rng.normal(0.3, 1, target.variable.shape))
    return targets


def kept_axes(target):
    rank = len(target.variable.shape)
    return tuple(axis for axis in range(rank) if axis not in target.axes)


@pytest.mark.parametrize(("make", "shape", "kept"), KERNELS.values(), ids=KERNELS)
def test_axes(make, shape, kept):
    found = {target.variable.name: kept_axes(target) for target in targets_of(make, shape)}
    assert found == kept


def test_axes_inside_a_layer_of_layers():
    attention = L.MultiHeadAttention(2, 3)
    attention.build((None, 5, 4), (None, 5, 4))
    found = {t.variable.path.split("/", 1)[1]: kept_axes(t) for t in selection.select(attention)}
    inputs = {"kernel": (1, 2), "bias": ()}
    assert found == {
        **{f"{n}/{k}": v for n in ("query", "key", "value") for k, v in inputs.items()},
        "attention_output/kernel": (2,),
        "attention_output/bias": (),
    }


SCALES = {
    "std": lambda w, axes: np.std(w),
    "rms": lambda w, axes: np.sqrt(np.mean(w**2)),
    "max": lambda w, axes: np.max(np.abs(w)),
    "range": lambda w, axes: np.max(w) - np.min(w),
    "channel_max": lambda w, axes: np.max(np.abs(w), axes, keepdims=True),
    "filter_norm": lambda w, axes: np.sqrt(np.sum(w**2, axes, keepdims=True)),
    "weight": lambda w, axes: np.abs(w),
    None: lambda w, axes: 1.0,
}


@pytest.mark.parametrize(("make", "shape", "kept"), KERNELS.values(), ids=KERNELS)
def test_scales(make, shape, kept):
    targets = targets_of(make, shape)
    clean = [target.variable.value for target in targets]
    for relative_to, scale in SCALES.items():
        # Of one size everywhere, so that the noise shows its scale.
        noise = noises.Rademacher(0.5, relative_to)
        noisy = perturb(noise, targets, clean, seed=1, step=2, magnitudes=noise.magnitudes_at(0))
        for target, w, after in zip(targets, clean, noisy, strict=True):
            w = np.asarray(w, "float64")
            axes = tuple(i for i in range(w.ndim) if i not in kept[target.variable.name])
            expected = np.broadcast_to(0.5 * scale(w, axes), w.shape)
            np.testing.assert_allclose(
                np.abs(after - w), expected, rtol=1e-4, atol=1e-6, err_msg=relative_to
            )


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
WEIGHTS = KERNELS_ONLY | {path for path in GRU if path.endswith("bias")}  # Of rank 2.

SELECTIONS = {
    "all": (lambda m: None, lambda m: None, EVERYTHING),
    "kernels": (lambda m: "kernels", lambda m: None, WEIGHTS),
    "regex": (lambda m: "conv|head", lambda m: None, CONV | HEAD),
    "regex, end": (
        lambda m: "(?<!recurrent_)kernel$",
        lambda m: None,
        {path for path in KERNELS_ONLY if "recurrent" not in path},
    ),
    "layer": (lambda m: m.get_layer("both"), lambda m: None, GRU),
    "class": (lambda m: L.Dense, lambda m: None, SHARED | HEAD),
    "base class": (lambda m: L.RNN, lambda m: None, GRU),
    "predicate": (lambda m: lambda v: v.shape[0] == 6, lambda m: None, {"head/kernel"}),
    "list": (
        lambda m: [L.Conv2D, "head", m.get_layer("shared")],
        lambda m: None,
        CONV | HEAD | SHARED,
    ),
    "exclude": (lambda m: None, lambda m: "both", EVERYTHING - GRU),
    "exclude a class": (lambda m: "kernels", lambda m: L.GRU, WEIGHTS - GRU),
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
    ["hed", L.Conv3D, lambda v: False, ["head", "nowhere"], L.Dense(1)],
    ids=["regex", "class", "predicate", "second of a list", "foreign layer"],
)
def test_nothing_matched(name, nothing):
    with pytest.raises(ValueError, match=f"`{name}` matches no") as info:
        selection.select(network(), **{name: nothing})
    message = str(info.value)
    assert f"Received: {name}=" in message
    assert re.search(r"\n  head/kernel\n", message)
    if name == "variables":
        assert re.search(r"\n  frozen/kernel  \(not eligible\)\n", message)


def test_frozen_variables_are_not_selected_by_name():
    with pytest.raises(ValueError, match="`variables` matches no"):
        selection.select(network(), "frozen")


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


@pytest.mark.parametrize("selector", [None, "kernels", "a.*b", L.Dense, L.Dense(1), print, ["a"]])
def test_good_selectors(selector):
    selectors.check_selector("variables", selector)


def test_integers_are_not_selected():
    class Counting(keras.Layer):
        def build(self, shape):
            self.weight = self.add_weight(shape=(3,), name="weight")
            self.count = self.add_weight(shape=(), dtype="int32", name="count", trainable=True)

    layer = Counting()
    layer.build((None, 3))
    assert [t.variable.name for t in selection.select(layer)] == ["weight"]
    assert tf.as_dtype(layer.count.dtype).is_integer
