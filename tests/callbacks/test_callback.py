"""WeightNoiseCallback: its settings, its draws, and what is left after whatever happens."""

import copy
import gc
import os
import pickle
import re
import subprocess
import sys
import types
import warnings
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from fits import Weights, X, Y, batches, linear, mean_output, same

from keras_weightnoise import WeightNoiseCallback, noises, schedules
from keras_weightnoise._random import short_vectors
from keras_weightnoise._weights import perturbation, selection

LAYERS = keras.layers


def small(**compile_args):
    """A model whose training depends on the noise."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [keras.Input((4,)), LAYERS.Dense(5, activation="tanh"), LAYERS.Dense(1)]
    )
    model.compile(keras.optimizers.SGD(0.1), "mse", **compile_args)
    return model


def fit(model, *callbacks, batch_size=4, **fit_args):
    fit_args = {"epochs": 2, "shuffle": False, "verbose": 0, **fit_args}
    return model.fit(batches(size=batch_size), callbacks=list(callbacks), **fit_args)


def trained(*callbacks, **fit_args):
    model = small()
    fit(model, *callbacks, **fit_args)
    return model.get_weights()


class Losses(keras.callbacks.Callback):
    """The loss of each batch alone. Of a linear model, it tells one draw from another."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_begin(self, batch, logs=None):
        self.model.reset_metrics()

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(round(float(logs["loss"]), 5))


SAME_BATCH = tf.data.Dataset.from_tensors((X, Y)).repeat(4)


def losses(noise, epochs=2, optimizer=None, make=linear, fits=1, **compile_args):
    """Losses at a learning rate of 0, on the same batch again and again: only noise can differ."""
    keras.utils.set_random_seed(1)
    model = make()
    model.compile(optimizer or keras.optimizers.SGD(0.0), loss=mean_output, **compile_args)
    seen = Losses()
    for _ in range(fits):
        model.fit(SAME_BATCH, epochs=epochs, verbose=0, shuffle=False, callbacks=[noise, seen])
    return seen.seen


# Draws.


RAMP = schedules.LinearRamp(0.0, 0.3, start_step=1, ramp_steps=2)
DRAWN = {"batch": [0, 1, 2, 3, 4, 5], "epoch": [0, 0, 0, 3, 3, 3], 4: [0, 0, 0, 0, 4, 4]}
COMPOSED = noises.DropConnect(0.3) + noises.Quantization(8) + noises.Uniform(RAMP)


