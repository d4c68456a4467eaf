"""add_variational_weight_noise, and strip_weight_noise of what it makes."""

import graphs
import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_weightnoise import (
    GaussianWeightNoise,
    NoisyDense,
    VariationalWeightNoise,
    add_variational_weight_noise,
    add_weight_noise,
    perturb_weights,
    priors,
    schedules,
    strip_weight_noise,
)
from keras_weightnoise._weights import reachable
from keras_weightnoise.models._layer_selection import wrappers

pytestmark = pytest.mark.slow

layers = keras.layers
X = tf.constant(np.random.default_rng(0).normal(size=(8, 4)), "float32")


def variational_layers(model):
    return [each for each in wrappers(model) if isinstance(each, VariationalWeightNoise)]


def assert_same_outputs(a, b, x, **kwargs):
    for y, z in zip(graphs.outputs(a, x, **kwargs), graphs.outputs(b, x, **kwargs), strict=True):
        np.testing.assert_array_equal(y, z)


def learn(model):
    """As if sigmas had been trained: no two alike."""
    for number, layer in enumerate(variational_layers(model)):
        for variable in layer.noise.trainable_variables:
            variable.assign(
                np.linspace(-3.0 - number, -1.0, variable.shape.num_elements()).reshape(
                    variable.shape
                )
            )
    return model


MAKERS = [
    graphs.shared,
    graphs.nested,
    graphs.across_levels,
    graphs.recurrent,
    graphs.attention,
    graphs.convolutional,
    graphs.mixed,
    graphs.thawed,
    graphs.frozen_kernel,
]


@pytest.mark.filterwarnings("ignore:.*EinsumDense. was passed an input with a mask")
@pytest.mark.parametrize("make", MAKERS)
def test_round_trip(make):
    model = graphs.scatter(make())
    x, weights = graphs.x_for(model), model.get_weights()
    variational = add_variational_weight_noise(model, examples=10, seed=1)
    assert sorted(each.name for each in variational_layers(variational)) == graphs.MODELS[make]
    assert_same_outputs(variational, model, x)
    assert {**graphs.flags(model), "noise": {True}} == graphs.flags(variational)
    learn(variational)
    plain, stddevs = strip_weight_noise(variational, return_stddevs=True)
    graphs.assert_same_weights(plain, model)
    assert_same_outputs(plain, model, x)
    # What was learned is paired with the variables of the plain model, in their order.
    learned = [pair for each in variational_layers(variational) for pair in each.stddevs()]
    found = {tuple(np.ravel(variable)): stddev for variable, stddev in learned}
    assert len(stddevs) == len(learned) == len(found)
    for variable, stddev in stddevs:
        assert any(variable is each for each in plain.variables)
        np.testing.assert_array_equal(stddev, found[tuple(np.ravel(variable))])
    # Noisy in training, and with one divergence for each layer, however often it is called.
    noisy = graphs.outputs(variational, x, training=True)
    expected = sum(float(each.kl_divergence()) / 10 for each in variational_layers(variational))
    np.testing.assert_allclose(sum(map(float, variational.losses)), expected, rtol=1e-5)
    for a, b in zip(noisy, graphs.outputs(plain, x, training=True), strict=True):
        assert np.any(a != b)
    # Nothing is shared.
    for variable in variational.trainable_variables:
        variable.assign(variable * 0)
    for a, b in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_sigma_begins_relative_to_the_weights_of_the_model():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3, kernel_initializer="zeros", name="zeros"),  # And trained since.
            layers.Dense(2, name="lora"),
        ]
    )
    model.layers[1].enable_lora(1)  # One factor of which begins with 0.
    graphs.scatter(model)
    variational = add_variational_weight_noise(
        model, examples=10, initial_stddev=0.1, relative_to="std"
    )
    for layer in variational_layers(variational):
        assert layer.relative_to == "std"
        for variable, stddev in layer.stddevs():
            np.testing.assert_allclose(
                stddev, np.full(variable.shape, 0.1 * np.std(variable)), rtol=1e-4
            )
    model.layers[0].kernel.assign(np.ones((4, 3)))
    with pytest.raises(
        ValueError, match=r"weights of '.*zeros/kernel' .* all equal.*relative_to='std'"
    ):
        add_variational_weight_noise(model, examples=10, relative_to="std")


