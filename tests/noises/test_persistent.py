"""Faults that stay: the same cells in every step of training, and others on each chip."""

import fits
import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_weightnoise import (
    GaussianWeightNoise,
    WeightNoiseCallback,
    WeightNoiseEnsemble,
    noises,
    noisy_call,
    perturb_weights,
    perturbed_weights,
)

SHAPE = (40, 30)
EVERY = [
    noises.StuckAt(0.2, persistent=True),
    noises.DropConnect(0.2, persistent=True),
    noises.BitFlip(0.05, persistent=True),
    noises.LogNormal(0.2, persistent=True),
    noises.Quantization(8) + noises.Gaussian(0.0) + noises.StuckAt(0.2, "max", persistent=True),
]
each_noise = pytest.mark.parametrize("noise", EVERY, ids=str)


def network(compiled=True, **settings):
    """One kernel, which the model's output for the identity matrix is."""
    initializer = keras.initializers.RandomNormal(seed=1)
    dense = keras.layers.Dense(SHAPE[1], use_bias=False, kernel_initializer=initializer)
    model = keras.Sequential([keras.Input(SHAPE[:1]), dense])
    if compiled:
        model.compile(keras.optimizers.SGD(0.0), "mse", **settings)
    return model


def chips(model, noise, seed, count):
    """What the kernel is on the first chips."""
    found = []
    with perturbed_weights(model, noise, seed=seed) as draws:
        for _ in range(count):
            found.append(model.weights[0].numpy())
            draws.redraw()
    return found


@pytest.mark.slow
@each_noise
def test_one_seed_is_one_chip_whatever_uses_it(noise):
    model = network()
    first, second = chips(model, noise, 3, 2)
    assert np.any(first != second)
    np.testing.assert_array_equal(perturb_weights(model, noise, seed=3).weights[0], first)
    x = tf.eye(SHAPE[0])
    for step in (0, 1, 1000):
        called = noisy_call(model, noise, x, seed=3, step=step)
        np.testing.assert_allclose(called, first, rtol=1e-6)  # Fused otherwise, rounded otherwise.
    ensemble = WeightNoiseEnsemble(model, noise, members=2, seed=3)
    members = ensemble.predict_members(np.eye(SHAPE[0], dtype="float32"))
    np.testing.assert_allclose(members, [first, second], rtol=1e-6)
    assert np.any(perturb_weights(model, noise, seed=4).weights[0] != first)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"frequency": "epoch"},
        {"frequency": 2},
        {"jit_compile": True},
        {"run_eagerly": True},
        {"steps_per_execution": 2},
    ],
    ids=str,
)
def test_training_is_on_the_chip_of_draw_0(settings):
    noise = noises.StuckAt(0.2, persistent=True)
    frequency = settings.pop("frequency", "batch")
    model = network(**settings)
    # A cell of the chip that is stuck has the gradient of its output, like all others: what tells is the
    # loss, which is 0 only where the targets are those of the chip, in each step.
    (chip,) = chips(model, noise, 3, 1)
    x = np.eye(SHAPE[0], dtype="float32")
    callback = WeightNoiseCallback(noise, seed=3, frequency=frequency)
    fitted = model.fit(
        np.tile(x, (4, 1)),
        np.tile(chip, (4, 1)),
        batch_size=SHAPE[0],
        shuffle=False,
        epochs=2,
        verbose=0,
        callbacks=[callback],
    )
    np.testing.assert_allclose(fitted.history["loss"], 0.0, atol=1e-12)


@pytest.mark.slow
def test_all_replicas_are_on_one_chip():
    noise = noises.StuckAt(0.2, persistent=True)
    with fits.strategy().scope():
        model = network(jit_compile=False)
    (chip,) = chips(network(), noise, 3, 1)
    x = np.eye(SHAPE[0], dtype="float32")
    callback = WeightNoiseCallback(noise, seed=3, per_replica=True)
    loss = model.fit(x, chip, batch_size=SHAPE[0], verbose=0, callbacks=[callback])
    np.testing.assert_allclose(loss.history["loss"], 0.0, atol=1e-12)


@pytest.mark.slow
def test_a_network_trained_around_the_defects_of_a_chip():
    rng = np.random.default_rng(0)
    # Each input comes twice, so that one cell can do the work of another.
    x = np.tile(rng.normal(size=(640, SHAPE[0] // 2)), 2).astype("float32")
    y = x @ rng.normal(size=SHAPE).astype("float32")
    noise = noises.StuckAt(0.2, persistent=True)
    model = network(False)
    model.compile(keras.optimizers.SGD(1.0), "mse", jit_compile=False)
    # In two fits with a callback each, as a job that is resumed.
    for _ in range(2):
        callback = WeightNoiseCallback(noise, seed=3)
        model.fit(x, y, batch_size=32, verbose=0, callbacks=[callback])
    losses = {}
    for seed in (3, 4):
        with perturbed_weights(model, noise, seed=seed):
            losses[seed] = np.mean((model(x) - y) ** 2)
    assert losses[3] < 0.3 * losses[4]


def test_a_wrapped_layer_is_a_chip():
    noise = noises.StuckAt(0.2, persistent=True)
    dense = keras.layers.Dense(SHAPE[1], use_bias=False, kernel_initializer="ones")
    layer = GaussianWeightNoise(dense, noise=noise, seed=3)
    x = tf.eye(SHAPE[0])
    first = layer(x, training=True)
    again = type(layer).from_config(layer.get_config())
    other = type(layer).from_config({**layer.get_config(), "seed": 4})
    np.testing.assert_array_equal(layer(x, training=True), first)
    np.testing.assert_array_equal(again(x, training=True), first)
    assert np.any(other(x, training=True) != first)
    assert 0 < np.mean(first == 0) < 0.4


@pytest.mark.parametrize("make", [noises.StuckAt, noises.DropConnect], ids=lambda m: m.__name__)
def test_the_cells_at_a_rate_are_among_those_at_a_higher_one(make):
    model = network()
    broken = [
        perturb_weights(model, make(rate, persistent=True), seed=3).weights[0].numpy() == 0
        for rate in (0.05, 0.2, 0.7)
    ]
    assert np.all(broken[0] <= broken[1])
    assert np.all(broken[1] <= broken[2])
    assert 0 < broken[0].sum() < broken[1].sum() < broken[2].sum()


def test_what_stays_shares_no_numbers_with_what_does_not():
    model = network()
    model.weights[0].assign(tf.ones(SHAPE))
    both = noises.DropConnect(0.5, False, persistent=True) + noises.DropConnect(0.5, False)
    left = np.mean(perturb_weights(model, both, seed=3).weights[0])
    assert abs(left - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 1200)


@pytest.mark.parametrize("make", [noises.StuckAt, noises.DropConnect, noises.LogNormal])
def test_bad_argument(make):
    with pytest.raises(TypeError, match=r"Invalid `persistent`.*Received: persistent=1"):
        make(0.1, persistent=1)
