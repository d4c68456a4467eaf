"""GaussianWeightNoise: its arguments, what it perturbs and when, and what Keras does with it.

`test_keras_conformance.py` has what holds around every kind of layer.
"""

import copy
import warnings

import fits
import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_weightnoise import GaussianWeightNoise, noises, noisy_call
from keras_weightnoise._weights import perturbation, selection
from keras_weightnoise.schedules import LinearRamp

layers = keras.layers
X = tf.constant(np.random.default_rng(0).normal(size=(8, 4)), "float32")
Y = tf.ones((8, 2))


def dense(stddev=0.1, seed=1, **kwargs):
    """A wrapped Dense, built."""
    layer = GaussianWeightNoise(layers.Dense(2), stddev, seed=seed, **kwargs)
    layer(X)
    return layer


def noise_of(layer, x=X):
    """What the noise adds to a layer's output."""
    return (layer(x, training=True) - layer(x)).numpy()


def gradients(layer, x=X, **kwargs):
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(x, training=True, **kwargs) ** 2)
    return tape.gradient(loss, layer.trainable_variables)


# Arguments.


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"stddev": -0.1}, ValueError, r"Invalid `stddev`.*Received: stddev=-0.1"),
        ({"stddev": float("nan")}, ValueError, r"Invalid `stddev`.*Received: stddev=nan"),
        ({"stddev": float("inf")}, ValueError, r"Invalid `stddev`.*Received: stddev=inf"),
        ({"stddev": "0.1"}, TypeError, r"Invalid `stddev`.*Received: stddev='0.1'"),
        (
            {"stddev": keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)},
            TypeError,
            r"a layer knows no optimizer step.*WeightNoiseCallback.*Received: stddev=",
        ),
        ({"relative_to": "sigma"}, ValueError, r"Invalid `relative_to`.*Received: relative_to="),
        ({"seed": -1}, ValueError, r"Invalid `seed`.*Received: seed=-1"),
        ({"seed": 1.5}, TypeError, r"Invalid `seed`.*Received: seed=1.5"),
        ({"layer": layers.Dense}, ValueError, r"isn't a supported layer type.*Received: layer="),
        ({"layer": None}, ValueError, r"isn't a supported layer type.*Received: layer=None"),
        ({"units": 3}, ValueError, "Unrecognized keyword arguments"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        GaussianWeightNoise(**{"layer": layers.Dense(2), **arguments})


def test_config_returns_the_arguments():
    layer = GaussianWeightNoise(layers.Dense(2), np.float32(0.5), relative_to="std", seed=3)
    config = layer.get_config()
    assert (config["stddev"], config["relative_to"], config["seed"]) == (0.5, "std", 3)
    assert layer.seed_generator.state.numpy().tolist() == [3, 0]


@pytest.mark.parametrize(
    ("kind", "arguments", "inputs"),
    [
        (layers.Dense, {"units": 2}, [X]),
        (layers.MultiHeadAttention, {"num_heads": 2, "key_dim": 2}, [X[None], X[None]]),
    ],
)
def test_builds_from_a_build_config(kind, arguments, inputs):
    layer, other = (GaussianWeightNoise(kind(**arguments)) for _ in range(2))
    layer(*inputs)
    other.build_from_config(layer.get_build_config())
    assert [v.shape for v in other.weights] == [v.shape for v in layer.weights]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer": GaussianWeightNoise(layers.LSTM(2))}, "Wrap it from outside"),
        (
            {
                "layer": layers.LSTM(2),
                "backward_layer": GaussianWeightNoise(layers.LSTM(2, go_backwards=True)),
            },
            "Wrap it from outside",
        ),
    ],
)
def test_bidirectional_says_to_wrap_from_outside(arguments, message):
    with pytest.raises((ValueError, AttributeError), match=message):
        layers.Bidirectional(**arguments)


# Layers without kernels, frozen, quantized, with LoRA.


