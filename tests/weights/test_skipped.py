"""What leaves most of a model without noise says so, in every function."""

import functools
import warnings

import keras
import numpy as np
import pytest

import keras_weightnoise as kw
from keras_weightnoise._weights import selection
from keras_weightnoise._weights.skipped import warn_of_skipped

L = keras.layers
X, Y = np.ones((4, 8), "float32"), np.ones((4, 1), "float32")


@functools.cache
def quantized(mode="int8"):
    """One for all: to quantize takes longer than what is tried on it."""
    layers = [L.Dense(16, name="hidden"), L.Dense(1, name="head")]
    model = keras.Sequential([keras.Input((8,)), *layers], name="net")
    for layer in model.layers if mode else []:
        layer.quantize(mode)
    model.compile("sgd", "mse", run_eagerly=True)
    return model


def enter(context):
    with context:
        pass


def fit(model, **selectors):
    model.fit(X, Y, callbacks=[kw.WeightNoiseCallback(0.1, **selectors)], verbose=0)


SMALL = {"draws": 1, "verbose": 0}
FUNCTIONS = {
    "WeightNoiseCallback": fit,
    "noisy_call": lambda m, **s: kw.noisy_call(m, 0.1, X, seed=1, step=2, **s),
    "perturb_weights": lambda m, **s: kw.perturb_weights(m, 0.1, inplace=True, **s),
    "perturbed_weights": lambda m, **s: enter(kw.perturbed_weights(m, 0.1, **s)),
    "robustness_sweep": lambda m, **s: kw.robustness_sweep(
        m, (X, Y), magnitudes=[0.1, 0.2], **SMALL, **s
    ),
    "layer_sensitivity": lambda m, **s: kw.layer_sensitivity(m, (X, Y), 0.1, **SMALL, **s),
    "WeightNoiseEnsemble": lambda m, **s: kw.WeightNoiseEnsemble(m, 0.1, members=2, **s),
    "clip_weights": lambda m, **s: kw.clip_weights(m, **{"variables": None, **s}),
}
every_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)


def told(function, model, **selectors):
    """The warnings of skipped weights, and where the code is that they name."""
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        function(model, **selectors)
    return [each for each in record if "Of the selected weights" in str(each.message)]


@pytest.mark.slow
@every_function
def test_quantized_models_are_told_of_once(function):
    (warning,) = told(function, quantized())
    assert "89.4% are not" in str(warning.message)
    assert "(hidden/kernel, head/kernel)" in str(warning.message)
    if function is not fit:  # Which Keras calls the callback in.
        assert warning.filename == __file__


@pytest.mark.slow
@every_function
def test_what_the_user_left_out_is_not_told_of(function):
    model = quantized()
    assert not told(function, model, exclude="kernel")
    assert not told(function, model, variables="bias")
    assert told(function, model, variables=["bias", "hidden"])


@pytest.mark.slow
def test_float_models_are_not_told_of():
    for function in FUNCTIONS.values():
        assert not told(function, quantized(mode=None))


@pytest.mark.slow
def test_half_of_a_model_is_not_most_of_it():
    model = keras.Sequential([keras.Input((4,)), L.Dense(4, name="first"), L.Dense(4)])
    model.get_layer("first").quantize("int8")
    assert not told(FUNCTIONS["perturb_weights"], model, variables=["kernel", "bias"])


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["int8", None])
def test_lora_over_integers_is_told_of_and_over_frozen_floats_is_not(mode):
    model = keras.Sequential([keras.Input((64,)), L.Dense(64), L.Dense(1)])
    model.layers[0].enable_lora(1)
    if mode:
        model.layers[0].quantize(mode)
    model.compile("sgd", "mse")
    x = np.ones((4, 64), "float32")
    warned = told(lambda m: m.fit(x, Y, callbacks=[kw.WeightNoiseCallback()], verbose=0), model)
    assert len(warned) == (1 if mode == "int8" else 0)


@pytest.mark.slow
def test_rules_count_as_selectors():
    model = quantized()
    pairs = [("bias", 0.1)]
    assert not told(lambda m: kw.noisy_call(m, pairs, X, seed=1, step=2), model)
    pairs = [("head/bias", 0.1), (None, 0.2)]
    assert told(lambda m: kw.noisy_call(m, pairs, X, seed=1, step=2), model)


class Reservoir(keras.Layer):
    """Most of its weights are never trained."""

    def build(self, shape):
        self.fixed = self.add_weight(shape=(8, 50), name="fixed", trainable=False)
        self.readout = self.add_weight(shape=(50, 1), name="readout")

    def call(self, x):
        return keras.ops.tanh(x @ self.fixed) @ self.readout


@pytest.mark.slow
def test_weights_that_a_layer_keeps_without_learning_them():
    model = keras.Sequential([keras.Input((8,)), Reservoir(name="reservoir")])
    model.compile("sgd", "mse")
    (warning,) = told(FUNCTIONS["robustness_sweep"], model)
    assert "(reservoir/fixed)" in str(warning.message)
    assert not told(fit, model)


def test_statistics_are_no_kernels():
    model = keras.Sequential([keras.Input((500,)), L.BatchNormalization(), L.Dense(1)])
    targets = selection.select(model, frozen=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_skipped(model, [t.variable for t in targets], [None], None, frozen=True)