def test_what_was_learned_stays_when_others_are_wrapped_or_copied():
    model = keras.Sequential(
        [keras.Input((4,)), *(layers.Dense(4, name=name) for name in "abc"), NoisyDense(2)]
    )
    model.layers[-1].kernel_sigma.assign(np.full((4, 2), 0.5))
    first = learn(add_variational_weight_noise(model, examples=10, variables="^a/"))
    (learned,) = variational_layers(first)
    for other in (
        add_variational_weight_noise(first, examples=20),
        add_weight_noise(first, 0.1),
        perturb_weights(first, 0.1),
    ):
        kept = other.get_layer("a")
        assert kept.examples == 10
        np.testing.assert_array_equal(kept.stddevs()[0][1], learned.stddevs()[0][1])
        np.testing.assert_array_equal(other.layers[-1].kernel_sigma, np.full((4, 2), 0.5))
    plain, stddevs = strip_weight_noise(add_weight_noise(first, 0.1), return_stddevs=True)
    np.testing.assert_array_equal(plain.layers[-1].kernel_sigma, np.full((4, 2), 0.5))
    ((variable, _),) = stddevs
    assert variable is plain.get_layer("a").kernel


class Own(VariationalWeightNoise):
    """A wrapper of the user's own, not registered."""


def test_what_was_wrapped_by_hand_is_stripped():
    inner = keras.Sequential(
        [keras.Input((3, 4)), layers.Dense(4, name="a"), layers.Dense(4, name="b")]
    )
    model = keras.Sequential(
        [
            keras.Input((3, 4)),
            VariationalWeightNoise(inner, examples=5, kl_weight=schedules.LinearRamp(0, 1, 0, 3)),
            layers.TimeDistributed(VariationalWeightNoise(layers.Dense(4, name="c"), examples=5)),
            layers.TimeDistributed(Own(layers.Dense(4, name="own"), examples=5)),
            GaussianWeightNoise(
                VariationalWeightNoise(layers.Dense(4), examples=5, prior=priors.LearnedGaussian()),
                name="twice",
            ),
        ]
    )
    plain, stddevs = strip_weight_noise(learn(model), return_stddevs=True)
    assert not wrappers(plain)
    assert_same_outputs(plain, model, tf.reshape(X[:6], (2, 3, 4)))
    assert len(plain.weights) == 10
    assert len(stddevs) == 5
    assert plain.layers[0].name == inner.name
    assert plain.layers[-1].name == "twice"


def test_compiled_trained_saved_and_loaded(tmp_path):
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, "relu", name="a"), layers.Dense(2, name="b")]
    )
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"], run_eagerly=True)
    y = tf.ones((8, 2))
    clean = model.evaluate(X, y, verbose=0)
    variational = add_variational_weight_noise(
        model, examples=8, prior=priors.OptimalGaussian(), estimator="flipout", initial_stddev=0.1
    )
    assert variational.optimizer.get_config() == model.optimizer.get_config()
    assert variational.evaluate(X, y, verbose=0) == clean
    before = [each.stddevs()[0][1] for each in variational_layers(variational)]
    history = variational.fit(X, y, validation_data=(X, y), verbose=0).history
    assert history["loss"][0] > history["val_loss"][0]
    variational.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for a, b, c in zip(
        variational_layers(variational), variational_layers(loaded), before, strict=True
    ):
        np.testing.assert_array_equal(a.stddevs()[0][1], b.stddevs()[0][1])
        assert np.any(a.stddevs()[0][1] != c)
        assert b.estimator == "flipout"
    assert_same_outputs(strip_weight_noise(loaded), variational, X)
    assert strip_weight_noise(loaded).evaluate(X, y, verbose=0) == pytest.approx(
        variational.evaluate(X, y, verbose=0)
    )