class Late(layers.Layer):
    """A layer that has no `build`: its parts are built when it is called."""

    def __init__(self, *parts, **kwargs):
        super().__init__(**kwargs)
        self.parts = parts

    def call(self, x):
        for part in self.parts:
            x = part(x)
        return x


def test_no_kernels_is_an_error_as_soon_as_it_is_known():
    built = layers.BatchNormalization()
    built(X)
    with pytest.raises(ValueError, match=r"nothing to perturb in the layer 'batch_norm"):
        GaussianWeightNoise(built)
    for layer in (layers.LayerNormalization(), layers.ReLU()):
        with pytest.raises(ValueError, match=r"nothing to perturb in the layer"):
            GaussianWeightNoise(layer)(X)
    with pytest.raises(ValueError, match=r"nothing to perturb in the layer"):
        GaussianWeightNoise(layers.BatchNormalization()).build((None, 4))
    with pytest.raises(ValueError, match=r"nothing to perturb in the layer 'late"):
        GaussianWeightNoise(Late(layers.BatchNormalization()))(X, training=True)
    late = GaussianWeightNoise(Late(layers.BatchNormalization()))
    late(X)
    with pytest.raises(ValueError, match=r"nothing to perturb in the layer 'late"):
        late(X, training=True)


def freeze_inner(layer):
    layer.layer.trainable = False


def freeze_outer(layer):
    layer.trainable = False


def freeze_kernel(layer):
    layer.layer.kernel.trainable = False


def quantize(layer):
    layer.layer.quantize("int8")


@pytest.mark.slow
@pytest.mark.parametrize("change", [freeze_inner, freeze_outer, freeze_kernel, quantize])
def test_nothing_left_to_perturb_is_the_plain_call_with_one_warning(change):
    layer = dense()
    change(layer)
    with pytest.warns(UserWarning, match=r"'gaussian_weight_noise' does not perturb") as caught:
        outputs = [layer(X, training=True) for _ in range(3)]
    assert len(caught) == 1
    for output in outputs:
        np.testing.assert_array_equal(output, layer.layer(X))


def test_unfrozen_it_is_noisy_again():
    layer = dense()
    layer.trainable = False
    with pytest.warns(UserWarning, match="does not perturb"):
        layer(X, training=True)
    layer.trainable = True
    assert np.any(noise_of(layer))


@pytest.mark.parametrize(
    ("selectors", "moved"),
    [
        ({}, {"kernel"}),
        ({"variables": None}, {"kernel", "bias"}),
        ({"variables": None, "exclude": "kernel"}, {"bias"}),
        ({"variables": ["bias", lambda v: v.name == "kernel"]}, {"kernel", "bias"}),
        ({"variables": layers.Dense, "exclude": "bias"}, {"kernel"}),
    ],
)
def test_which_variables(selectors, moved):
    layer = GaussianWeightNoise(layers.Dense(3), 0.5, seed=1, **selectors)
    bias = layer(np.zeros((1, 4)), training=True)
    assert ("bias" in moved) == bool(np.any(bias != 0.0))
    layer.layer.bias.assign(np.zeros(3))
    kernel = layer(np.eye(4), training=True)
    difference = kernel - layer.layer.kernel
    assert ("kernel" in moved) == (float(tf.math.reduce_std(difference, 0)[0]) > 1e-3)


def test_selected_layers_are_not_tracked_twice():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.Dense(2)])
    layer = GaussianWeightNoise(inner, 0.5, variables=[inner.layers[1]])
    layer(X)
    assert len(layer.variables) == 5  # The seed is the fifth.
    assert len(layer.trainable_variables) == 4
    targets = selection.select(layer.layer, inner.layers[1])
    assert [t.variable.path for t in targets] == [v.path for v in inner.layers[1].variables]
    outputs = layer(np.zeros((1, 4)), training=True)
    assert np.any(outputs != 0.0)


