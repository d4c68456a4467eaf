"""noises.Learned: what a model's wrappers have learned, wherever a trained model is perturbed.

`test_noises.py` has its formula, and what all noises have in common.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from keras_weightnoise import (
    GaussianWeightNoise,
    VariationalWeightNoise,
    WeightNoiseCallback,
    WeightNoiseEnsemble,
    add_variational_weight_noise,
    layer_sensitivity,
    noises,
    noisy_call,
    perturb_weights,
    perturbed_weights,
    robustness_sweep,
    signal_to_noise,
    strip_weight_noise,
)

pytestmark = pytest.mark.slow

layers = keras.layers
RNG = np.random.default_rng(0)
X = tf.constant(RNG.normal(size=(8, 4)), "float32")
LEARNED = noises.Learned()


def variational(*parts, **kwargs):
    """A model whose standard deviations are no two alike, as if it had been trained."""
    model = keras.Sequential([keras.Input((4,)), *(parts or [layers.Dense(3, name="head")])])
    model.compile("sgd", "mse", run_eagerly=True)
    model = add_variational_weight_noise(model, examples=8, **{"seed": 1, **kwargs})
    return learn(model)


def learn(model):
    for layer in model.layers:
        if isinstance(layer, VariationalWeightNoise):
            for variable in layer.noise.trainable_variables:
                variable.assign(RNG.uniform(-3.0, 0.0, variable.shape))
    return model


def sigmas(model):
    return [np.asarray(s) for layer in model.layers for _, s in getattr(layer, "stddevs", list)()]


def test_draws_have_the_law_that_was_learned():
    model = variational(layers.Dense(500, name="head"))
    layer = model.layers[0]
    numbers = []
    for seed, factor in ((1, 1.0), (2, 0.5)):
        noisy = perturb_weights(model, noises.Learned(factor), seed=seed)
        kernel, bias, rho = (variable.numpy() for variable in noisy.weights)
        np.testing.assert_array_equal(bias, layer.layer.bias)
        np.testing.assert_array_equal(rho, layer.noise.get_weights()[0])
        ((mean, stddev),) = layer.stddevs()
        numbers.append(np.ravel((kernel - mean.numpy()) / stddev / factor))
        assert stats.kstest(numbers[-1], "norm").pvalue > 0.01
    assert abs(np.corrcoef(numbers)[0, 1]) < 0.1


@pytest.mark.any_version
def test_members_vary_as_the_wrapper_does():
    model = variational()

    @tf.function
    def draws():
        count = tf.range(1000)
        return tf.map_fn(lambda _: model(X, training=True), count, fn_output_signature="float32")

    members = WeightNoiseEnsemble(model, LEARNED, members=1000).predict_members(X)
    expected = tf.square(X) @ np.square(sigmas(model)[0])
    for outputs in (draws().numpy(), members):
        np.testing.assert_allclose(np.mean(outputs, 0), model(X), atol=0.15)
        np.testing.assert_allclose(np.var(outputs, 0), expected, rtol=0.25)


def test_it_is_in_what_has_learned_and_the_rest_is_left_to_others():
    model = variational(layers.Dense(3, name="a"), layers.Dense(3, name="b"), variables="^a/")
    for noise, noisy in (
        (LEARNED, ["a/a/kernel"]),
        ([(None, LEARNED), ("bias", 0.1)], ["a/a/kernel", "a/a/bias", "b/bias"]),
        ({"^a/": LEARNED, None: 0.1}, ["a/a/kernel", "a/a/bias", "b/kernel", "b/bias"]),
        (LEARNED + noises.Quantization(4), ["a/a/kernel"]),
    ):
        before = [variable.numpy() for variable in model.weights]
        with perturbed_weights(model, noise, seed=1) as weights:
            changed = [v for v, w in zip(model.weights, before, strict=True) if np.any(v != w)]
            assert {id(v) for v in changed} == {id(v) for v in weights.variables}
        paths = [v.path.removeprefix(f"{model.name}/") for v in changed]
        assert paths == noisy


# The posterior predictive.


def test_the_ensemble(tmp_path):
    model = variational(layers.Dense(5, "relu"), layers.Dense(3, "softmax"), prior=0.5)
    ensemble = WeightNoiseEnsemble(model, LEARNED, members=3, seed=5)
    members = ensemble.predict_members(X)
    with perturbed_weights(model, LEARNED, seed=5) as weights:
        for member in members:
            np.testing.assert_allclose(member, model(X), rtol=1e-5)
            weights.redraw()
    np.testing.assert_allclose(ensemble(X), np.mean(members, 0), rtol=1e-5)
    assert np.all(ensemble.predict_spread(X).mutual_information > 0.0)
    # It saves and exports.
    ensemble.save(tmp_path / "ensemble.keras")
    loaded = keras.saving.load_model(tmp_path / "ensemble.keras")
    np.testing.assert_allclose(loaded.predict_members(X), members, rtol=1e-5)
    ensemble.export(tmp_path / "served")
    served = tf.saved_model.load(tmp_path / "served")
    np.testing.assert_allclose(served.serve(X), np.mean(members, 0), rtol=1e-5)
    # It follows the training, and its size can be set, both without a new trace.
    learn(model)
    assert np.any(ensemble.predict_members(X) != members)
    ensemble.magnitude = 0.0
    np.testing.assert_array_equal(ensemble.predict_members(X), [model(X)] * 3)
    assert loaded.magnitude == 1.0


def test_gradients_of_inputs_and_means():
    model = variational()
    ensemble = WeightNoiseEnsemble(model, LEARNED, members=2)
    kernel, rho = model.layers[0].layer.kernel, model.layers[0].noise.trainable_variables[0]
    with tf.GradientTape() as tape:
        tape.watch(X)
        loss = tf.reduce_sum(ensemble(X))
    by_x, by_kernel, by_rho = tape.gradient(loss, [X, kernel, rho])
    assert np.all(by_x != 0.0)
    np.testing.assert_allclose(by_kernel, np.repeat(np.sum(X, 0)[:, None], 3, 1), rtol=1e-4)
    assert by_rho is None


def test_precision():
    model = variational(layers.Dense(3, dtype="mixed_bfloat16"))
    members = WeightNoiseEnsemble(model, LEARNED, members=4).predict_members(X)
    assert np.all(np.isfinite(members.astype("float32")))
    assert np.all(np.std(members.astype("float32"), 0) > 0.0)


# In analyses.


def test_sweeps_go_over_the_factor():
    model = variational(layers.Dense(4, "relu", name="a"), layers.Dense(2, name="b"))
    data = (X, tf.ones((8, 2)))
    sweep = robustness_sweep(model, data, noise=LEARNED, magnitudes=(0.0, 0.1, 30.0), draws=2)
    losses = [
        np.mean([r.metrics["loss"] for r in sweep.rows if r.magnitude == m])
        for m in (0.0, 0.1, 30.0)
    ]
    assert losses[0] == pytest.approx(sweep.clean["loss"])
    assert losses[0] != losses[1] < losses[2]
    result = layer_sensitivity(model, data, LEARNED, draws=2)
    assert set(result.summaries()) == {"a/a", "b/b"}


# What would be wrong without a word.


def test_noise_twice_is_refused(tmp_path):
    model = variational(layers.Dense(3), layers.Dropout(0.5))
    ensemble = WeightNoiseEnsemble(model, LEARNED, members=2)
    ensemble.compile("sgd", "mse", run_eagerly=True)
    for call in (
        lambda: ensemble(X, training=True),
        lambda: ensemble.fit(X, tf.ones((8, 3)), verbose=0),
        lambda: noisy_call(model, LEARNED, X, seed=1, step=1, training=True),
    ):
        with pytest.raises(ValueError, match=r"kernel' would be noisy twice.*`training=False`"):
            call()
    for call in (
        lambda: WeightNoiseCallback(LEARNED),
        lambda: WeightNoiseCallback({"a": LEARNED + 0.1}),
        lambda: GaussianWeightNoise(layers.Dense(1), noise=LEARNED),
    ):
        with pytest.raises(ValueError, match=r"Expected none that is learned.*Received: noise="):
            call()
    # Other noise adds to that of the wrapper.
    assert np.any(noisy_call(model, 0.1, X, seed=1, step=1, training=True) != model(X))


def test_one_layer_in_two_wrappers():
    dense = layers.Dense(3)
    inputs = keras.Input((4,))
    both = [VariationalWeightNoise(dense, examples=8)(inputs) for _ in range(2)]
    model = keras.Model(inputs, layers.Add()(both))
    with pytest.raises(ValueError, match=r"kernel' has two learned standard deviations"):
        perturb_weights(model, LEARNED)


def test_nothing_learned():
    model = variational()
    quantized = variational()
    quantized.layers[0].layer.quantize("int8")
    for each, variables in ((strip_weight_noise(model), None), (model, "bias"), (quantized, None)):
        with pytest.raises(ValueError, match=r"No variable of .* has learned standard deviations"):
            perturb_weights(each, LEARNED, variables=variables)


def test_what_is_frozen_has_the_sigma_that_was_trained():
    model = variational(layers.Dense(3, name="a"), layers.Dense(3, name="b"))
    model.layers[0].noise.trainable_variables[0].assign(np.full((4, 3), -2.0))
    everything = perturbed_weights(model, LEARNED).variables
    assert [v.path.split("/")[-3] for v in everything] == ["a", "b"]
    model.trainable = False
    noise = perturbed_weights(model, LEARNED)
    assert [id(v) for v in noise.variables] == [id(everything[1])]
    result = signal_to_noise(model)
    assert [row.name for row in result.rows] == ["b/b/kernel"]
    model.layers[1].noise.set_weights([np.full((3, 3), -2.0)])
    for function in (lambda: perturbed_weights(model, LEARNED), lambda: signal_to_noise(model)):
        with pytest.raises(ValueError, match=r"has (no )?learned standard deviations"):
            function()


def test_lora():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="a"), layers.Dense(3)])
    model.layers[0].enable_lora(1)
    model.compile("sgd", "mse", run_eagerly=True)
    model = add_variational_weight_noise(model, examples=8)
    model.fit(X, tf.ones((8, 3)), verbose=0)  # Warnings are errors: all has a gradient.
    noisy = perturbed_weights(model, LEARNED)
    names = [variable.name for variable in noisy.variables]
    assert names == ["lora_kernel_a", "lora_kernel_b", "kernel"]
    with pytest.raises(ValueError, match=r"No layer of .* is left to wrap"):
        add_variational_weight_noise(
            strip_weight_noise(model), examples=8, exclude="dense", estimator="flipout"
        )