@pytest.mark.slow
@pytest.mark.parametrize("frequency", DRAWN)
@pytest.mark.parametrize(
    ("noise", "mode"),
    [
        (noises.Gaussian(0.2), {}),
        (noises.Gaussian(RAMP, relative_to="std"), {}),
        (COMPOSED, {}),
        (COMPOSED, {"run_eagerly": True}),
        (COMPOSED, {"jit_compile": True}),
    ],
    ids=["constant", "ramp", "composed", "eager", "xla"],
)
def test_matches_a_loop_by_hand(noise, frequency, mode):
    model = small()
    targets = selection.select(model)
    for step, at in enumerate([0, 4, 8] * 2):
        clean = [tf.identity(t.variable.value) for t in targets]
        magnitudes = noise.magnitudes_at(step)
        noisy = perturbation.perturb(
            noise, targets, clean, seed=3, step=DRAWN[frequency][step], magnitudes=magnitudes
        )
        for target, value in zip(targets, noisy, strict=True):
            target.variable.assign(value)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(X[at : at + 4], training=True)))
        gradients = tape.gradient(loss, model.trainable_variables)
        for target, value in zip(targets, clean, strict=True):
            target.variable.assign(value)
        model.optimizer.apply(gradients, model.trainable_variables)
    twin = small(**mode)
    fit(twin, WeightNoiseCallback(noise, frequency=frequency, seed=3))
    for here, there in zip(twin.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(here, there, atol=1e-5)


def test_held_draws_of_another_seed_are_drawn_anew():
    callback = WeightNoiseCallback(0.3, frequency=100)
    model = linear()
    model.compile(keras.optimizers.SGD(0.0), mean_output)
    seen = [model.fit(X, Y, batch_size=12, verbose=0, callbacks=[callback]) for _ in range(3)]
    assert len({history.history["loss"][0] for history in seen}) == 3


@pytest.mark.parametrize(
    ("frequency", "groups"),
    [
        ("batch", [0, 1, 2, 3, 4, 5, 6, 7]),
        ("epoch", [0, 0, 0, 0, 4, 4, 4, 4]),
        (3, [0, 0, 0, 3, 3, 3, 6, 6]),
        (1, [0, 1, 2, 3, 4, 5, 6, 7]),
        (100, [0] * 8),
    ],
)
def test_frequency(frequency, groups):
    seen = losses(WeightNoiseCallback(0.3, frequency=frequency, seed=1))
    assert [seen.index(loss) for loss in seen] == groups


def test_each_fit_of_one_epoch_draws_anew():
    seen = losses(WeightNoiseCallback(0.3, frequency="epoch", seed=1), epochs=1, fits=3)
    assert [seen.index(loss) for loss in seen] == [0] * 4 + [4] * 4 + [8] * 4


def test_a_model_that_is_never_built_draws_anew_for_each_epoch():
    """One without `call` stays unbuilt in Keras's eyes, and is prepared in the first step of each fit."""

    class Objectives(Losses):
        def on_train_batch_end(self, batch, logs=None):
            self.seen.append(round(float(logs["objective"]), 5))

    class Trained(keras.Model):
        def __init__(self):
            super().__init__()
            self.net = linear()

        def train_step(self, data):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(self.net(data[0]))
            variables = self.net.trainable_variables
            self.optimizer.apply(tape.gradient(loss, variables), variables)
            return {"objective": loss}

    model, seen = Trained(), Objectives()
    model.compile(keras.optimizers.SGD(0.0))
    noise = WeightNoiseCallback(0.3, frequency="epoch", seed=1)
    for _ in range(2):
        model.fit(SAME_BATCH, epochs=2, verbose=0, shuffle=False, callbacks=[noise, seen])
    assert [seen.seen.index(value) for value in seen.seen] == [0] * 4 + [4] * 4 + [8] * 4 + [12] * 4


@pytest.mark.slow
def test_each_step_of_an_execution_draws_anew():
    one = losses(WeightNoiseCallback(0.3, seed=1))
    two = losses(WeightNoiseCallback(0.3, seed=1), steps_per_execution=2)
    # Logs are means over an execution.
    means = [np.mean(one[i : i + 2]) for i in range(0, 8, 2)]
    np.testing.assert_allclose(two, means, atol=1e-4)


@pytest.mark.slow
def test_accumulated_gradients_are_those_of_one_big_batch():
    """The batches that make up one optimizer step see the same draw, as one big batch would."""

    def make(**optimizer_args):
        model = small()
        model.compile(keras.optimizers.SGD(0.1, **optimizer_args), "mse")
        return model

    big, accumulated = make(), make(gradient_accumulation_steps=3)
    fit(big, WeightNoiseCallback(0.3, seed=1), batch_size=12, epochs=3)
    fit(accumulated, WeightNoiseCallback(0.3, seed=1), batch_size=4, epochs=3)
    for here, there in zip(accumulated.get_weights(), big.get_weights(), strict=True):
        np.testing.assert_allclose(here, there, atol=1e-6)


def test_steps_without_an_optimizer_draw_anew():
    class ByHand(keras.Model):
        def train_step(self, data):
            y = self(data[0], training=True)
            self.compute_metrics(data[0], data[1], y)
            return {"objective": tf.reduce_mean(y)}

    class Objectives(Losses):
        def on_train_batch_end(self, batch, logs=None):
            self.seen.append(float(logs["objective"]))

    base = linear()
    model = ByHand(base.inputs, base.outputs)
    model.compile()
    seen = Objectives()
    noise = WeightNoiseCallback(0.3, seed=1)
    model.fit(SAME_BATCH, epochs=2, verbose=0, shuffle=False, callbacks=[noise, seen])
    assert len(set(seen.seen)) == 8


@pytest.mark.any_version
@pytest.mark.slow
def test_seeds():
    same_seed = [trained(WeightNoiseCallback(0.2, seed=3)) for _ in range(2)]
    assert same(*same_seed)
    assert not same(same_seed[0], trained(WeightNoiseCallback(0.2, seed=4)))
    assert not same(same_seed[0], trained())
    # Without a seed, `set_random_seed` (in `small`) decides.
    assert same(trained(WeightNoiseCallback(0.2)), trained(WeightNoiseCallback(0.2)))
    model = small()
    fit(model, WeightNoiseCallback(0.2))
    first = model.get_weights()
    model = small()
    keras.utils.set_random_seed(2)
    fit(model, WeightNoiseCallback(0.2))
    assert not same(first, model.get_weights())


@pytest.mark.any_version
@pytest.mark.slow
def test_a_variable_has_its_noise_whatever_else_is_selected():
    def see(magnitude=0.3, **selectors):
        keras.backend.clear_session()  # For the layers to have the same names each time.
        noise = WeightNoiseCallback(magnitude, seed=1, **selectors)
        return losses(noise, make=lambda: linear(use_bias=False))[0]

    plain, both = see(0.0), see()
    first, second = see(variables="dense/"), see(variables="dense_1/")
    assert both - plain == pytest.approx((first - plain) + (second - plain), abs=1e-4)
    assert abs(first - plain) > 1e-3
    assert abs(second - plain) > 1e-3
    assert see(exclude="dense/") == second


@pytest.mark.slow
def test_schedule_is_evaluated_at_the_step():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([2, 5], [0.0, 0.1, 0.2])
    history = fit(small(), WeightNoiseCallback(schedule, seed=1), epochs=3)
    # The last steps of the epochs are the steps 2, 5 and 8.
    assert history.history["weight_noise_stddev"] == pytest.approx([0.0, 0.1, 0.2])


def test_a_magnitude_of_zero_trains_as_without():
    assert same(trained(WeightNoiseCallback(0.0)), trained())


class Noises(keras.callbacks.Callback):
    """Reads, in the step, by how much each variable is off. The learning rate must be 0."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def wrap(self, model):
        clean = [v.numpy() for v in model.trainable_variables]

        class Tell(type(model)):
            def train_step(inner, data):
                tf.py_function(
                    lambda *vs: self.seen.append(
                        [v.numpy() - c for v, c in zip(vs, clean, strict=True)]
                    ),
                    [v.value for v in inner.trainable_variables],
                    [],
                )
                return super().train_step(data)

        told = Tell(model.inputs, model.outputs)
        told.compile(keras.optimizers.SGD(0.0), loss=mean_output)
        return told


def noises_in_steps(noise, epochs=2):
    keras.utils.set_random_seed(1)
    probe = Noises()
    model = probe.wrap(linear())
    model.fit(SAME_BATCH, epochs=epochs, verbose=0, shuffle=False, callbacks=[noise])
    return probe.seen


@pytest.mark.any_version
@pytest.mark.slow
def test_one_at_a_time():
    seen = noises_in_steps(WeightNoiseCallback(0.3, one_at_a_time=True, seed=1), epochs=10)
    moved = [[bool(np.any(noise)) for noise in step] for step in seen]
    assert all(sum(step) == 1 for step in moved)
    # 40 draws among 4: each is chosen sometimes, none mostly.
    counts = np.sum(moved, axis=0)
    assert counts.min() >= 3
    assert counts.max() <= 20
    # A variable has the noise it has when all are perturbed.
    everything = noises_in_steps(WeightNoiseCallback(0.3, seed=1), epochs=1)[0]
    first = moved[0].index(True)
    assert same(seen[0][first], everything[first])


@pytest.mark.any_version
@pytest.mark.slow
def test_different_noise_for_different_variables():
    rules = {"bias": noises.Rademacher(0.5), "dense/": 0.0, None: 0.1}
    noise = WeightNoiseCallback(rules, seed=1)
    kernel, bias, other_kernel, other_bias = noises_in_steps(noise)[0]
    np.testing.assert_allclose(np.abs([bias, other_bias]), 0.5)
    assert {bool(np.any(k)) for k in (kernel, other_kernel)} == {True, False}
    history = fit(small(), WeightNoiseCallback({"bias": noises.Rademacher(0.5), None: 0.1}))
    logged = {k: v for k, v in history.history.items() if k.startswith("weight_noise")}
    assert logged == {
        "weight_noise_rademacher_scale": [0.5, 0.5],
        "weight_noise_gaussian_stddev": [pytest.approx(0.1)] * 2,
    }


@pytest.mark.slow
def test_every_noise_model_trains():
    """In one fit, composed, with a schedule among them, under XLA."""
    ramp = keras.optimizers.schedules.PolynomialDecay(0.0, 4, 0.1)
    noise = noises.Gaussian(ramp, relative_to="rms") + noises.LogNormal(0.1)
    noise += noises.Quantization(8) + noises.BitFlip(0.01) + noises.DropConnect(0.1)
    model = small(jit_compile=True)
    history = fit(model, WeightNoiseCallback(noise, seed=1))
    assert history.history["weight_noise_gaussian_stddev"][-1] == pytest.approx(0.1)
    assert np.isfinite(history.history["loss"]).all()


# What is printed and logged.


def test_table(capsys):
    fit(small(), WeightNoiseCallback(0.25, variables="kernels", verbose=1))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Weight noise: Gaussian(stddev=0.25, relative_to=None)"
    assert re.split(r"\s{2,}", lines[1].strip()) == [
        "Variable", "Shape", "Noise stddev", "Weight rms", "SNR (dB)",
    ]  # fmt: skip
    model = small()
    for line, layer in zip(lines[2:4], model.layers, strict=True):
        kernel = layer.get_weights()[0]
        _, shape, stddev, rms, ratio = re.split(r"\s{2,}", line.strip())
        assert shape == str(kernel.shape)
        assert float(stddev) == 0.25
        expected = np.sqrt(np.mean(kernel**2))
        assert float(rms) == pytest.approx(expected, rel=1e-3)
        assert float(ratio) == pytest.approx(20 * np.log10(expected / 0.25), abs=0.06)


def test_log_reaches_history_and_later_callbacks(tmp_path):
    logger = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    history = fit(small(), WeightNoiseCallback(0.25), logger)
    assert history.history["weight_noise_stddev"] == [0.25, 0.25]
    assert "weight_noise_stddev" in (tmp_path / "log.csv").read_text()


# Other callbacks.


@pytest.mark.slow
def test_checkpoints_are_clean(tmp_path):
    for order in (0, 1):
        model = small()
        callbacks = [WeightNoiseCallback(0.3, seed=1)]
        path = str(tmp_path / f"{order}-{{batch}}.weights.h5")
        checkpoint = keras.callbacks.ModelCheckpoint(path, save_freq=1, save_weights_only=True)
        callbacks.insert(order, checkpoint)
        fit(model, *callbacks, epochs=1)
        saved = small()
        saved.load_weights(path.format(batch=3))
        assert same(saved.get_weights(), model.get_weights())


@pytest.mark.slow
@pytest.mark.parametrize("order", [0, 1])
def test_resumed_run_is_the_uninterrupted_one(tmp_path, order):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def callbacks():
        both = [WeightNoiseCallback(0.3, seed=1)]
        both.insert(order, keras.callbacks.BackupAndRestore(tmp_path))
        return both

    whole = trained(WeightNoiseCallback(0.3, seed=1), epochs=4)
    with pytest.raises(KeyboardInterrupt):
        fit(small(), *callbacks(), Stop(), epochs=4)
    resumed = small()
    fit(resumed, *callbacks(), epochs=4)
    assert same(resumed.get_weights(), whole)


@pytest.mark.slow
def test_initial_epoch_continues():
    model = small()
    fit(model, WeightNoiseCallback(0.3, seed=1), epochs=2)
    fit(model, WeightNoiseCallback(0.3, seed=1), epochs=4, initial_epoch=2)
    assert same(model.get_weights(), trained(WeightNoiseCallback(0.3, seed=1), epochs=4))


def test_early_stopping_restores_clean_weights():
    model = small()
    probe = Weights()
    stop = keras.callbacks.EarlyStopping(
        "loss", patience=0, mode="max", restore_best_weights=True, start_from_epoch=0
    )
    fit(model, WeightNoiseCallback(0.05, seed=1), probe, stop, epochs=5)
    assert any(same(model.get_weights(), seen) for seen in probe.seen[:-1])


@pytest.mark.slow
def test_evaluate_and_predict_with_the_callback_are_plain():
    model = small()
    noise = WeightNoiseCallback(0.3, seed=1)
    fit(model, noise)
    with pytest.warns(UserWarning, match="no effect"):
        evaluated = model.evaluate(X, Y, verbose=0, callbacks=[noise])
    with pytest.warns(UserWarning, match="no effect"):
        predicted = model.predict(X, verbose=0, callbacks=[noise])
    assert evaluated == model.evaluate(X, Y, verbose=0)
    assert same(predicted, model.predict(X, verbose=0))


@pytest.mark.slow
def test_evaluating_another_model_in_a_hook():
    other = small()

    class Compare(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            other.evaluate(X, Y, verbose=0, callbacks=[noise])

    noise = WeightNoiseCallback(0.3, seed=1)
    with pytest.warns(UserWarning, match="no effect"):
        weights = trained(noise, Compare())
    assert same(weights, trained(WeightNoiseCallback(0.3, seed=1)))


@pytest.mark.slow
@pytest.mark.parametrize("order", [0, 1])
def test_train_on_batch_in_a_hook_and_after_is_plain(order):
    """The gradient of a linear model is its inputs' mean: its update tells nothing, its loss all."""
    seen = []

    class Extra(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            self.model.reset_metrics()
            seen.append(float(self.model.train_on_batch(X, Y)))
            self.model.reset_metrics()

    keras.utils.set_random_seed(1)
    model = linear()
    model.compile(keras.optimizers.SGD(0.0), loss=mean_output)
    plain = model.evaluate(X, Y, verbose=0)
    callbacks = [WeightNoiseCallback(0.3, seed=1)]
    callbacks.insert(order, Extra())
    history = fit(model, *callbacks)
    assert abs(history.history["loss"][0] - plain) > 1e-3
    model.reset_metrics()
    seen.append(float(model.train_on_batch(X, Y)))
    np.testing.assert_allclose(seen, plain, rtol=1e-5)


@pytest.mark.slow
def test_unfreezing_during_fit_is_followed():
    class Unfreeze(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                self.model.layers[0].trainable = True
                self.model.make_train_function(force=True)
                self.model.optimizer = keras.optimizers.SGD(0.1)

    model = small()
    model.layers[0].trainable = False
    model.compile(keras.optimizers.SGD(0.1), "mse")
    noise = WeightNoiseCallback(0.3, seed=1)
    frozen = model.layers[0].get_weights()
    fit(model, noise, Unfreeze())
    assert not same(model.layers[0].get_weights(), frozen)
    assert len(noise._step.targets) == 4


# Errors in the middle.


class Failure(Exception):
    pass


class FailAt(keras.callbacks.Callback):
    def __init__(self, hook, error):
        super().__init__()

        def fail(*args, **kwargs):
            raise error

        setattr(self, hook, fail)


def failing_layer():
    """Fails in the graph, in the second batch, after the first layer was read."""
    keras.utils.set_random_seed(1)

    def check(x):
        with tf.control_dependencies([tf.debugging.assert_less(tf.reduce_max(x), 5.0)]):
            return tf.identity(x)

    inputs = keras.Input((4,))
    hidden = LAYERS.Dense(5, kernel_initializer="ones")(inputs)
    outputs = LAYERS.Dense(1)(LAYERS.Lambda(check)(hidden))
    return keras.Model(inputs, outputs)


HOOKS = [
    "on_train_begin", "on_epoch_begin", "on_train_batch_begin", "on_train_batch_end",
    "on_epoch_end", "on_test_batch_begin", "on_train_end",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("order", "error"), [(0, Failure("stop")), (1, KeyboardInterrupt())])
@pytest.mark.parametrize("hook", HOOKS)
def test_error_in_a_hook(hook, order, error):
    def make():
        keras.utils.set_random_seed(1)
        model = linear()
        model.compile(keras.optimizers.SGD(0.1), loss=mean_output)
        return model

    plain, model = make(), make()
    noise, failing = WeightNoiseCallback(0.3, seed=1), FailAt(hook, error)
    both = [noise, failing] if order else [failing, noise]
    for each, callbacks in ((plain, [failing]), (model, both)):
        with pytest.raises(type(error)):
            fit(each, *callbacks, validation_data=batches())
    assert same(model.get_weights(), plain.get_weights())
    # A later fit without it is an ordinary one, and a later one with it works.
    assert fit(model).history["loss"] == fit(plain).history["loss"]
    assert fit(model, noise).history["loss"] != fit(plain).history["loss"]
    assert same(model.get_weights(), plain.get_weights())


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("apart", [False, True])
def test_error_in_the_step(eager, apart, monkeypatch):
    if apart:
        monkeypatch.setattr(short_vectors, "_SHORT", 0)
    model = failing_layer()
    model.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=eager)
    before = model.get_weights()
    x = X.copy()
    x[4:8] = 100.0
    noise = WeightNoiseCallback(0.3, seed=1)
    for _ in range(2):
        with pytest.raises(tf.errors.InvalidArgumentError, match="Condition x < y"):
            model.fit(x, Y, batch_size=4, shuffle=False, verbose=0, callbacks=[noise])
        assert same(model.get_weights(), before)
    model.fit(X * 0, Y, batch_size=4, verbose=0, callbacks=[noise])
    assert same(model.get_weights(), before)


def test_error_while_tracing():
    class Broken(keras.Model):
        def train_step(self, data):
            self(data[0], training=True)
            raise Failure

    base = linear()
    model = Broken(base.inputs, base.outputs)
    model.compile()
    before = model.get_weights()
    apply = model.optimizer.apply
    with pytest.raises(Failure):
        fit(model, WeightNoiseCallback(0.3))
    assert same(model.get_weights(), before)
    assert "train_step" not in vars(model)
    assert model.optimizer.apply == apply


def test_embedding_id_out_of_range():
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((1,)), LAYERS.Embedding(4, 3), LAYERS.Dense(1)])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    before = model.get_weights()
    ids = np.array([[0]] * 4 + [[9]] * 4)
    with pytest.raises(tf.errors.InvalidArgumentError):
        model.fit(
            ids, np.zeros((8, 1, 1)), batch_size=4, shuffle=False, verbose=0,
            callbacks=[WeightNoiseCallback(0.3)],
        )  # fmt: skip
    assert same(model.get_weights(), before)