@pytest.mark.parametrize("name", ["variables", "exclude"])
def test_selectors_that_match_nothing(name):
    with pytest.raises(
        ValueError, match=rf"nothing to perturb in the layer (.|\n)*`{name}` matches"
    ):
        GaussianWeightNoise(layers.Dense(3), **{name: "nowhere"}).build((None, 4))
    with pytest.raises(TypeError, match=f"Invalid `{name}`"):
        GaussianWeightNoise(layers.Dense(3), **{name: 3})
    with pytest.raises(ValueError, match=r"'flipout' is for the kernel.*variables="):
        GaussianWeightNoise(layers.Dense(3), estimator="flipout", **{name: "bias"})


def test_frozen_or_quantized_from_the_start_is_no_error():
    frozen = GaussianWeightNoise(layers.Dense(2, trainable=False))
    quantized = GaussianWeightNoise(layers.Dense(2, dtype="int8_from_float32"))
    for layer in (frozen, quantized):
        with pytest.warns(UserWarning, match="does not perturb"):
            np.testing.assert_array_equal(layer(X, training=True), layer(X))


@pytest.mark.slow
def test_quantized_parts_of_a_model_are_named_and_the_others_perturbed():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.Dense(2)])
    model.layers[0].quantize("int8")
    layer = GaussianWeightNoise(model)
    with pytest.warns(UserWarning, match=r"quantized kernels \['sequential/dense/kernel'\]"):
        assert np.any(noise_of(layer))


@pytest.mark.parametrize("before", [True, False], ids=["lora_then_wrap", "wrap_then_lora"])
def test_lora_has_its_noise_on_the_factors(before):
    inner = layers.Dense(2)
    inner(X)
    if before:
        inner.enable_lora(2)
    layer = GaussianWeightNoise(inner, seed=1)
    if not before:
        layer(X, training=True)
        inner.enable_lora(2)
    targets = selection.select(inner, "kernels")
    assert [t.variable.name for t in targets] == ["lora_kernel_a", "lora_kernel_b"]
    base = inner.variables[0].numpy()
    seed, step = layer.seed_generator.state.numpy()
    a, b = perturbation.perturb(
        noises.Gaussian(0.1),
        targets,
        [t.variable.value for t in targets],
        seed=seed,
        step=step,
        magnitudes=[0.1],
    )
    expected = X @ (base + a @ b) + inner.bias
    np.testing.assert_allclose(layer(X, training=True), expected, rtol=1e-5, atol=1e-6)


# Draws.


def test_each_call_draws_anew_and_a_seed_repeats():
    first, second, other = dense(), dense(), dense(seed=2)
    for layer in (second, other):
        layer.set_weights(first.get_weights())
    a, b = noise_of(first), noise_of(first)
    assert np.any(a != b)
    np.testing.assert_array_equal(noise_of(second), a)
    assert np.any(noise_of(other) != a)


@pytest.mark.slow
def test_without_a_seed_it_follows_set_random_seed():
    def run(seed):
        keras.utils.set_random_seed(seed)
        return noise_of(dense(seed=None))

    np.testing.assert_array_equal(run(1), run(1))
    assert np.any(run(1) != run(2))


def test_inference_draws_nothing():
    layer = dense()
    for training in (False, None):
        np.testing.assert_array_equal(layer(X, training=training), layer.layer(X))
    assert layer.seed_generator.state.numpy().tolist() == [1, 0]


@pytest.mark.parametrize("relative_to", ["std", "max", "filter_norm", "weight"])
def test_relative_to(relative_to):
    layer = dense(stddev=0.5, relative_to=relative_to)
    noise = noises.Gaussian(0.5, relative_to)
    targets = selection.select(layer.layer, "kernels")
    (kernel,) = perturbation.perturb(
        noise, targets, [layer.layer.kernel.value], seed=1, step=0, magnitudes=[0.5]
    )
    np.testing.assert_allclose(
        layer(X, training=True), X @ kernel + layer.layer.bias, rtol=1e-5, atol=1e-6
    )


