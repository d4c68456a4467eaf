"""Noise in the step, clean weights around it, in every kind of fit.

Two properties say it all. Where the gradient does not depend on the weights (a linear model, a linear
loss), a fit under noise must do bit for bit what a plain fit does, at every hook, optimizer state
included, while its loss must differ. And with a learning rate of 0 the weights of any model must stay
as they are, while the loss must differ.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from fits import Weights, X, Y, batches, linear, mean_output, same, strategy

from keras_weightnoise import WeightNoiseCallback, schedules

KERAS = tuple(map(int, keras.__version__.split(".")[:2]))
LAYERS = keras.layers
OPTIMIZERS = keras.optimizers


class Decay(keras.Model):
    """Updates by hand, partly before and partly after its optimizer."""

    def __init__(self, order):
        super().__init__()
        self.dense = LAYERS.Dense(2)
        self.other = LAYERS.Dense(2)
        self.order = order
        self.build((None, 4))

    def build(self, input_shape):
        self.dense.build(input_shape)
        self.other.build(input_shape)
        self.built = True

    def call(self, x):
        return self.dense(x) + self.other(x)

    def train_step(self, data):
        x, _ = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(self(x, training=True))
        grads = tape.gradient(loss, self.trainable_variables)
        for v, g in zip(self.trainable_variables, grads, strict=True):
            if self.order != "never":
                v.assign_sub(0.5 * g)
        if self.order == "both":
            self.optimizer.apply(grads, self.trainable_variables)
        elif self.order == "half":
            self.optimizer.apply(grads[:2], self.trainable_variables[:2])
        return {"objective": loss}


class Gan(keras.Model):
    """Never calls itself; two optimizers of its own beside the one that `compile` makes."""

    def __init__(self):
        super().__init__()
        self.generator = keras.Sequential([keras.Input((4,)), LAYERS.Dense(3)])
        self.critic = keras.Sequential([keras.Input((4,)), LAYERS.Dense(3)])

    def compile(self, make_optimizer):
        super().compile()
        self.g_optimizer = make_optimizer()
        self.d_optimizer = make_optimizer()

    def train_step(self, data):
        x, _ = data
        losses = {}
        for name, net, optimizer in (
            ("d_loss", self.critic, self.d_optimizer),
            ("objective", self.generator, self.g_optimizer),
        ):
            for _ in range(2):  # An optimizer applied twice in a step.
                with tf.GradientTape() as tape:
                    loss = tf.reduce_mean(net(x))
                losses.setdefault(name, loss)  # The second time, the weights are clean.
                optimizer.apply_gradients(
                    zip(
                        tape.gradient(loss, net.trainable_variables),
                        net.trainable_variables,
                        strict=True,
                    )
                )
        # Clipped by hand after the update, as Wasserstein GANs do.
        for v in self.critic.trainable_variables:
            v.assign(tf.clip_by_value(v, -0.3, 0.3))
        return losses


class Step(keras.Model):
    """`train_step` in the several ways people write it."""

    def _apply(self, grads):
        self.optimizer.apply(grads, self.trainable_variables)

    def train_step(self, data):
        x, _ = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(self(x, training=True))
        self._apply(tape.gradient(loss, self.trainable_variables))
        return {"objective": loss}


class FunctionStep(Step):
    @tf.function
    def train_step(self, data):
        x, _ = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(self(x, training=True))
        if tf.reduce_sum(tf.abs(x)) > 0.0:  # Needs AutoGraph.
            self._apply(tape.gradient(loss, self.trainable_variables))
        return {"objective": loss}


class FunctionApply(Step):
    @tf.function
    def _apply(self, grads):
        self.optimizer.apply(grads, self.trainable_variables)


class ConditionalApply(Step):
    def _apply(self, grads):
        tf.cond(
            self.optimizer.iterations % 2 == 0,
            lambda: self._one(grads, 1.0),
            lambda: self._one(grads, 2.0),
        )

    def _one(self, grads, factor):
        self.optimizer.apply([g * factor for g in grads], self.trainable_variables)
        return True


HELD_BY_NONE = []


class HiddenApply(Step):
    def _apply(self, grads):
        HELD_BY_NONE[-1].apply(grads, self.trainable_variables)


def hidden():
    HELD_BY_NONE.append(OPTIMIZERS.Adam(0.1, **EMA))
    return of_class(HiddenApply)


class BuiltApply(Step):
    def _apply(self, grads):
        self.optimizer.build(self.trainable_variables)
        self.optimizer.apply(grads)


def of_class(cls):
    model = linear()
    return cls(model.inputs, model.outputs)


def plain(optimizer=lambda: OPTIMIZERS.SGD(0.1), policy="float32", dense=None, **compile_args):
    def make():
        keras.config.set_dtype_policy(policy)
        model = linear(**(dense or {}))
        model.compile(optimizer(), loss=mean_output, **compile_args)
        return model

    return make


def custom(build, optimizer=lambda: OPTIMIZERS.SGD(0.1), **compile_args):
    def make():
        model = build()
        model.compile(optimizer(), **compile_args)
        return model

    return make


def gan(**optimizer_args):
    def make():
        model = Gan()
        model.compile(lambda: OPTIMIZERS.Adam(0.1, **optimizer_args))
        return model

    return make


def mirrored(make):
    def make_mirrored():
        with strategy().scope():
            return make()

    return make_mirrored


EMA = {"use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 2}
LINEAR = {
    "sgd": plain(),
    "adam, ema": plain(lambda: OPTIMIZERS.Adam(0.1, **EMA)),
    "adamw": plain(lambda: OPTIMIZERS.AdamW(0.1, weight_decay=0.1)),
    "accumulation": plain(lambda: OPTIMIZERS.SGD(0.1, gradient_accumulation_steps=2)),
    "constraint": plain(
        dense={"kernel_constraint": keras.constraints.MaxNorm(0.5), "bias_constraint": "non_neg"}
    ),
    "eager": plain(run_eagerly=True),
    "xla": plain(lambda: OPTIMIZERS.Adam(0.1, **EMA), jit_compile=True),
    "float16, loss scaling": plain(
        lambda: OPTIMIZERS.LossScaleOptimizer(OPTIMIZERS.SGD(0.1), initial_scale=8.0),
        policy="mixed_float16",
    ),
    "bfloat16": plain(policy="mixed_bfloat16"),
    "float16 weights": plain(policy="float16"),
    "float64": plain(policy="float64"),
    # Keras itself cannot overwrite with averages, or accumulate, under this strategy.
    "mirrored": mirrored(plain(lambda: OPTIMIZERS.AdamW(0.1, weight_decay=0.1, use_ema=True))),
    "mirrored, float16": mirrored(
        plain(
            lambda: OPTIMIZERS.LossScaleOptimizer(OPTIMIZERS.SGD(0.1), initial_scale=8.0),
            policy="mixed_float16",
        )
    ),
    "gan": gan(**EMA),
    "own step": custom(lambda: of_class(Step)),
    "step is a tf.function": custom(
        lambda: of_class(FunctionStep), lambda: OPTIMIZERS.Adam(0.1, **EMA)
    ),
    "step is a tf.function, eager": custom(
        lambda: of_class(FunctionStep), lambda: OPTIMIZERS.Adam(0.1, **EMA), run_eagerly=True
    ),
    "apply in a tf.function": custom(
        lambda: of_class(FunctionApply), lambda: OPTIMIZERS.Adam(0.1, **EMA)
    ),
    "apply in a tf.function, eager": custom(
        lambda: of_class(FunctionApply), lambda: OPTIMIZERS.Adam(0.1, **EMA), run_eagerly=True
    ),
    "apply in a branch": custom(
        lambda: of_class(ConditionalApply), lambda: OPTIMIZERS.SGD(0.1, **EMA)
    ),
    "apply of an optimizer that the model does not hold": custom(hidden),
    "apply without variables": custom(lambda: of_class(BuiltApply)),
}
# These add to the weights themselves: what lands is right to rounding, not to the bit.
BY_HAND = {
    "by hand": custom(lambda: Decay("only")),
    "by hand, eager": custom(lambda: Decay("only"), run_eagerly=True),
    "by hand, xla": custom(lambda: Decay("only"), jit_compile=True),
    "by hand, then optimizer": custom(lambda: Decay("both")),
    "by hand, then optimizer for some": custom(lambda: Decay("half")),
}


def run(make, noise, **fit_args):
    keras.utils.set_random_seed(1)
    model = make()
    before, after = Weights(), Weights()
    callbacks = [before, *([noise] if noise else []), after]
    fit_args = {"x": batches(), "epochs": 2, **fit_args}
    history = model.fit(**fit_args, shuffle=False, verbose=0, callbacks=callbacks)
    optimizers = [v for v in vars(model).values() if isinstance(v, OPTIMIZERS.Optimizer)]
    state = [v.numpy() for o in optimizers for v in o.variables]
    return history.history, [before.seen, after.seen, model.get_weights(), state], model


def assert_other_loss(logs, others):
    key = "objective" if "objective" in logs else "loss"
    assert not np.allclose(logs[key], others[key], rtol=1e-2)


def callbacks():
    """One with noise in every step, and one in which only the running graph knows, of a draw that is kept."""
    ramp = schedules.LinearRamp(0.0, 0.3, start_step=1, ramp_steps=1)
    yield WeightNoiseCallback(0.3, seed=1)
    yield WeightNoiseCallback(ramp, frequency=3, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", LINEAR)
def test_linear_model_trains_as_without_noise_but_sees_it(name):
    plain_logs, plain_seen, _ = run(LINEAR[name], None)
    for callback in callbacks():
        logs, seen, model = run(LINEAR[name], callback)
        assert same(seen, plain_seen)
        assert_other_loss(logs, plain_logs)
        assert "train_step" not in vars(model)
        assert "apply" not in vars(OPTIMIZERS.Optimizer)


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_HAND)
def test_changes_made_by_hand_land_on_the_clean_weights(name):
    plain_logs, plain_seen, _ = run(BY_HAND[name], None)
    for callback in callbacks():
        if name == "by hand, then optimizer for some":  # The others may have been overwritten.
            with pytest.warns(UserWarning, match="assigns weights by hand"):
                logs, seen, _ = run(BY_HAND[name], callback)
        else:
            logs, seen, _ = run(BY_HAND[name], callback)
        for here, there in zip(seen[2], plain_seen[2], strict=True):
            np.testing.assert_allclose(here, there, atol=1e-5)
        assert_other_loss(logs, plain_logs)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize(
    "fit_args",
    [
        {"x": X, "y": Y, "batch_size": 4, "validation_data": (X, Y)},
        {"x": lambda: tf.data.Dataset.from_tensor_slices((X, Y)).batch(5).filter(lambda *_: True)},
        {"x": lambda: ((X[:4], Y[:4]) for _ in range(6)), "steps_per_epoch": 3},
    ],
    ids=["arrays", "unknown length", "generator"],
)
@pytest.mark.parametrize("steps_per_execution", [1, 2])
def test_data_and_executions(fit_args, steps_per_execution):
    if KERAS < (3, 7) and steps_per_execution > 1:
        pytest.skip("This Keras loses the last, partial execution of an epoch.")

    def arguments():
        if callable(fit_args["x"]):
            return {**fit_args, "x": fit_args["x"]()}
        return fit_args

    make = plain(steps_per_execution=steps_per_execution)
    plain_logs, plain_seen, _ = run(make, None, **arguments())
    logs, seen, _ = run(make, WeightNoiseCallback(0.3, seed=1), **arguments())
    if callable(fit_args["x"]) and "steps_per_epoch" not in fit_args:
        # `iterations` waits for no data: TensorFlow may count a step that finds there is none left.
        seen[-1], plain_seen[-1] = seen[-1][1:], plain_seen[-1][1:]
    assert same(seen, plain_seen)
    assert_other_loss(logs, plain_logs)
    if "val_loss" in logs:
        assert logs["val_loss"] == plain_logs["val_loss"]


# Models of every kind, at a learning rate of 0.


class TracedDense(LAYERS.Dense):
    @tf.function
    def call(self, x):
        return super().call(x)


class Rematerialized(LAYERS.Layer):
    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 2))

    def call(self, x):
        return keras.remat(lambda x: keras.ops.matmul(x, self.kernel))(x)


class DropoutCell(LAYERS.Layer):
    state_size = 3

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 3))
        self.dropout = LAYERS.Dropout(0.5, seed=1)

    def call(self, x, states, training=None):
        h = keras.ops.tanh(keras.ops.matmul(self.dropout(x, training=training), self.kernel))
        return h + states[0], [h]


def tied():
    inputs = keras.Input((4,))
    dense = LAYERS.Dense(4)
    return keras.Model(inputs, dense(dense(inputs)))


def reads_another():
    inputs = keras.Input((4,))
    dense = LAYERS.Dense(3)
    hidden = dense(inputs)
    outputs = LAYERS.Lambda(lambda h: keras.ops.matmul(h, keras.ops.transpose(dense.kernel)))(
        hidden
    )
    return keras.Model(inputs, outputs)


def sequential(*layers):
    return keras.Sequential([keras.Input((4,)), *layers])


def quantized():
    model = sequential(LAYERS.Dense(4, name="small"), LAYERS.Dense(2))
    model.layers[0].quantize("int8")
    return model


def lora():
    model = sequential(LAYERS.Dense(4), LAYERS.Dense(2))
    model.layers[0].enable_lora(2)
    model.layers[0].lora_kernel_b.assign(np.ones(model.layers[0].lora_kernel_b.shape))
    return model


MODELS = {
    "shared layer": tied,
    "nested": lambda: sequential(sequential(LAYERS.Dense(3)), LAYERS.Dense(2)),
    "tf.function layer": lambda: sequential(TracedDense(3), LAYERS.Dense(2)),
    "lambda reads a kernel": reads_another,
    "rnn with dropout": lambda: sequential(
        LAYERS.Reshape((2, 2)), LAYERS.RNN(DropoutCell()), LAYERS.Dense(2)
    ),
    "lstm": lambda: sequential(LAYERS.Reshape((2, 2)), LAYERS.LSTM(3)),
    "batch normalization": lambda: sequential(
        LAYERS.Dense(3), LAYERS.BatchNormalization(), LAYERS.Dropout(0.5, seed=1)
    ),
    "int8 beside float": quantized,
    "lora": lora,
}
if hasattr(keras, "remat"):
    MODELS["remat"] = lambda: sequential(Rematerialized(), LAYERS.Dense(2))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Of the selected weights")  # Of the quantized model.
@pytest.mark.parametrize("name", MODELS)
def test_any_model_sees_noise_and_keeps_its_weights(name):
    def make():
        model = MODELS[name]()
        model.compile(OPTIMIZERS.SGD(0.0), loss=mean_output)
        return model

    first, _, model = run(make, None)
    trainable = [v.numpy() for v in model.trainable_variables]
    everything = model.get_weights()
    logs, _, model = run(make, WeightNoiseCallback(0.3, seed=1))
    assert same([v.numpy() for v in model.trainable_variables], trainable)
    assert len(model.get_weights()) == len(everything)
    assert_other_loss(logs, first)


def test_every_selected_variable_is_noisy_in_the_step():
    """A step that reports what it sees: each variable minus its clean value is the noise."""
    seen = []

    class Tell(Step):
        def train_step(self, data):
            for v in self.trainable_variables:
                tf.py_function(lambda x: seen.append(x.numpy()), [v], [])
            return super().train_step(data)

    model = of_class(Tell)
    model.compile(OPTIMIZERS.SGD(0.0))
    clean = model.get_weights()
    model.fit(X, Y, batch_size=12, verbose=0, callbacks=[WeightNoiseCallback(0.3, seed=1)])
    noise = np.concatenate([(s - c).ravel() for s, c in zip(seen, clean, strict=True)])
    assert len(noise) == 20
    assert 0.1 < noise.std() < 0.6
    assert len(set(noise.tolist())) == 20


@pytest.mark.slow
def test_replicas_draw_what_one_device_draws():
    """A nonlinear loss, so that what is learned depends on the noise."""

    def make():
        model = sequential(LAYERS.Dense(5, activation="tanh"), LAYERS.Dense(1))
        model.compile(OPTIMIZERS.SGD(0.1), "mse")
        return model

    _, one, _ = run(make, None)
    _, two, _ = run(mirrored(make), None)
    if not np.allclose(one[2][0], two[2][0], atol=1e-5):
        pytest.skip("This Keras scales the gradients of replicas differently.")
    _, one, _ = run(make, WeightNoiseCallback(0.3, seed=1))
    _, two, _ = run(mirrored(make), WeightNoiseCallback(0.3, seed=1))
    for here, there in zip(two[2], one[2], strict=True):
        np.testing.assert_allclose(here, there, atol=1e-5)


@pytest.mark.slow
def test_replicas_with_noise_of_their_own_stay_in_step():
    make = LINEAR["mirrored"]
    plain_logs, plain_seen, _ = run(make, None)
    logs, seen, model = run(make, WeightNoiseCallback(0.3, seed=1, per_replica=True))
    assert same(seen, plain_seen)
    copies = [strategy().experimental_local_results(v.value) for v in model.trainable_variables]
    assert all(np.array_equal(*(copy.numpy() for copy in each)) for each in copies)
    shared, _, _ = run(make, WeightNoiseCallback(0.3, seed=1))
    assert_other_loss(logs, plain_logs)
    if KERAS >= (3, 7):  # Before, logs are those of the first replica alone.
        assert_other_loss(logs, shared)
    again, _, _ = run(make, WeightNoiseCallback(0.3, seed=1, per_replica=True))
    assert again == logs


@pytest.mark.slow
@pytest.mark.parametrize("own", [False, True])
def test_replicas_keep_the_draw_that_each_began_with(own):
    def losses(frequency):
        noise = WeightNoiseCallback(0.3, frequency=frequency, per_replica=own, seed=1)
        still = mirrored(plain(lambda: OPTIMIZERS.SGD(0.0)))
        logs, _, _ = run(still, noise, x=batches(size=12), epochs=3)
        return logs["loss"]

    drawn, held = losses("batch"), losses(100)
    assert len(set(drawn)) == 3
    assert held == [drawn[0]] * 3