def test_error_in_the_data():
    def generate():
        yield X[:4], Y[:4]
        raise Failure("stop")

    model = small()
    model.compile(keras.optimizers.SGD(0.0), "mse")
    before = model.get_weights()
    with pytest.raises(Exception, match="stop"):  # TensorFlow wraps it.
        model.fit(generate(), shuffle=False, verbose=0, callbacks=[WeightNoiseCallback(0.3)])
    assert same(model.get_weights(), before)


# Instances.


@pytest.mark.slow
def test_one_instance_serves_many_fits_and_models():
    noise = WeightNoiseCallback(0.3, seed=1)
    model = small()
    for _ in range(2):
        fit(model, noise, epochs=1)
    assert same(model.get_weights(), trained(WeightNoiseCallback(0.3, seed=1), epochs=2))
    assert same(trained(noise), trained(WeightNoiseCallback(0.3, seed=1)))


@pytest.mark.slow
def test_a_second_fit_traces_nothing():
    traces = []

    class Count(LAYERS.Layer):
        def call(self, x):
            traces.append(None)
            return x

    model = keras.Sequential([keras.Input((4,)), LAYERS.Dense(3), Count(), LAYERS.Dense(1)])
    model.compile("sgd", "mse")
    noise = WeightNoiseCallback(0.3)
    fit(model, noise, epochs=1)
    traced = len(traces)
    for _ in range(3):
        fit(model, noise, epochs=1)
    assert len(traces) == traced