def test_the_strength_can_be_changed():
    layer = dense(stddev=0.0)
    np.testing.assert_array_equal(layer(X, training=True), layer(X))
    layer.stddev = 0.1
    assert np.any(noise_of(layer))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_draws_and_adds_in_float32(policy):
    # Weights and noise far below the resolution of the compute dtype, whose sum is not.
    layer = GaussianWeightNoise(layers.Dense(64, use_bias=False, dtype=policy), 2e-4, seed=1)
    x = tf.eye(64)
    layer(x)
    layer.layer.kernel.assign(1.0 + np.random.default_rng(0).normal(0, 2e-4, (64, 64)))
    (kernel,) = perturbation.perturb(
        noises.Gaussian(2e-4),
        selection.select(layer.layer, "kernels"),
        [layer.layer.kernel.value],
        seed=1,
        step=0,
        magnitudes=[2e-4],
    )
    outputs = layer(x, training=True)
    assert outputs.dtype == layer.compute_dtype == layer.layer.compute_dtype
    np.testing.assert_array_equal(outputs, tf.cast(kernel, outputs.dtype))
    assert all(g.dtype == "float32" for g in gradients(layer, x))


@pytest.mark.slow
def test_xla_draws_the_same():
    plain, compiled = dense(), dense()
    compiled.set_weights(plain.get_weights())
    call = tf.function(lambda x: compiled(x, training=True), jit_compile=True)
    for _ in range(2):
        np.testing.assert_allclose(call(X), plain(X, training=True), rtol=1e-4, atol=1e-5)


def test_wrapped_twice_both_are_added():
    inner = dense(seed=1)
    outer = GaussianWeightNoise(inner, 0.2, seed=2)
    expected = inner.layer.kernel.numpy()
    for layer, seed, stddev in ((inner, 1, 0.1), (outer, 2, 0.2)):
        (noisy,) = perturbation.perturb(
            noises.Gaussian(stddev),
            selection.select(layer.layer, "kernels"),
            [inner.layer.kernel.value],
            seed=seed,
            step=0,
            magnitudes=[stddev],
        )
        expected += noisy - inner.layer.kernel
    x = tf.eye(4)
    np.testing.assert_allclose(outer(x, training=True), expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(outer(x), inner.layer(x))
    assert all(np.any(g) for g in gradients(outer))


# How Keras calls it.


def test_training_is_what_an_outer_call_says():
    model = keras.Sequential([keras.Input((4,)), Late(dense())])
    assert np.any(noise_of(model))


@pytest.mark.parametrize("default", [None, False, True])
def test_layers_beside_it_see_the_training_they_saw(default):
    seen = []

    class Wrapped(layers.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1], 2))

        def call(self, x, training=default):
            seen.append(training)
            return keras.ops.matmul(x, self.kernel)

    class Beside(layers.Layer):
        def call(self, x, training=None):
            seen.append(training)
            return x

    inner = Wrapped()
    for training in ({}, {"training": False}, {"training": True}):
        seen.clear()
        Late(inner, Beside())(X, **training)
        plain = seen.copy()
        seen.clear()
        wrapped = GaussianWeightNoise(inner)
        Late(wrapped, Beside())(X, **training)
        assert seen == plain
    # A default of the wrapped layer's asks for no noise.
    np.testing.assert_array_equal(wrapped(X), inner(X))


# Keras 3.5 itself warns so, without the wrapper too.
masked_attention = pytest.mark.filterwarnings(
    "ignore:.*EinsumDense. was passed an input with a mask"
)