@pytest.mark.parametrize("scaled", [False, True])
def test_weight_decay_is_for_weights(scaled):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    optimizer = keras.optimizers.SGD(0.1, weight_decay=0.1)
    if scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=2.0)
    model.compile(optimizer, "mse", run_eagerly=True)
    variational = add_variational_weight_noise(model, examples=8, kl_weight=0.0)
    assert type(variational.optimizer) is type(optimizer)
    ((kernel, before),) = variational_layers(variational)[0].stddevs()
    clean = kernel.numpy()
    variational.fit(np.zeros((8, 4)), np.zeros((8, 2)), verbose=0)  # Without a gradient.
    np.testing.assert_array_equal(variational_layers(variational)[0].stddevs()[0][1], before)
    np.testing.assert_allclose(kernel, 0.99 * clean, rtol=1e-6)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("built", [False, True])
def test_copies_decay_what_the_model_does(scaled, built):
    """What `exclude_from_weight_decay` leaves out is in no configuration of Keras's."""
    hidden = layers.Dense(4, name="hidden")
    norm = layers.BatchNormalization(name="norm")
    model = keras.Sequential([keras.Input((4,)), hidden, norm, layers.Dense(2)])
    model.layers[-1].trainable = False
    optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_names=["bias", "norm"])
    if scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=2.0)
    model.compile(optimizer, "mse")
    if built:
        optimizer.build(model.trainable_variables)
    variational = add_variational_weight_noise(model, examples=8)
    for each in (
        perturb_weights(model, 0.1),
        add_weight_noise(model),
        variational,
        strip_weight_noise(variational),
    ):
        before = {v.path: v.numpy() for v in each.trainable_variables}
        each.optimizer.apply(
            [tf.zeros(v.shape) for v in each.trainable_variables], each.trainable_variables
        )
        for v in each.trainable_variables:
            factor = 0.99 if v.name == "kernel" else 1.0
            np.testing.assert_allclose(v.numpy(), factor * before[v.path], rtol=1e-6)


@pytest.mark.filterwarnings(
    "ignore:.*does not have a `quantize` method", "ignore:Skipping variable"
)
def test_quantized_after_it_was_loaded(tmp_path):
    model = add_variational_weight_noise(graphs.sequential(), examples=8)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    loaded.quantize("int8")
    loaded.save(tmp_path / "quantized.keras")
    again = keras.saving.load_model(tmp_path / "quantized.keras")
    np.testing.assert_allclose(again(X), loaded(X), rtol=1e-5)
    assert_same_outputs(strip_weight_noise(loaded), loaded, X)


def test_selected_layers_and_seeds():
    model = graphs.nested()
    seeds = {}
    for variables in (None, "deep|top"):
        variational = add_variational_weight_noise(model, examples=9, variables=variables, seed=3)
        seeds[variables] = {
            each.name: int(each.seed_generator.state[0]) for each in variational_layers(variational)
        }
    assert set(seeds["deep|top"]) == {"deep", "top"}
    assert seeds["deep|top"].items() <= seeds[None].items()
    names = [each.name for each in reachable.sublayers(model)]
    assert not any("variational" in name for name in names)


@pytest.mark.any_version
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"examples": 0}, ValueError, r"Invalid `examples`.*Received: examples=0"),
        ({"prior": -1.0}, ValueError, r"Invalid `prior`"),
        ({"relative_to": "max"}, ValueError, r"Invalid `relative_to`.*relative_to='max'"),
        ({"initial_stddev": 0.0}, ValueError, r"Invalid `initial_stddev`"),
        ({"estimator": "other"}, ValueError, r"Invalid `estimator`"),
        ({"variables": "bias"}, ValueError, r"`variables` matches no eligible"),
        ({"model": layers.Dense(2)}, TypeError, r"Invalid `model`"),
        ({"model": keras.Sequential([layers.Dense(2)])}, ValueError, r"is not built"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        add_variational_weight_noise(**{"model": graphs.sequential(), "examples": 8, **arguments})


def test_arguments_without_default_and_flags():
    with pytest.raises(TypeError, match="examples"):
        add_variational_weight_noise(graphs.sequential())
    with pytest.raises(TypeError, match="Invalid `return_stddevs`"):
        strip_weight_noise(add_weight_noise(graphs.sequential()), return_stddevs=1)
    assert strip_weight_noise(add_weight_noise(graphs.sequential()), return_stddevs=True)[1] == []