@pytest.mark.slow
def test_compiling_anew_is_followed():
    noise = WeightNoiseCallback(0.3, seed=1)
    model = small()
    fit(model, noise)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    before = model.get_weights()
    fit(model, noise)
    assert same(model.get_weights(), before)


@pytest.mark.slow
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
@pytest.mark.parametrize("fitted", [False, True])
def test_copies(duplicate, fitted):
    noise = WeightNoiseCallback(
        noises.Gaussian(0.3, relative_to="rms"), frequency=2, variables="kernels", seed=1
    )
    if fitted:
        fit(small(), noise)
    copied = duplicate(noise)
    assert copied.noise == noise.noise
    assert same(trained(copied), trained(noise))


@pytest.mark.parametrize("frequency", ["batch", "epoch"])
def test_no_copy_of_the_weights_is_kept_between_steps(frequency):
    model = linear()
    model.compile(keras.optimizers.SGD(0.1), loss=mean_output, jit_compile=False)
    noise = WeightNoiseCallback(0.3, frequency=frequency)
    sizes = []

    def kept(batch=None, logs=None):
        step = noise._step
        copies = [
            *step._log._copies.kept,
            *(v for held in step._noise._held for v in held._variables()),
        ]
        sizes.append(sum(int(tf.size(copy)) for copy in copies))

    fit(model, noise, keras.callbacks.LambdaCallback(on_train_batch_end=kept))
    kept()
    weights = sum(w.size for w in model.get_weights())
    assert sizes[0] == (0 if frequency == "batch" else weights)  # Held numbers.
    assert sizes[-1] == 0


