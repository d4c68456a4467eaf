"""VariationalWeightNoise: its draws, its divergence, and what becomes of its parameters.

`test_keras_conformance.py` has what Keras asks of it around several kinds of layer, `test_priors.py` the
divergences themselves.
"""

import copy
import warnings

import fits
import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_weightnoise import (
    GaussianWeightNoise,
    VariationalWeightNoise,
    WeightNoiseCallback,
    noisy_call,
    perturb_weights,
    priors,
    schedules,
)
from keras_weightnoise._random import drawing, laws
from keras_weightnoise._random.generator import make_key
from keras_weightnoise._weights import selection

layers = keras.layers
X = tf.constant(np.random.default_rng(0).normal(size=(8, 4)), "float32")
Y = tf.ones((8, 2))
ESTIMATORS = ["shared", "flipout", "local_reparameterization"]
EXAMPLES = 50


def variational(layer=None, x=X, **kwargs):
    """A wrapped layer, built, whose standard deviations are not all the same."""
    layer = VariationalWeightNoise(
        layers.Dense(2) if layer is None else layer, **{"examples": EXAMPLES, "seed": 1, **kwargs}
    )
    layer(x)
    rng = np.random.default_rng(1)
    for variable in layer.noise.trainable_variables:
        variable.assign(rng.uniform(-3.0, 0.0, variable.shape))
    return layer


def sequential(*parts, **compiling):
    model = keras.Sequential([keras.Input((4,)), *parts])
    model.compile(**{"optimizer": keras.optimizers.SGD(0.1), "loss": "mse", **compiling})
    return model


def total(losses):
    return float(sum(losses))


def scaled(*layers):
    return sum(float(layer.kl_divergence()) for layer in layers) / EXAMPLES