@masked_attention
def test_masks_reach_the_layer_and_those_after_it():
    ids = tf.constant([[1, 2, 0, 0], [3, 0, 0, 0]])
    embedding, lstm = layers.Embedding(5, 3, mask_zero=True), layers.LSTM(2)
    plain = keras.Sequential([embedding, lstm])
    wrapped = keras.Sequential([GaussianWeightNoise(embedding), GaussianWeightNoise(lstm)])
    np.testing.assert_array_equal(wrapped(ids), plain(ids))
    assert np.any(plain(ids) != lstm(embedding(ids), mask=tf.ones_like(ids, bool)))
    # Symbolically as well.
    mask = wrapped.layers[0].compute_mask(keras.Input((4,), dtype="int32"))
    assert mask.shape == (None, 4)
    attention = layers.MultiHeadAttention(2, 2)
    outputs = []
    for layer in (attention, GaussianWeightNoise(attention)):
        query = embedding(ids)  # Anew: the attention takes the mask off its inputs.
        outputs.append(layer(query, query))
    np.testing.assert_array_equal(*outputs)
    unmasked = tf.identity(query)
    assert np.any(outputs[0] != attention(unmasked, unmasked))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_initial_states(name):
    plain = getattr(layers, name)(3, return_state=True)
    sequence = tf.ones((2, 5, 4))
    states = [tf.fill((2, 3), 0.5) for _ in plain(sequence)[1:]]
    layer = GaussianWeightNoise(plain, seed=1)
    expected = plain(sequence, initial_state=states)
    for actual in (
        layer(sequence, initial_state=states),
        layer(sequence, states),
    ):
        tf.nest.map_structure(np.testing.assert_array_equal, actual, expected)
    assert np.any(layer(sequence, initial_state=states, training=True)[0] != expected[0])


@pytest.mark.slow
def test_several_inputs_and_options():
    attention = layers.MultiHeadAttention(2, 2)
    layer = GaussianWeightNoise(attention, seed=1)
    q, v = tf.ones((2, 3, 4)), tf.ones((2, 5, 4))
    mask = tf.ones((2, 3, 5), bool)
    outputs, scores = layer(q, value=v, attention_mask=mask, return_attention_scores=True)
    expected = attention(q, v, attention_mask=mask, return_attention_scores=True)
    np.testing.assert_array_equal(outputs, expected[0])
    np.testing.assert_array_equal(scores, expected[1])
    assert np.any(layer(q, v, training=True) != outputs)
    inputs = keras.Input((3, 4)), keras.Input((5, 4))
    model = keras.Model(inputs, layer(*inputs))
    model.compile("sgd", "mse")
    model.fit([q, v], tf.ones((2, 3, 4)), verbose=0)


def test_inputs_are_cast_only_as_the_layer_casts_them():
    ids = tf.constant([[4097.0]])  # Which is no number in float16.
    embedding = layers.Embedding(5000, 2, dtype="mixed_float16")
    np.testing.assert_array_equal(GaussianWeightNoise(embedding)(ids), embedding(ids))


def test_errors_of_the_input_are_those_of_keras():
    with pytest.raises(ValueError, match="incompatible with the layer"):
        dense()(tf.ones((2, 5)))
    with pytest.raises(ValueError, match="incompatible with the layer"):
        GaussianWeightNoise(layers.Conv2D(2, 2))(keras.Input((4,)))


@pytest.mark.slow
def test_stateful_layers_keep_their_states():
    plain, inner = layers.LSTM(2, stateful=True), layers.LSTM(2, stateful=True)
    sequence = tf.ones((2, 3, 4))
    plain(sequence), inner(sequence)
    inner.set_weights(plain.get_weights())
    plain.reset_states(), inner.reset_states()
    layer = GaussianWeightNoise(inner, 1e-30)  # Too little to see, but noisy calls.
    for _ in range(2):
        np.testing.assert_allclose(
            layer(sequence, training=True), plain(sequence, training=True), atol=1e-6
        )