@pytest.mark.parametrize("apart", [False, True])
def test_optimizers_write_in_place(apart, monkeypatch):
    # A copy that something still holds would have each variable copied before it is written to.
    if apart:
        monkeypatch.setattr(short_vectors, "_SHORT", 0)
    model = linear()
    model.compile(keras.optimizers.SGD(0.1), loss=mean_output, jit_compile=False)

    def addresses():
        values = [tf.convert_to_tensor(v) for v in model.trainable_variables]
        return [np.asarray(memoryview(value)).ctypes.data for value in values]

    before = addresses()
    fit(model, WeightNoiseCallback(0.3))
    assert addresses() == before


class Sums(keras.Model):
    """Vectors and matrices, all of the same size; and the graphs that its steps are traced in."""

    def __init__(self, of_each):
        super().__init__()
        shapes = [(3,)] * of_each + [(64, 64)] * of_each
        self.parts = [self.add_weight(shape=shape, initializer="ones") for shape in shapes]
        self.graphs = []

    def call(self, x):
        return x * sum(map(keras.ops.sum, self.parts))

    def train_step(self, data):
        self.graphs.append(tf.compat.v1.get_default_graph())
        return super().train_step(data)


@pytest.mark.slow
def test_ops_for_each_variable_are_few():
    """In a large model, ops are what the first step costs, and what many small variables cost."""

    def ops(of_each, *callbacks):
        model = Sums(of_each)
        model.build((None, 1))
        model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=False)
        model.fit(np.ones((1, 1)), np.ones((1, 1)), verbose=0, callbacks=callbacks)
        return [op.type for op in model.graphs[-1].get_operations()]

    few, more = ops(2, WeightNoiseCallback(0.1)), ops(4, WeightNoiseCallback(0.1))
    # A vector is read, and assigned twice. A matrix is copied, too: its copy is captured, and assigned; and
    # its numbers are cut from those for all, and added.
    assert len(more) - len(few) - (len(ops(4)) - len(ops(2))) == 2 * (3 + 7)
    # There is nothing that only XLA would need, if it compiled the step.
    assert not {"Case", "StatelessCase"}.intersection(more)


