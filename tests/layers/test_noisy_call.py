"""noisy_call, and what substituting reads refuses: no call is clean or wrong without a word."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_weightnoise import GaussianWeightNoise, WeightNoiseCallback, noises, noisy_call
from keras_weightnoise._weights import perturbation, selection

layers = keras.layers
X = tf.constant(np.random.default_rng(0).normal(size=(8, 4)), "float32")


def network():
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(4, activation="tanh"),
            layers.BatchNormalization(),
            layers.Dropout(0.5, seed=1),
            layers.Dense(4, activity_regularizer="l2"),
        ]
    )


def perturbed(model, noise, seed, step):
    """The weights that a call under noise should see."""
    targets = selection.select(model)
    noisy = perturbation.perturb(
        noise,
        targets,
        [t.variable.value for t in targets],
        seed=seed,
        step=step,
        magnitudes=noise.magnitudes_at(step),
    )
    by_id = {id(t.variable): value for t, value in zip(targets, noisy, strict=True)}
    return [by_id.get(id(v), v) for v in model.variables]


# noisy_call.


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_is_the_model_at_noisy_weights(mode, training):
    model, twin = network(), network()
    noise = noises.Gaussian(0.1, relative_to="std")
    expected = perturbed(model, noise, 3, 5)
    for v, value in zip(twin.variables, expected, strict=True):
        v.assign(value)
    before = [v.numpy() for v in model.variables]

    def run(model, call):
        with tf.GradientTape() as tape:
            outputs = call(X, training=training)
            loss = tf.reduce_sum(outputs**2) + sum(model.losses)
        return outputs, loss, tape.gradient(loss, model.trainable_variables)

    def noisy(*args, **kwargs):
        return noisy_call(model, noise, *args, seed=3, step=5, **kwargs)

    if mode != "eager":
        run = tf.function(run, jit_compile=mode == "xla")
    for actual, target in zip(
        tf.nest.flatten(run(model, noisy)), tf.nest.flatten(run(twin, twin)), strict=True
    ):
        np.testing.assert_allclose(actual, target, rtol=1e-3, atol=1e-4)
    perturbed_ids = {id(t.variable) for t in selection.select(model)}
    for v, old, other in zip(model.variables, before, twin.variables, strict=True):
        if id(v) in perturbed_ids:
            np.testing.assert_array_equal(v, old)
        else:
            np.testing.assert_allclose(v, other, rtol=1e-5, atol=1e-6)


def test_noise_is_a_function_of_seed_and_step():
    model = network()

    def outputs(seed, step):
        return noisy_call(model, 0.1, X, seed=seed, step=step).numpy()

    reference = outputs(1, 2)
    counter = tf.Variable(2, dtype=tf.int64)
    for seed, step in (
        (1, 2),
        (np.int32(1), np.uint8(2)),
        (tf.constant(1), tf.constant(2, tf.uint64)),
        (1, counter),
        (1, keras.Variable(2, dtype="int32")),
        (1 + 2**32, 2 - 2**32),
    ):
        np.testing.assert_array_equal(outputs(seed, step), reference)
    for seed, step in ((2, 2), (1, 3), (2, 1)):
        assert np.any(outputs(seed, step) != reference)


@pytest.mark.parametrize(
    ("noise", "selectors", "moved"),
    [
        (0.1, {}, {"kernel", "bias"}),
        (0.1, {"variables": "kernels"}, {"kernel"}),
        (0.1, {"exclude": ["kernel"]}, {"bias"}),
        ([("bias", noises.StuckAt(1.0, "zero"))], {}, {"bias"}),
        ({"kernels": 0.0, None: 0.1}, {}, {"bias"}),
        ({"kernels": 0.1, None: noises.Rademacher(0.1)}, {"exclude": "bias"}, None),
    ],
)
def test_which_variables_and_different_noise_for_each(noise, selectors, moved):
    layer = keras.layers.Dense(3, bias_initializer="ones")
    layer.build((None, 4))

    def call(x):
        return noisy_call(layer, noise, x, seed=1, step=2, **selectors)

    if moved is None:
        with pytest.raises(ValueError, match="without variables"):
            call(X)
        return
    bias = call(tf.zeros((1, 4)))
    kernel = call(tf.eye(4)) - bias
    assert ("bias" in moved) == bool(np.any(bias != 1.0))
    assert ("kernel" in moved) == bool(np.any(np.abs(kernel - layer.kernel) > 1e-3))
    if "StuckAt" in str(noise):
        np.testing.assert_array_equal(bias, tf.zeros((1, 3)))


@pytest.mark.parametrize("name", ["variables", "exclude"])
def test_selectors_that_match_nothing_or_are_none(name):
    layer = keras.layers.Dense(3)
    with pytest.raises(ValueError, match=f"`{name}` matches no"):
        noisy_call(layer, 0.1, X, seed=1, step=2, **{name: "nowhere"})
    with pytest.raises(TypeError, match=f"Invalid `{name}`"):
        noisy_call(layer, 0.1, X, seed=1, step=2, **{name: 3})


def test_a_schedule_is_evaluated_at_the_step():
    model = network()
    schedule = keras.optimizers.schedules.PolynomialDecay(0.5, 10, 0.0)
    for step, stddev in ((0, 0.5), (5, 0.25), (10, 0.0)):
        np.testing.assert_allclose(
            noisy_call(model, schedule, X, seed=1, step=step),
            noisy_call(model, stddev, X, seed=1, step=step),
            atol=1e-6,
        )
    np.testing.assert_array_equal(noisy_call(model, 0.0, X, seed=1, step=0), model(X))


@pytest.mark.slow
@pytest.mark.parametrize("loss_scale", [False, True])
def test_a_custom_loop_draws_anew_each_step(loss_scale):
    model = network()
    optimizer = keras.optimizers.SGD(0.1)
    if loss_scale:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=1.0)
    optimizer.build(model.trainable_variables)
    seen = []

    @tf.function
    def train_step(x):
        with tf.GradientTape() as tape:
            outputs = noisy_call(model, 0.1, x, seed=1, step=optimizer.iterations, training=True)
            loss = tf.reduce_mean(outputs**2)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return perturbed(model, noises.Gaussian(0.1), 1, optimizer.iterations)[0]

    for _ in range(3):
        seen.append((train_step(X) - model.variables[0]).numpy())
    assert np.any(seen[0] != seen[1])
    assert np.any(seen[1] != seen[2])
    assert train_step.experimental_get_tracing_count() == 1


@pytest.mark.slow
def test_trains_like_the_callback():
    y = tf.ones((8, 2))

    def start():
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.Dense(2)])
        model.compile(keras.optimizers.SGD(0.1), "mse")
        return model

    model, other = start(), start()
    model.fit(X, y, epochs=3, verbose=0, callbacks=[WeightNoiseCallback(0.2, seed=3)])
    for _ in range(3):
        with tf.GradientTape() as tape:
            outputs = noisy_call(other, 0.2, X, seed=3, step=other.optimizer.iterations)
            loss = tf.reduce_mean((outputs - y) ** 2)
        gradients = tape.gradient(loss, other.trainable_variables)
        other.optimizer.apply(gradients, other.trainable_variables)
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_functional_model_with_several_inputs():
    a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    x = layers.Concatenate()([a, layers.Dense(2, activity_regularizer="l1")(b)])
    model = keras.Model({"a": a, "b": b}, {"y": layers.Dense(2)(x)})
    data = {"a": X, "b": tf.ones((8, 3))}
    clean = model(data)["y"]
    assert np.any(noisy_call(model, 0.1, data, seed=1, step=0)["y"] != clean)
    assert len(model.losses) == 1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"seed": None}, TypeError, "Invalid `seed`.*Received: seed=None"),
        ({"seed": 1.0}, TypeError, "Invalid `seed`.*Received: seed=1.0"),
        ({"step": True}, TypeError, "Invalid `step`.*Received: step=True"),
        ({"step": tf.ones((2,), tf.int32)}, TypeError, "Invalid `step`"),
        ({"step": tf.ones(())}, TypeError, "Invalid `step`"),
        ({"noise": "0.1"}, TypeError, "Invalid `noise`"),
        ({"noise": tf.ones((2,))}, TypeError, "Invalid `noise`.*scalar tensor"),
        ({"noise": tf.constant(1)}, TypeError, "Invalid `noise`.*scalar tensor"),
        ({"frozen": 1}, TypeError, "Invalid `frozen`"),
        ({"noise": -0.1}, ValueError, "Invalid `noise`"),
        ({"layer_or_model": lambda x: x}, TypeError, "Invalid `layer_or_model`"),
        ({"layer_or_model": layers.ReLU()}, ValueError, "at least one trainable float variable"),
    ],
)
def test_bad_arguments(arguments, error, message):
    arguments = {"layer_or_model": layers.Dense(2), "noise": 0.1, "seed": 1, "step": 0, **arguments}
    with pytest.raises(error, match=f"(?s){message}"):
        noisy_call(arguments.pop("layer_or_model"), arguments.pop("noise"), X, **arguments)


def test_builds_what_is_not_built():
    class Parts(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(2)

        def call(self, x):
            return self.dense(x)

    for model in (layers.Dense(2), Parts()):
        outputs = noisy_call(model, 0.1, np.ones((2, 4)), seed=1, step=0)
        assert np.any(outputs != model(np.ones((2, 4))))


@pytest.mark.parametrize("training", [False, True])
def test_an_outer_scope_is_honoured(training):
    # As `Model.stateless_call` opens one.
    normalization = layers.BatchNormalization()
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4), normalization])
    state = [(v, tf.fill(v.shape, tf.cast(2, v.dtype))) for v in model.variables]
    before = [v.numpy() for v in model.variables]
    with keras.StatelessScope(state) as scope:
        outputs = noisy_call(model, 1e-30, X, seed=1, step=0, training=training)
    for v, old in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(v, old)
    for v, value in state:
        v.assign(value)
    np.testing.assert_allclose(outputs, model(X, training=training), atol=1e-5)
    np.testing.assert_allclose(
        scope.get_current_value(normalization.moving_mean), normalization.moving_mean, rtol=1e-5
    )


# What is refused.


class Kernel(layers.Layer):
    def build(self, shape):
        self.kernel = self.add_weight(shape=(4, 4), name="kernel")

    def multiply(self, x):
        return keras.ops.matmul(x, self.kernel)


class Function(Kernel):
    @tf.function
    def call(self, x):
        return self.multiply(x)


class FunctionOfTraining(Kernel):
    @tf.function
    def call(self, x, training=None):
        return self.multiply(x)


class Remat(Kernel):
    def call(self, x):
        return tf.recompute_grad(self.multiply)(x)


class Assigning(Kernel):
    def call(self, x):
        self.kernel.assign(self.kernel / keras.ops.norm(self.kernel))
        return self.multiply(x)


class Elsewhere(Kernel):
    """Reads the TensorFlow variable, as a reloaded SavedModel does."""

    def build(self, shape):
        super().build(shape)
        self.hidden = [self.kernel.value]

    def call(self, x):
        return tf.matmul(x, self.hidden[0])


class Unused(Kernel):
    def call(self, x):
        return x


def spectral(name):
    return layers.SpectralNormalization(layers.Dense(4, name=name))


# The layer, whether it was called before, and why it is refused.
REFUSED = [
    (Function, False, "inside a `tf.function`"),
    (Function, True, "by another route than Keras's"),
    (FunctionOfTraining, False, "inside a `tf.function`"),
    (FunctionOfTraining, True, "inside a `tf.function`"),
    (Remat, False, "where no gradient is recorded"),
    (Assigning, False, "is assigned in the call itself"),
    (spectral, True, "is assigned in the call itself"),
    (Elsewhere, False, "by another route than Keras's"),
    (Unused, False, "is not read in this call"),
]


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside_others"])
@pytest.mark.parametrize(("kind", "called_before", "reason"), REFUSED)
@pytest.mark.parametrize("how", ["wrapper", "noisy_call"])
def test_refused_by_name(kind, called_before, reason, beside, compiled, how):
    layer = kind(name="culprit")
    if kind is Unused and beside:
        pytest.skip("A layer that a model does not use is reported, see below.")
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4), layer]) if beside else layer
    if how == "wrapper":
        wrapped = GaussianWeightNoise(model)
        wrapped.build((None, 4))

        def call(x):
            return wrapped(x, training=True)
    else:
        model.build((None, 4))

        def call(x):
            return noisy_call(model, 0.1, x, seed=1, step=0, training=True)

    if called_before:
        model(X)
    before = [v.numpy() for v in model.trainable_variables]
    if beside:  # A model may have called its layers symbolically.
        reason = ""
    with pytest.raises(ValueError, match=rf"(?s)layer 'culprit' .*kernel.*{reason}"):
        (tf.function(call) if compiled else call)(X)
    for v, old in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(v, old)


def test_refusing_leaves_nothing_behind():
    layer = Function()
    wrapped = GaussianWeightNoise(layer)
    with pytest.raises(ValueError, match=r"inside a `tf.function`"):
        wrapped(X, training=True)
    # Neither a scope nor a trace that remembers noise.
    np.testing.assert_allclose(wrapped(X), X @ layer.kernel, rtol=1e-5)
    layer.kernel.assign(tf.eye(4))
    np.testing.assert_array_equal(wrapped(X), X)


@pytest.mark.skipif(not hasattr(keras, "RematScope"), reason="It is newer than Keras 3.5.")
@pytest.mark.parametrize("mode", ["full", "activations"])
def test_keras_remat_scope(mode):
    with keras.RematScope(mode=mode):
        inner = layers.Dense(4, activation="tanh")
        outer = GaussianWeightNoise(layers.Dense(4, activation="tanh"))
    for layer in (GaussianWeightNoise(inner), outer):
        layer(X)
        if mode == "activations":
            assert np.any(layer(X, training=True) != layer(X))
        else:
            with pytest.raises(ValueError, match=r"where no gradient is recorded"):
                layer(X, training=True)


def test_rematerialized_as_a_whole_it_has_the_same_gradients():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="tanh")])

    def call(x):
        return noisy_call(model, 0.1, x, seed=1, step=2)

    gradients = []
    for each in (call, tf.recompute_grad(call)):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(each(X) ** 2)
        gradients.append(tape.gradient(loss, model.trainable_variables))
    for a, b in zip(*gradients, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_a_variable_that_a_call_does_not_read_is_reported():
    class Branches(keras.Model):
        def __init__(self):
            super().__init__()
            self.encoder, self.decoder = layers.Dense(3), layers.Dense(4, name="decoder")

        def build(self, shape):
            self.encoder.build(shape)
            self.decoder.build((None, 3))

        def call(self, x):
            return self.encoder(x)

    model = Branches()
    with pytest.warns(UserWarning, match="no effect on the variable .*decoder") as caught:
        outputs = noisy_call(model, 0.1, X, seed=1, step=0)
    assert np.any(outputs != model(X))
    assert len(caught) == 2  # Kernel and bias.


@pytest.mark.slow
def test_loops_and_branches_are_no_functions():
    class Loop(Kernel):
        def call(self, x):
            x = tf.while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, self.multiply(x)), (0, x))[1]
            x = tf.cond(tf.reduce_sum(x) > 0, lambda: self.multiply(x), lambda: -self.multiply(x))
            return tf.vectorized_map(lambda row: self.multiply(row[None])[0], x)

    layer = Loop()
    layer(X)
    with tf.GradientTape() as tape:
        outputs = tf.function(lambda x: noisy_call(layer, 0.1, x, seed=1, step=0))(X)
    (kernel,) = perturbed(layer, noises.Gaussian(0.1), 1, 0)
    expected = X @ kernel @ kernel @ kernel
    expected = expected @ kernel * tf.where(tf.reduce_sum(expected) > 0, 1.0, -1.0) @ kernel
    np.testing.assert_allclose(outputs, expected, rtol=1e-3, atol=1e-4)
    assert np.any(tape.gradient(outputs, layer.kernel.value))


@pytest.mark.parametrize("kind", [tf.constant, tf.Variable, keras.Variable], ids=str)
def test_a_scalar_is_a_magnitude(kind):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    x = tf.ones((2, 4))
    expected = noisy_call(model, 0.25, x, seed=1, step=2)
    traces = []

    @tf.function
    def call(magnitude):
        traces.append(magnitude)
        return noisy_call(model, magnitude, x, seed=1, step=2)

    np.testing.assert_array_equal(noisy_call(model, kind(0.25), x, seed=1, step=2), expected)
    np.testing.assert_allclose(call(kind(0.25)), expected, rtol=1e-6)
    relative = [("kernel", noises.Uniform(kind(0.25), "max"))]
    np.testing.assert_array_equal(
        noisy_call(model, relative, x, seed=1, step=2),
        noisy_call(model, [("kernel", noises.Uniform(0.25, "max"))], x, seed=1, step=2),
    )
    if kind is tf.constant:
        call(kind(0.5))
        assert len(traces) == 1


def test_a_variable_is_a_magnitude_that_adapts():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    x, magnitude = tf.ones((2, 4)), keras.Variable(0.0)
    call = tf.function(lambda: noisy_call(model, magnitude, x, seed=1, step=2))
    np.testing.assert_array_equal(call(), model(x))
    magnitude.assign(0.5)
    np.testing.assert_allclose(call(), noisy_call(model, 0.5, x, seed=1, step=2), rtol=1e-5)


def test_frozen_weights_are_noisy_if_asked():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="base")])
    model.trainable = False
    x = tf.ones((2, 4))
    with pytest.raises(ValueError, match=r"is frozen, which noise reaches with `frozen=True`"):
        noisy_call(model, 0.1, x, seed=1, step=2, variables="base")
    noisy = noisy_call(model, 0.1, x, seed=1, step=2, frozen=True)
    model.trainable = True
    np.testing.assert_array_equal(noisy, noisy_call(model, 0.1, x, seed=1, step=2))