# Arguments.


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"examples": 0}, ValueError, r"Invalid `examples`.*Received: examples=0"),
        ({"examples": "8"}, TypeError, r"Invalid `examples`.*Received: examples='8'"),
        ({"prior": -1.0}, ValueError, r"Invalid `prior`.*Received: prior=-1.0"),
        ({"prior": "normal"}, TypeError, r"Invalid `prior`.*Received: prior='normal'"),
        ({"initial_stddev": 0.0}, ValueError, r"Invalid `initial_stddev`.*> 0"),
        ({"relative_to": "max"}, ValueError, r"Invalid `relative_to`.*Received: relative_to='max'"),
        ({"kl_weight": -1.0}, ValueError, r"Invalid `kl_weight`.*Received: kl_weight=-1.0"),
        ({"kl_weight": None}, TypeError, r"Invalid `kl_weight`"),
        ({"estimator": "other"}, ValueError, r"Invalid `estimator`"),
        ({"seed": -1}, ValueError, r"Invalid `seed`"),
        ({"layer": None}, ValueError, r"isn't a supported layer type"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        VariationalWeightNoise(**{"layer": layers.Dense(2), "examples": 8, **arguments})


def test_examples_have_no_default():
    with pytest.raises(TypeError, match="examples"):
        VariationalWeightNoise(layers.Dense(2))


def test_nothing_to_perturb_and_not_built():
    with pytest.raises(ValueError, match=r"`VariationalWeightNoise` has nothing to perturb"):
        VariationalWeightNoise(layers.ReLU(), examples=8)(X)
    for method in ("stddevs", "kl_divergence"):
        with pytest.raises(ValueError, match="no standard deviations yet"):
            getattr(VariationalWeightNoise(layers.Dense(2), examples=8), method)()


@pytest.mark.parametrize("prior", [priors.Gaussian(0.5), priors.LearnedGaussian(0.3)])
def test_initial_standard_deviations(prior):
    layer = VariationalWeightNoise(layers.Dense(3), examples=8, initial_stddev=0.2, prior=prior)
    layer.build((None, 4))
    ((variable, stddev),) = layer.stddevs()
    assert variable is layer.layer.kernel
    np.testing.assert_allclose(stddev, np.full((4, 3), 0.2), rtol=1e-6)
    inner = layers.Dense(3)
    inner.build((None, 4))
    inner.kernel.assign(np.arange(12.0).reshape(4, 3))  # As if trained.
    layer = VariationalWeightNoise(inner, examples=8, initial_stddev=0.2, relative_to="std")
    layer(X)
    np.testing.assert_allclose(layer.stddevs()[0][1], 0.2 * np.std(np.arange(12)), rtol=1e-5)
    with pytest.raises(ValueError, match=r"'.*bias'.*are all equal.*relative_to='std'"):
        VariationalWeightNoise(inner, examples=8, relative_to="std", variables=None)(X)


# Draws and gradients.


def test_shared_noise_and_its_gradients_are_those_by_hand():
    layer = variational()
    mu, rho = layer.layer.kernel, layer.noise.trainable_variables[0]
    (target,) = selection.select(layer.layer, "kernels")
    for step in range(2):
        key = make_key(1, step)
        (n,) = drawing.draw(laws.NORMAL, key, [target.start], [(4, 2)])
        with tf.GradientTape() as tape:
            outputs = layer(X, training=True)
            loss = tf.reduce_sum(outputs**2)
        noisy = mu + np.log1p(np.exp(rho)) * n
        np.testing.assert_allclose(outputs, X @ noisy + layer.layer.bias, rtol=1e-5, atol=1e-6)
        by_kernel = tf.transpose(X) @ (2.0 * outputs)
        actual = tape.gradient(loss, [mu, rho])
        np.testing.assert_allclose(actual[0], by_kernel, rtol=1e-4)
        slope = 1.0 / (1.0 + np.exp(-rho.numpy()))
        np.testing.assert_allclose(actual[1], by_kernel * n * slope, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.any_version
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_outputs_have_the_variance_of_the_learned_noise(estimator):
    """Over many outputs, which are independent, and of one law if their standard deviations are the same."""
    layer, x = variational(layers.Dense(10_000), estimator=estimator), X[:2] * [[0.0], [1.0]]
    rho = layer.noise.trainable_variables[0]
    rho.assign(tf.repeat(rho[:, :1], 10_000, axis=1))
    with tf.GradientTape() as tape:
        difference = layer(x, training=True) - layer(x)
        variance = tf.reduce_mean(difference**2, 1)
    expected = tf.square(x[1]) * tf.square(layer.stddevs()[0][1][:, 0])
    assert variance[0] == 0.0
    np.testing.assert_allclose(variance[1], np.sum(expected), rtol=0.08)
    actual = np.sum(tape.gradient(variance, rho), 1)
    slope = 1.0 / (1.0 + np.exp(-rho[:, 0]))
    expected = 2.0 * expected / layer.stddevs()[0][1][:, 0] * slope
    np.testing.assert_allclose(actual, expected, rtol=0.1, atol=0.05 * np.max(expected))


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_precision(estimator, policy):
    layer = variational(layers.Dense(2, dtype=policy), estimator=estimator)
    assert {v.dtype for v in layer.trainable_variables} == {layer.variable_dtype}
    with tf.GradientTape() as tape:
        outputs = layer(X, training=True)
        loss = tf.reduce_sum(tf.cast(outputs, "float32")) + sum(layer.losses)
    assert outputs.dtype == layer.compute_dtype
    assert layer.losses[0].dtype == "float32"
    gradients = tape.gradient(loss, layer.trainable_variables)
    assert all(np.all(np.isfinite(g)) and g.dtype == layer.variable_dtype for g in gradients)
    model = sequential(VariationalWeightNoise(layers.Dense(2, dtype=policy), examples=8))
    model.fit(X, Y, verbose=0)


# The divergence in the losses.


def twice(layer):
    """A model that calls a layer twice."""
    inputs = keras.Input((4,))
    return keras.Model(inputs, layers.Add()([layer(inputs), layer(2.0 * inputs)]))


class InLoop(layers.Layer):
    """Calls a layer in a loop."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def call(self, x, training=None):
        return tf.map_fn(lambda row: self.layer(row[None], training=training)[0], x)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda layer: keras.Sequential([keras.Input((4,)), layer]),
        twice,
        lambda layer: keras.Sequential([keras.Input((4,)), keras.Sequential([layer])]),
        lambda layer: keras.Sequential([keras.Input((4,)), InLoop(layer)]),
        lambda layer: keras.Sequential(
            [keras.Input((4,)), layers.Reshape((1, 4)), layers.TimeDistributed(layer)]
        ),
    ],
    ids=["once", "twice", "nested", "loop", "time_distributed"],
)
@pytest.mark.parametrize("eager", [False, True])
def test_is_counted_once_in_training_and_not_otherwise(make, eager):
    layer = variational()
    model = make(layer)
    losses = {}

    def look(training):
        model(X, training=training)
        return tf.add_n([tf.constant(0.0), *model.losses])

    for training in (True, False, None):
        function = look if eager else tf.function(look)
        losses[training] = float(function(training))
    np.testing.assert_allclose(losses[True], scaled(layer), rtol=1e-5)
    assert losses[False] == losses[None] == 0.0
    model.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=eager)
    y = tf.ones_like(model(X))
    mse = float(tf.reduce_mean((model(X) - y) ** 2))
    history = model.fit(X, y, validation_data=(X, y), verbose=0).history
    np.testing.assert_allclose(history["val_loss"], mse, rtol=1e-5)
    assert history["loss"][0] > scaled(layer)


@pytest.mark.parametrize("eager", [False, True])
def test_a_clean_call_in_the_step_does_not_hide_it(eager):
    layer = variational()

    class Student(keras.Sequential):
        def train_step(self, data):
            x, _ = data
            with tf.GradientTape() as tape:
                self(x, training=True)
                self(x, training=False)  # As of a teacher, or of next states.
                loss = tf.add_n(self.losses)
            (gradient,) = tape.gradient(loss, layer.noise.trainable_variables)
            return {"loss": loss, "gradient": tf.reduce_sum(tf.abs(gradient))}

    model = Student([keras.Input((4,)), layer])
    model.compile(run_eagerly=eager)
    history = model.fit(X, Y, verbose=0).history
    np.testing.assert_allclose(history["loss"], scaled(layer), rtol=1e-5)
    assert history["gradient"][0] > 0.0


@pytest.mark.slow
def test_a_layer_that_only_training_calls_is_not_in_val_loss():
    layer = variational()

    class Auxiliary(layers.Layer):
        def __init__(self):
            super().__init__()
            self.head = layer

        def call(self, x, training=None):
            return x + self.head(x, training=True)[:, :1] if training else x

    model = sequential(Auxiliary())
    history = model.fit(X, X, validation_data=(X, X), verbose=0).history
    assert history["loss"][0] > scaled(layer)
    assert history["val_loss"] == [0.0]


def test_the_scale_of_the_divergence():
    for examples, weight in ((10, 1.0), (1000, 0.5)):
        layer = variational(examples=examples, kl_weight=weight)
        layer(X, training=True)
        expected = weight * float(layer.kl_divergence()) / examples
        np.testing.assert_allclose(total(layer.losses), expected, rtol=1e-6)


# Of Keras 3.5, after the last of several steps in one call.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize("options", [{}, {"run_eagerly": True}, {"steps_per_execution": 2}])
def test_annealing(options, tmp_path):
    ramp = schedules.LinearRamp(0.0, 1.0, start_step=2, ramp_steps=4)
    model = sequential(variational(kl_weight=ramp))
    model.compile(keras.optimizers.SGD(0.0), lambda y, y_pred: 0.0 * y_pred, **options)
    (layer,) = model.layers
    weights = [model.fit(X, Y, batch_size=4, verbose=0).history["loss"][0] for _ in range(4)]
    expected = np.mean([ramp(step) for step in range(8)])
    np.testing.assert_allclose(np.mean(weights) / scaled(layer), expected, rtol=1e-5)
    assert int(layer.noise.step.numpy()) == 8
    model.evaluate(X, Y, verbose=0)
    assert int(layer.noise.step.numpy()) == 8
    model = keras.Sequential([keras.Input((4,)), layer])  # Without the lambda it was compiled with.
    model.save(tmp_path / "model.keras")
    (loaded,) = keras.saving.load_model(tmp_path / "model.keras").layers
    assert int(loaded.noise.step.numpy()) == 8
    assert isinstance(loaded.kl_weight, schedules.LinearRamp)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TensorFlow's own.
def test_replicas_share_one_divergence_as_they_share_one_regularizer():
    """Inputs of 0: the divergence alone trains rho."""

    def train():
        """How far rho moves, and how far a weight that has a regularizer."""
        layer = VariationalWeightNoise(
            layers.Dense(1), examples=20, kl_weight=schedules.LinearRamp(1, 2, 0, 4)
        )
        plain = layers.Dense(
            1, kernel_regularizer=keras.regularizers.L1(0.01), kernel_initializer="ones"
        )
        model = keras.Sequential([keras.Input((4,)), plain, layer])
        model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
        before = [*layer.noise.get_weights(), plain.kernel.numpy()]
        model.fit(tf.zeros((8, 4)), tf.zeros((8, 1)), batch_size=4, epochs=2, verbose=0)
        after = [*layer.noise.get_weights(), plain.kernel.numpy()]
        moved = [float(np.ravel(b - a)[0]) for a, b in zip(before, after, strict=True)]
        assert moved[1] == 4  # The count of steps.
        return moved[0], moved[2]

    expected = train()
    with fits.strategy().scope():
        actual = train()
    # Before Keras 3.6, every loss of layers counts once for each replica, those of regularizers too.
    factor = round(actual[1] / expected[1])
    assert factor == 1 or keras.version() == "3.5.0"
    np.testing.assert_allclose(actual[0], factor * expected[0], rtol=0.01)


@pytest.mark.slow
def test_parameters_of_the_prior_are_trained():
    layer = variational(prior=priors.LearnedGaussian(3.0))
    rho = layer.noise.trainable_variables[1]
    rho.assign(priors.softplus_inverse(3.0))
    before = float(tf.math.softplus(rho))
    model = sequential(layer)
    model.fit(X, Y, epochs=5, verbose=0)
    assert rho.name == "kernel_prior_rho"
    assert float(tf.math.softplus(rho)) < before


def test_estimates_by_monte_carlo_differ_from_step_to_step():
    layer = variational(prior=priors.ScaleMixture())
    layer(X, training=True)
    first, second = total(layer.losses), total(layer.losses)
    assert first != second
    assert abs(first / second - 1.0) < 0.5


# What is frozen, has LoRA, is quantized.


@pytest.mark.parametrize("freeze", [lambda each: each, lambda each: each.layer])
def test_frozen_layers_are_plain_and_without_divergence(freeze):
    layer = variational()
    freeze(layer).trainable = False
    with pytest.warns(UserWarning, match="does not perturb anything"):
        np.testing.assert_array_equal(layer(X, training=True), layer(X))
    layer(X, training=True)
    assert total(layer.losses) == 0.0
    freeze(layer).trainable = True
    plain = layer(X)
    assert np.any(layer(X, training=True) != plain)
    np.testing.assert_allclose(total(layer.losses), scaled(layer), rtol=1e-6)


def test_what_is_partly_frozen_has_the_divergence_of_the_rest():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.Dense(2)])
    layer = variational(inner)
    names = [v.name for v in layer.noise.trainable_variables]
    assert len(set(names)) == 2, names
    inner.layers[0].trainable = False
    layer(X, training=True)
    with_rest = total(layer.losses)
    inner.layers[0].trainable = True
    layer(X, training=True)
    assert 0.0 < with_rest < total(layer.losses)


def test_lora():
    inner = layers.Dense(2)
    inner(X)
    inner.enable_lora(1)
    layer = variational(inner)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(X, training=True) ** 2)
    gradients = dict(
        zip(
            [v.name for v in layer.noise.trainable_variables],
            tape.gradient(loss, layer.noise.trainable_variables),
            strict=True,
        )
    )
    assert {name for name, g in gradients.items() if g is not None} == {
        "lora_kernel_a_rho",
        "lora_kernel_b_rho",
    }
    late = variational()
    late.layer.enable_lora(1)
    late(X)
    with pytest.raises(ValueError, match=r"no learned standard deviations for .*wrapped last"):
        late(X, training=True)


@pytest.mark.slow
def test_quantized_layers_are_plain():
    layer = variational()
    layer.layer.quantize("int8")
    with pytest.warns(UserWarning, match="does not perturb the quantized kernels"):
        np.testing.assert_array_equal(layer(X, training=True), layer(X))
    assert total(layer.losses) == 0.0


# Its parameters.


@pytest.mark.slow
def test_they_come_after_the_weights_of_the_layer_and_are_saved(tmp_path):
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.Dense(2)])
    layer = variational(inner, prior=priors.LearnedGaussian(), variables=None)
    count = len(inner.weights)
    for plain, wrapped in zip(inner.weights, layer.weights[:count], strict=True):
        assert plain is wrapped
    assert len(layer.weights) == count + 8
    assert all(v.name.endswith("_rho") for v in layer.weights[count:])
    model = sequential(layer)
    model.fit(X, Y, verbose=0)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    copied = copy.deepcopy(model)
    cloned = keras.models.clone_model(model)
    assert np.any(cloned.get_weights()[0] != model.get_weights()[0])
    cloned.load_weights(tmp_path / "model.weights.h5")
    for other in (loaded, copied, cloned):
        for a, b in zip(other.get_weights(), model.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
        for (_, a), (_, b) in zip(other.layers[0].stddevs(), layer.stddevs(), strict=True):
            np.testing.assert_array_equal(a, b)
        assert other.layers[0].prior == priors.LearnedGaussian()
        other(X, training=True)
        np.testing.assert_allclose(total(other.losses), scaled(layer), rtol=1e-5)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_what_is_kept_is_rho_and_its_slots(estimator):
    def kept(layer):
        layer(X, training=True)
        optimizer = keras.optimizers.Adam()
        optimizer.build(layer.trainable_variables)
        return sum(int(np.prod(v.shape)) for v in (*layer.variables, *optimizer.variables))

    seed, rho_and_slots = 2, 3 * 4 * 2
    noisy = kept(VariationalWeightNoise(layers.Dense(2), examples=8, estimator=estimator))
    assert noisy == kept(layers.Dense(2)) + seed + rho_and_slots


def test_nothing_perturbs_them():
    layer = variational(kl_weight=schedules.LinearRamp(0, 1, 0, 4))
    model = sequential(layer)
    own = layer.noise.get_weights()
    for chosen in (
        selection.select(model, None, frozen=True),
        selection.select(model, ".", frozen=True),
        selection.select(GaussianWeightNoise(layer), None),
    ):
        assert {id(t.variable) for t in chosen} == {id(v) for v in layer.layer.weights}
    noisy = perturb_weights(model, 1.0, inplace=True)
    for a, b in zip(noisy.layers[0].noise.get_weights(), own, strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.any(noisy_call(model, 1.0, X, seed=1, step=1) != model(X))
    with pytest.raises(ValueError, match=r"kernel_rho  \(not eligible: a parameter of noise"):
        selection.select(model, "_rho$")
    model.fit(X, Y, verbose=0, callbacks=[WeightNoiseCallback(0.1)])


def scaled_loss(optimizer):
    return keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=2.0)


@pytest.mark.parametrize(
    ("make", "around", "eager"),
    [
        (lambda: keras.optimizers.SGD(0.1, weight_decay=0.1), None, False),
        (lambda: keras.optimizers.SGD(0.1, weight_decay=0.1), None, True),
        (lambda: keras.optimizers.AdamW(0.1), None, True),  # Which decays by default.
        (lambda: keras.optimizers.SGD(0.1, weight_decay=0.1), scaled_loss, True),
    ],
    ids=["SGD", "SGD, eager", "AdamW, eager", "scaled, eager"],
)
def test_weight_decay_leaves_them_out_where_it_is_told_and_else_warns(make, around, eager):
    for names, decays in ((["_rho"], False), (["bias"], True)):
        layer = variational(kl_weight=0.0)
        layer.layer.bias.assign(Y[0])  # So that inputs of 0 leave no gradient.
        optimizer = make()
        optimizer.exclude_from_weight_decay(var_names=names)
        optimizer = around(optimizer) if around else optimizer
        model = sequential(layer, optimizer=optimizer, run_eagerly=eager, jit_compile=False)
        before = layer.noise.get_weights()[0]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.fit(tf.zeros_like(X), Y, verbose=0)
        told = [each for each in caught if "exclude_from_weight_decay" in str(each.message)]
        assert np.any(layer.noise.get_weights()[0] != before) == decays == bool(told)
        assert all("decays ['kernel_rho']" in str(each.message) for each in told)


class Pair(keras.Model):
    """Two networks and an optimizer for each, as in a GAN; only that of the plain network decays."""

    def __init__(self, layer):
        super().__init__()
        self.noisy, self.plain = layer, layers.Dense(2)
        self.noisy_optimizer = keras.optimizers.SGD(0.1)
        self.plain_optimizer = keras.optimizers.AdamW(0.1)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape(persistent=True) as tape:
            loss = tf.reduce_mean(tf.square(self.plain(x) + self.noisy(x, training=True) - y))
        for network, optimizer in (
            (self.noisy, self.noisy_optimizer),
            (self.plain, self.plain_optimizer),
        ):
            variables = network.trainable_variables
            optimizer.apply(tape.gradient(loss, variables), variables)
        return {"loss": loss}


def test_an_optimizer_of_other_variables_may_decay_them():
    model = Pair(variational())
    model.compile(run_eagerly=True)
    model.fit(X, Y, batch_size=4, verbose=0)  # Warnings are errors.
    model.noisy_optimizer = keras.optimizers.AdamW(0.1)
    model.noisy._decay_is_known = False  # As in another trace.
    with pytest.warns(
        UserWarning, match=r"'adam_?w.*' of the model 'pair.*decays \['kernel_rho'\]"
    ):
        model.fit(X, Y, batch_size=4, verbose=0)


def test_layers_that_are_built_when_called():
    class Late(layers.Layer):
        def __init__(self):
            super().__init__()
            self.first, self.second = layers.Dense(3), layers.Dense(2)

        def call(self, x):
            return self.second(self.first(x))

    for first in ({"training": True}, {}):
        layer = VariationalWeightNoise(Late(), examples=8)
        layer(X, **first)
        assert len(layer.stddevs()) == 2
    model = sequential(VariationalWeightNoise(Late(), examples=8))
    assert len(model.weights) == 6
    model.fit(X, Y, verbose=0)


def test_compiled_is_as_not_compiled():
    plain, compiled = variational(prior=priors.OptimalGaussian()), variational()
    compiled = VariationalWeightNoise(
        layers.Dense(2), examples=EXAMPLES, seed=1, prior=priors.OptimalGaussian()
    )
    compiled(X)
    compiled.set_weights(plain.get_weights())

    def look(layer):
        return layer(X, training=True), layer.losses[0]

    fast = tf.function(lambda: look(compiled), jit_compile=True)
    for _ in range(2):
        for a, b in zip(fast(), look(plain), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


# What it is for.


def test_the_posterior_of_linear_regression():
    """Exactly known: N(m, inverse(A)) with A = X'X / s^2 + 1. Its mean-field optimum: N(m, 1 / diag(A))."""
    rng = np.random.default_rng(0)
    count, s = 40, 0.5
    x = rng.normal(size=(count, 3)) @ [[1.0, 0.5, 0.0], [0.0, 0.8, 0.0], [0.0, 0.0, 0.3]]
    y = x @ rng.normal(size=(3, 1)) + s * rng.normal(size=(count, 1))
    precision = x.T @ x / s**2 + np.eye(3)
    mean = np.linalg.solve(precision, x.T @ y / s**2)
    layer = VariationalWeightNoise(
        layers.Dense(1, use_bias=False),
        examples=count,
        estimator="local_reparameterization",
        seed=1,
    )
    x, y = x.astype("float32"), y.astype("float32")
    layer(x)
    rate = keras.optimizers.schedules.ExponentialDecay(0.1, 200, 0.5)
    optimizer = keras.optimizers.Adam(rate)
    optimizer.build(layer.trainable_variables)

    @tf.function
    def train():
        for _ in tf.range(1600):
            with tf.GradientTape() as tape:
                error = (y - layer(x, training=True)) / s
                loss = tf.reduce_mean(0.5 * error**2) + tf.add_n(layer.losses)
            gradients = tape.gradient(loss, layer.trainable_variables)
            optimizer.apply(gradients, layer.trainable_variables)

    train()
    ((mu, sigma),) = layer.stddevs()
    np.testing.assert_allclose(mu, mean, atol=0.03)
    np.testing.assert_allclose(sigma[:, 0], np.diag(precision) ** -0.5, rtol=0.1)
    # Not the deviations of the marginals, which mean-field inference underestimates.
    assert np.all(sigma[:2, 0] < 0.95 * np.sqrt(np.diag(np.linalg.inv(precision)))[:2])