@pytest.mark.parametrize("passes", [{}, {"draws_per_step": 2}])
def test_weights_keep_their_shapes_in_graphs(passes):
    # Grappler takes all that a graph assigns to a variable for one shape: weights and what replaces their
    # copies, and rewrites convolutions for kernels of that shape.
    model = keras.Sequential(
        [keras.Input((5, 5, 1)), LAYERS.Conv2D(2, 3, activation="relu"), LAYERS.Conv2D(1, 3)]
    )
    model.compile("sgd", "mse", jit_compile=False)
    x, y = np.ones((4, 5, 5, 1)), np.ones((4, 1, 1, 1))
    model.fit(x, y, callbacks=[WeightNoiseCallback(0.1, **passes)], verbose=0)


class CompiledByItself(keras.Sequential):
    """A model whose training function XLA compiles, though it was not compiled with `jit_compile=True`."""

    def make_train_function(self, force=False):
        step = tf.function(lambda data: self.train_step(data), jit_compile=True)
        self.train_function = lambda iterator: step(next(iterator))


@pytest.mark.slow
@pytest.mark.parametrize(
    "noise", [0.1, schedules.LinearRamp(0.0, 0.1, start_step=1, ramp_steps=1)], ids=repr
)
def test_training_functions_that_models_compile(noise):
    keras.utils.set_random_seed(1)
    model = CompiledByItself([keras.Input((4,)), LAYERS.Dense(5), LAYERS.Dense(1)])
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=False)
    before = model.get_weights()
    losses = [
        fit(model, *callbacks).history["loss"]
        for callbacks in ([], [WeightNoiseCallback(noise, seed=1)])
    ]
    fit(model, WeightNoiseCallback(noise, seed=1))
    assert losses[0] != losses[1]
    assert same(model.get_weights(), before)


AUTOCLUSTERED = """
import keras
import numpy as np

from keras_weightnoise import WeightNoiseCallback, schedules

model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5), keras.layers.Dense(1)])
model.compile("sgd", "mse", jit_compile=False)
for noise in 0.1, schedules.LinearRamp(0.0, 0.1, start_step=1, ramp_steps=1):
    model.fit(np.ones((8, 4)), np.ones((8, 1)), batch_size=2, callbacks=[WeightNoiseCallback(noise)])
"""


@pytest.mark.slow
def test_xla_may_compile_parts_of_a_step():
    # It compiles for the shapes of variables, which copies of weights do not keep.
    flags = "--tf_xla_auto_jit=2 --tf_xla_cpu_global_jit --tf_xla_min_cluster_size=1"
    environment = {**os.environ, "TF_XLA_FLAGS": flags}
    subprocess.run([sys.executable, "-c", AUTOCLUSTERED], check=True, timeout=200, env=environment)


@pytest.mark.slow
def test_nothing_stays_behind():
    model = small()
    noise = WeightNoiseCallback(0.3)
    step = model.train_step
    fit(model)
    function = model.train_function
    fit(model, noise)
    assert model.train_function is function
    assert model.train_step == step
    assert "apply" not in vars(model.optimizer)
    kept = weakref.ref(noise._step)
    del noise
    model.history = None  # It holds the fit's list of callbacks in no other place.
    gc.collect()
    assert kept() is None


@pytest.mark.slow
def test_two_on_one_fit_are_refused():
    model = small()
    before = model.get_weights()
    with pytest.raises(ValueError, match="Two `WeightNoiseCallback`s on one fit"):
        fit(model, WeightNoiseCallback(0.1), WeightNoiseCallback(0.1))
    twice = WeightNoiseCallback(0.1)
    with pytest.raises(RuntimeError, match="this callback is in `callbacks` twice"):
        fit(model, twice, twice)
    model.set_weights(before)
    assert same(model.get_weights(), before)
    fit(model, WeightNoiseCallback(0.1))


# Refusals.