@pytest.mark.slow
def test_custom_cell_with_dropout_in_a_loop():
    class Cell(layers.Layer):
        state_size = 3

        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1] + 3, 3), name="kernel")
            self.dropout = layers.Dropout(0.5, seed=1)

        def call(self, x, states, training=None):
            h = keras.ops.matmul(keras.ops.concatenate([x, states[0]], -1), self.kernel)
            h = self.dropout(keras.ops.tanh(h), training=training)
            return h, [h]

    layer = GaussianWeightNoise(layers.RNN(Cell()), 0.1, seed=1)
    sequence = tf.ones((2, 5, 4))
    layer(sequence)
    dropout = layer.layer.cell.dropout.seed_generator.state
    drawn = []
    for each in (layer.layer, layer):
        dropout.assign([1, 0])
        call = tf.function(
            lambda x, each=each: each(x, training=True),
            input_signature=[tf.TensorSpec((None, None, 4))],
        )
        first = call(sequence)
        assert np.any(call(sequence) != first)
        drawn.append(dropout.numpy()[1])
    assert drawn[0] == drawn[1] >= 10


@pytest.mark.slow
@pytest.mark.parametrize("steps", [3, None])
def test_around_and_inside_time_distributed(steps):
    for layer in (
        GaussianWeightNoise(layers.TimeDistributed(layers.Dense(2)), seed=1),
        layers.TimeDistributed(GaussianWeightNoise(layers.Dense(2), seed=1)),
    ):
        model = keras.Sequential([keras.Input((steps, 4)), layer])
        model.compile("sgd", "mse")
        model.fit(tf.ones((2, 3, 4)), tf.ones((2, 3, 2)), verbose=0)
        assert np.any(noise_of(layer, tf.ones((2, 3, 4))))


@pytest.mark.slow
def test_layers_that_are_built_when_called():
    layer = GaussianWeightNoise(Late(layers.Dense(3), layers.Dense(2)), seed=1)
    assert all(np.any(g) for g in gradients(layer))  # The first call.
    assert np.any(noise_of(layer))
    model = keras.Sequential([keras.Input((4,)), GaussianWeightNoise(Late(layers.Dense(2)))])
    assert len(model.weights) == 2

    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.first, self.second = layers.Dense(3), GaussianWeightNoise(layers.Dense(2), seed=1)

        def call(self, x, training=None):
            return self.second(self.first(x))

    for model in (Subclassed(), GaussianWeightNoise(Subclassed(), seed=1)):
        assert all(np.any(g) for g in gradients(model))
    model = Subclassed()
    model.compile("sgd", "mse")
    model.fit(X, Y, verbose=0)
    assert np.any(noise_of(model))


def test_losses_that_layers_add():
    class Penalty(layers.Layer):
        def call(self, x):
            self.add_loss(keras.ops.sum(x))
            return x

    inputs = keras.Input((4,))
    hidden = layers.Dense(3, activity_regularizer="l2", kernel_regularizer="l1")(inputs)
    functional = keras.Model(inputs, Penalty()(hidden))
    for layer in (Late(functional), functional):
        wrapped = GaussianWeightNoise(layer, 1e-30)
        layer(X)
        expected = [float(loss) for loss in layer.losses]
        assert len(expected) == 3
        for _ in range(2):  # They do not add up over calls.
            wrapped(X, training=True)
            np.testing.assert_allclose(sorted(wrapped.losses), sorted(expected), rtol=1e-5)


def test_a_lambda_that_reads_a_kernel_of_the_wrapped_model():
    first = layers.Dense(4, use_bias=False)
    tied = layers.Lambda(lambda x: keras.ops.matmul(x, keras.ops.transpose(first.kernel)))
    layer = GaussianWeightNoise(keras.Sequential([keras.Input((4,)), first, tied]), seed=1)
    (noisy,) = perturbation.perturb(
        noises.Gaussian(0.1),
        selection.select(layer.layer, "kernels"),
        [first.kernel.value],
        seed=1,
        step=0,
        magnitudes=[0.1],
    )
    np.testing.assert_allclose(
        layer(X, training=True), X @ noisy @ tf.transpose(noisy), rtol=1e-4, atol=1e-5
    )


# Training, saving, exporting.