@pytest.mark.any_version
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"noise": -0.1}, ValueError, "noise=-0.1"),
        ({"noise": float("nan")}, ValueError, "noise=nan"),
        ({"noise": "much"}, TypeError, "noise='much'"),
        ({"noise": True}, TypeError, "noise=True"),
        ({"noise": None}, TypeError, "noise=None"),
        ({"frequency": "step"}, ValueError, "frequency='step'"),
        ({"frequency": 0}, ValueError, "frequency=0"),
        ({"frequency": 1.5}, TypeError, "frequency=1.5"),
        ({"frequency": True}, TypeError, "frequency=True"),
        ({"variables": "("}, ValueError, "variables='\\('"),
        ({"variables": []}, ValueError, "variables=\\[\\]"),
        ({"variables": 3}, TypeError, "variables=3"),
        ({"variables": int}, TypeError, "variables=<class 'int'>"),
        ({"exclude": 3}, TypeError, "exclude=3"),
        ({"seed": -1}, ValueError, "seed=-1"),
        ({"seed": 2**32}, ValueError, "seed=4294967296"),
        ({"seed": 1.0}, TypeError, "seed=1.0"),
        ({"noise": {}}, ValueError, "noise={}"),
        ({"noise": ["kernels", 0.1]}, TypeError, "noise=\\['kernels', 0.1\\]"),
        ({"noise": [("kernels", -0.1)]}, ValueError, "noise=-0.1"),
        ({"one_at_a_time": 1}, TypeError, "one_at_a_time=1"),
        ({"verbose": 2}, ValueError, "verbose=2"),
    ],
    ids=str,
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=f"Expected .*Received: {message}"):
        WeightNoiseCallback(**arguments)


class OnTwoWorkers:
    """What a strategy says in one of two processes. Keras itself cannot `fit` there."""

    num_replicas_in_sync = 2
    extended = types.SimpleNamespace(worker_devices=("/job:worker/task:0/device:CPU:0",))

    def __getattr__(self, name):
        return getattr(tf.distribute.get_strategy(), name)


def test_several_workers_are_refused():
    class Distributed(keras.Model):
        distribute_strategy = property(lambda self: OnTwoWorkers())

    base = linear()
    model = Distributed(base.inputs, base.outputs)
    model.compile("sgd", "mse")
    with pytest.raises(
        ValueError, match=r"several workers.*`strategy\.run`.*2 replicas, 1 of them"
    ):
        fit(model, WeightNoiseCallback(0.1))


@pytest.mark.slow
def test_a_strategy_of_several_workers_with_one_is_served():
    with tf.distribute.MultiWorkerMirroredStrategy().scope():
        model = small()
    before = model.get_weights()
    fit(model, WeightNoiseCallback(0.1), epochs=1)
    assert not same(model.get_weights(), before)


def test_a_model_without_variables_is_refused():
    class Empty(keras.Model):
        def train_step(self, data):
            return {}

    model = Empty()
    model.compile()
    with pytest.raises(ValueError, match=r"no variables.*Build it"):
        fit(model, WeightNoiseCallback(0.1))


class Late(keras.Model):
    """Its second layer is built when it is first called."""

    def __init__(self):
        super().__init__()
        self.first = LAYERS.Dense(3)
        self.first.build((None, 4))
        self.second = LAYERS.Dense(1)

    def call(self, x):
        return self.second(self.first(x))


@pytest.mark.slow
@pytest.mark.parametrize(
    "make", [Late, lambda: keras.Sequential([LAYERS.Dense(3), LAYERS.Dense(1)])]
)
def test_a_model_that_is_built_by_its_data(make, capsys):
    """As without noise, whether it is built before `fit` or by it."""

    def train(*callbacks, build=False):
        keras.utils.set_random_seed(1)
        model = make()
        if build:
            model(X[:1])
        model.compile(keras.optimizers.SGD(0.1), loss=mean_output)
        fit(model, *callbacks)
        return model.get_weights()

    late = train(WeightNoiseCallback(0.3, frequency="epoch", seed=1, verbose=1))
    assert len(capsys.readouterr().out.splitlines()) == 6
    early = train(WeightNoiseCallback(0.3, frequency="epoch", seed=1), build=True)
    assert same(late, early)
    assert not same(late, train())


def test_variables_made_in_the_first_step_are_refused():
    class Trained(keras.Model):
        """Trained by other means than being called, so that nothing can build it."""

        def __init__(self):
            super().__init__()
            self.built_layer, self.late_layer = LAYERS.Dense(3), LAYERS.Dense(3)
            self.built_layer.build((None, 4))

        def train_step(self, data):
            return {"objective": tf.reduce_mean(self.late_layer(self.built_layer(data[0])))}

    model = Trained()
    model.compile()
    with pytest.raises(ValueError, match="created variables"):
        fit(model, WeightNoiseCallback(0.1))


@pytest.mark.parametrize(
    "selectors",
    [
        {"variables": "conv"},
        {"variables": ["kernels", "conv"]},
        {"exclude": "conv"},
        {"exclude": "dense"},
        {"variables": lambda v: False},
        {"variables": LAYERS.Conv2D},
    ],
    ids=str,
)
def test_nothing_selected_is_refused(selectors):
    with pytest.raises(ValueError, match="dense/kernel"):
        fit(small(), WeightNoiseCallback(0.1, **selectors))


def test_spectral_normalization_is_refused_by_name():
    model = keras.Sequential(
        [keras.Input((4,)), LAYERS.SpectralNormalization(LAYERS.Dense(3), name="normalized")]
    )
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"'normalized'.*exclude"):
        fit(model, WeightNoiseCallback(0.1))
    fit(model, WeightNoiseCallback(0.1, exclude="kernel"))


def test_what_no_step_reads_is_reported():
    class Unused(keras.Model):
        def __init__(self):
            super().__init__()
            self.used, self.idle = LAYERS.Dense(1), LAYERS.Dense(1, name="idle")
            self.used.build((None, 4))
            self.idle.build((None, 4))

        def call(self, x):
            return self.used(x)

    model = Unused()
    model.compile("sgd", "mse")
    with (
        pytest.warns(UserWarning, match=r"reads none of \['.*idle/kernel'"),
        pytest.warns(UserWarning, match="Gradients do not exist"),
    ):
        fit(model, WeightNoiseCallback(0.1))