def network():
    return keras.Sequential(
        [
            keras.Input((4,)),
            GaussianWeightNoise(layers.Dense(3, activation="relu"), 0.1, seed=1),
            layers.BatchNormalization(),
            GaussianWeightNoise(
                keras.Sequential([layers.Dropout(0.5, seed=1), layers.Dense(2)]), 0.1, seed=2
            ),
        ]
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"run_eagerly": True}, {"jit_compile": False}, {"jit_compile": True}], ids=str
)
def test_fit(options):
    model = network()
    model.compile("adam", "mse", **options)
    before = model.get_weights()
    model.fit(X, Y, batch_size=4, epochs=2, verbose=0)
    assert model.layers[0].seed_generator.state.numpy().tolist() == [1, 4]
    for old, new in zip(before, model.get_weights(), strict=True):
        assert np.all(np.isfinite(new))
        assert np.any(old != new)
    np.testing.assert_allclose(
        model.evaluate(X, Y, verbose=0), np.mean((model(X) - Y) ** 2), rtol=1e-5
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TensorFlow's own.
def test_mirrored_strategy():
    with fits.strategy().scope():
        model = network()
        model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
    before = model.get_weights()
    model.fit(X, Y, batch_size=4, verbose=0)
    assert model.layers[0].seed_generator.state.numpy()[0] == 1
    assert any(np.any(a != b) for a, b in zip(before, model.get_weights(), strict=True))


@pytest.mark.slow
def test_keras_file_round_trip(tmp_path):
    model = network()
    model.compile("adam", "mse")
    model.fit(X, Y, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(X), model(X))
    configs = [each.layers[0].get_config() for each in (loaded, model)]
    for config in configs:
        del config["layer"]["build_config"]  # A shape is read back as a list.
    assert configs[0] == configs[1]
    assert np.any(noise_of(loaded))
    loaded.fit(X, Y, verbose=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [lambda layer: layer.quantize("int8"), lambda layer: setattr(layer, "trainable", False)],
)
def test_quantized_and_frozen_layers_load(tmp_path, change):
    model = network()
    change(model.layers[0].layer)
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "model.keras")(X), model(X))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_a_model_with_wrapped_layers_is_quantized():
    model = network()
    model.quantize("int8")
    assert model.layers[0].layer.quantization_mode == "int8"
    with pytest.warns(UserWarning, match="does not perturb the quantized kernels") as caught:
        model(X, training=True)
    assert len(caught) == 2


@keras.saving.register_keras_serializable("test_wrapper")
def is_bias(variable):
    return variable.name == "bias"


def test_selectors_are_saved(tmp_path):
    layer = GaussianWeightNoise(layers.Dense(2), variables=["ker", is_bias], exclude="bias")
    model = keras.Sequential([keras.Input((4,)), layer])
    model.save(tmp_path / "model.keras")
    config = keras.saving.load_model(tmp_path / "model.keras").layers[0].get_config()
    for name in ("variables", "exclude"):
        assert config[name] == layer.get_config()[name]
    (clone,) = keras.models.clone_model(model).layers
    np.testing.assert_array_equal(clone(np.zeros((1, 4)), training=True), np.zeros((1, 2)))


@pytest.mark.parametrize("selector", [layers.Dense(2), layers.Dense, ["bias", layers.Dense]])
def test_layers_and_classes_cannot_be_saved(selector):
    layer = GaussianWeightNoise(layers.Dense(2), variables=selector)
    with pytest.raises(ValueError, match=r"cannot be saved or cloned.*Received: variables="):
        layer.get_config()


def test_clones_and_copies():
    model = network()
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(clone(X), model(X))
    assert clone.layers[0].layer is not model.layers[0].layer
    np.testing.assert_array_equal(copy.deepcopy(model)(X), model(X))