class InFunction(keras.Model):
    """Its update is a method that is a `tf.function`."""

    def train_step(self, data):
        return {"objective": self.update(data[0])}

    @tf.function
    def update(self, x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(self(x))
        if tf.reduce_sum(tf.abs(x)) > 0.0:  # Needs AutoGraph.
            grads = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply(grads, self.trainable_variables)
        return loss


@pytest.mark.slow
@pytest.mark.parametrize("order", ["clean first", "noisy first"])
@pytest.mark.parametrize("optimizer", [{"use_ema": True}, {"gradient_accumulation_steps": 2}])
def test_methods_that_are_functions(order, optimizer):
    """What a function was traced with, in an earlier fit, is not what a later one gets."""

    def train(*fits):
        keras.utils.set_random_seed(1)
        base = linear()
        model = InFunction(base.inputs, base.outputs)
        model.compile(keras.optimizers.SGD(0.1, **optimizer))
        objectives = [fit(model, *callbacks).history["objective"] for callbacks in fits]
        gc.collect()
        return objectives, [v.numpy() for v in (*model.variables, *model.optimizer.variables)]

    plain, weights = train([], [], [])
    noisy = [[WeightNoiseCallback(0.3, seed=1)] for _ in range(2)]
    fits = [[], *noisy] if order == "clean first" else [*noisy, []]
    objectives, noisy_weights = train(*fits)
    # Linear: the weights are those of plain training, while the noisy fits' objectives differ.
    assert same(noisy_weights, weights)
    agree = [np.allclose(a, b, rtol=1e-4) for a, b in zip(objectives, plain, strict=True)]
    assert agree == [not callbacks for callbacks in fits]


@pytest.mark.parametrize("traced_before", [False, True])
def test_an_update_in_a_function_elsewhere_is_refused(traced_before):
    class Elsewhere(keras.Model):
        def train_step(self, data):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(self(data[0]))
            update(self, tape.gradient(loss, self.trainable_variables))
            return {"objective": loss}

    @tf.function
    def update(model, grads):
        model.optimizer.apply(grads, model.trainable_variables)

    base = linear()
    model = Elsewhere(base.inputs, base.outputs)
    model.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=2))
    if traced_before:
        fit(model)
    before = model.get_weights()
    with pytest.raises(ValueError, match="no method of the model"):
        fit(model, WeightNoiseCallback(0.3))
    assert same(model.get_weights(), before)


@pytest.mark.slow
def test_train_step_as_a_function_of_an_instance():
    model = linear()
    model.train_step = tf.function(model.train_step)
    model.compile(keras.optimizers.SGD(0.1), loss=mean_output)
    noisy = fit(model, WeightNoiseCallback(0.3, seed=1)).history["loss"]
    assert isinstance(noisy[0], float)


@pytest.mark.slow
def test_a_layer_that_assigns_its_weight_is_refused_by_name():
    class Normalized(LAYERS.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1], 2))

        def call(self, x, training=None):
            if training:
                self.kernel.assign(self.kernel / keras.ops.norm(self.kernel))
            return keras.ops.matmul(x, self.kernel)

    model = keras.Sequential([keras.Input((4,)), Normalized(name="mine"), LAYERS.Dense(1)])
    model.compile("sgd", "mse")
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"'mine'.*assigns.*exclude"):
        fit(model, WeightNoiseCallback(0.3))
    assert same(model.get_weights(), before)
    fit(model, WeightNoiseCallback(0.3, exclude="mine"))


@pytest.mark.slow
def test_a_schedule_that_cannot_be_serialized():
    class Own(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.1

    noise = WeightNoiseCallback(Own(), seed=1)
    for _ in range(2):
        assert fit(small(), noise).history["weight_noise_stddev"] == pytest.approx([0.1, 0.1])
    model = small()
    fit(model, noise)
    fit(model, noise)


@pytest.mark.slow
def test_changed_settings_count_from_the_next_fit():
    model = small()
    noise = WeightNoiseCallback(0.3, seed=1)
    fit(model, noise)
    noise.noise = 0.0
    history = fit(model, noise).history
    assert history["weight_noise_stddev"] == [0.0, 0.0]


def test_a_training_function_without_the_step_is_refused():
    class Own(keras.Model):
        def make_train_function(self, force=False):
            self.train_function = lambda iterator: {"loss": next(iterator)[0][0, 0]}

    base = linear()
    model = Own(base.inputs, base.outputs)
    model.compile()
    with pytest.raises(RuntimeError, match="did not call"):
        fit(model, WeightNoiseCallback(0.3))


@pytest.mark.parametrize(("end", "lost"), [(1e-4, True), (0.1, False)])
def test_a_ramp_is_checked_at_its_end_for_what_the_dtype_resolves(end, lost):
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(64, dtype="bfloat16")])
    model.compile("sgd", "mse")
    ramp = schedules.LinearRamp(0.0, end, start_step=1, ramp_steps=10)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(
            np.ones((8, 8)),
            np.ones((8, 64)),
            verbose=0,
            callbacks=[WeightNoiseCallback(ramp, variables="kernels")],
        )
    assert any("lost to rounding" in str(w.message) for w in caught) == lost