@pytest.mark.slow
def test_weights_line_up_with_the_plain_layers():
    for inner in (layers.Bidirectional(layers.LSTM(2)), network()):
        x = X if inner.built else tf.ones((2, 3, 4))
        plain = type(inner).from_config(inner.get_config())
        plain(x)
        wrapped = GaussianWeightNoise(inner)
        wrapped(x)
        plain.set_weights(wrapped.get_weights())
        np.testing.assert_array_equal(plain(x), wrapped(x))
        assert [v.name for v in plain.weights] == [v.name for v in wrapped.weights]


# TensorFlow's own, of its interpreter and of reading what it exported.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*tf.lite.Interpreter is deprec")
def test_exports_have_no_random_op(tmp_path):
    model = network()
    model.compile("sgd", "mse")
    model.fit(X, Y, verbose=0)
    model.export(tmp_path)
    graph = tf.saved_model.load(tmp_path).signatures["serving_default"].graph.as_graph_def()
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    assert "MatMul" in {node.op for node in nodes}
    assert not [node.op for node in nodes if "Shift" in node.op or "Assign" in node.op]

    interpreter = tf.lite.Interpreter(
        model_content=tf.lite.TFLiteConverter.from_saved_model(str(tmp_path)).convert()
    )
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], X[:1])
    interpreter.invoke()
    outputs = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(outputs, model(X[:1]), rtol=1e-5, atol=1e-6)


def test_no_warnings_and_no_state_beyond_the_seed():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer = dense()
        layer(X, training=True)
    assert [v.name for v in layer.variables] == ["seed_generator_state", "kernel", "bias"]


NOISES = {
    "device": lambda: noises.PCM(),
    "composition": lambda: noises.Quantization(4) + noises.Gaussian(0.1, "max"),
    "another law": lambda: noises.Uniform(0.3),
    "that is clean at no magnitude": lambda: noises.PCM(0.0),
}


@pytest.mark.parametrize("make", NOISES.values(), ids=NOISES)
def test_any_noise(make, tmp_path):
    noise = make()
    model = keras.Sequential(
        [keras.Input((4,)), GaussianWeightNoise(layers.Dense(3), noise=noise, seed=5, name="noisy")]
    )
    model.save(tmp_path / "model.keras")
    x = tf.ones((2, 4))
    for each in (model, keras.saving.load_model(tmp_path / "model.keras")):
        wrapper = each.get_layer("noisy")
        assert wrapper.noise == noise
        clean = wrapper.layer(x)
        np.testing.assert_array_equal(each(x), clean)
        noisy = each(x, training=True)
        assert np.any(noisy != clean)
        expected = noisy_call(wrapper.layer, noise, x, seed=5, step=0, variables="kernels")
        np.testing.assert_allclose(noisy, expected, rtol=1e-6)


def test_a_noise_from_before_stddev_was_none_beside_it():
    config = GaussianWeightNoise(layers.Dense(3), noise=noises.PCM()).get_config()
    assert GaussianWeightNoise.from_config({**config, "stddev": 0.1}).noise == noises.PCM()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"noise": noises.PCM(), "stddev": 0.2}, ValueError, "no `stddev`.*stddev=0.2"),
        ({"noise": noises.PCM(), "stddev": 0.1}, ValueError, "no `stddev`.*stddev=0.1"),
        ({"noise": noises.PCM(), "stddev": 0.0}, ValueError, "no `stddev`.*stddev=0.0"),
        ({"noise": noises.PCM(), "relative_to": "max"}, ValueError, "relative_to='max'"),
        ({"noise": noises.PCM(), "estimator": "flipout"}, ValueError, "estimator='flipout'"),
        ({"noise": "pcm"}, TypeError, "Invalid `noise`"),
        ({"noise": noises.PCM}, TypeError, "Invalid `noise`"),
        ({"noise": noises.Uniform(LinearRamp(0, 1, 0, 9))}, TypeError, "noise=Uniform.*Ramp"),
    ],
)
def test_bad_noises(arguments, error, message):
    with pytest.raises(error, match=message):
        GaussianWeightNoise(layers.Dense(3), **arguments)
