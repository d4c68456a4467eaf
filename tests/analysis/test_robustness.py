"""robustness_sweep: what is measured, on what, and that the model is as it was. Its results."""

import functools
import json
import math
import sys
import warnings

import keras
import matplotlib
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from fits import strategy, watch
from sklearn.datasets import load_digits

import keras_weightnoise
from keras_weightnoise import compare, noises, perturb_weights, perturbed_weights, schedules
from keras_weightnoise.analysis._summaries import number, prefers_high, summarize, t_quantile
from keras_weightnoise.analysis.landscape_result import LandscapeResult
from keras_weightnoise.analysis.robustness import robustness_sweep
from keras_weightnoise.analysis.robustness_result import RobustnessResult, RobustnessRow
from keras_weightnoise.analysis.sensitivity_result import SensitivityResult, SensitivityRow
from keras_weightnoise.models import perturb

matplotlib.use("Agg")
L = keras.layers
X = np.random.default_rng(0).normal(size=(20, 4)).astype("float32")
Y = np.random.default_rng(1).integers(0, 3, 20)
W = np.random.default_rng(2).random(20).astype("float32")
sweep = functools.partial(robustness_sweep, verbose=0, draws=2, magnitudes=(0.1, 0.5))


def network(normalized=False, **options):
    keras.utils.set_random_seed(1)
    middle = [L.BatchNormalization(name="bn"), L.Dropout(0.5)] if normalized else []
    model = keras.Sequential(
        [keras.Input((4,)), L.Dense(6, activation="relu", name="a"), *middle, L.Dense(3, name="b")],
        name="net",
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"], **options)
    model.optimizer.build(model.trainable_variables)
    return model


def state(model):
    return [v.numpy().tobytes() for v in [*model.variables, *model.optimizer.variables]]


def interrupt_at(when, error=KeyboardInterrupt):
    def look(i):
        if i == when:
            raise error

    return look


def quantized(s):
    return noises.Quantization(4) + noises.Gaussian(s)


SWEPT = [
    (None, noises.Gaussian),
    (noises.Gaussian(0.3, relative_to="std"), lambda s: noises.Gaussian(s, relative_to="std")),
    (noises.Uniform, noises.Uniform),
    (noises.BitFlip(bits=4), lambda s: noises.BitFlip(s, bits=4)),
    (noises.Quantization(3), lambda s: noises.Quantization(3, s)),
    (noises.Gaussian(schedules.LinearRamp(0.0, 0.1, start_step=0, ramp_steps=5)), noises.Gaussian),
    (quantized, quantized),
]


# What is measured.


@pytest.mark.any_version
@pytest.mark.slow
@pytest.mark.parametrize(
    ("noise", "at", "eager"),
    [*((*case, False) for case in SWEPT), (None, noises.Gaussian, True)],
)
def test_values(noise, at, eager):
    model = network(run_eagerly=eager)
    result = sweep(model, (X, Y), noise=noise, seed=5)
    assert result.complete
    assert result.clean == model.evaluate(X, Y, verbose=0, return_dict=True)
    expected = []
    for magnitude in (0.1, 0.5):
        with perturbed_weights(model, at(magnitude), seed=5) as noisy:
            for draw in range(2):
                metrics = model.evaluate(X, Y, verbose=0, return_dict=True)
                expected.append((magnitude, draw, metrics))
                noisy.redraw()
    assert [(r.magnitude, r.draw, r.metrics) for r in result.rows] == expected
    copy = perturb_weights(model, at(0.5), seed=5)
    metrics = copy.evaluate(X, Y, verbose=0, return_dict=True)
    assert result.rows[2].metrics == pytest.approx(metrics, rel=1e-5)
    assert len({r.metrics["loss"] for r in result.rows}) == 4


@pytest.mark.any_version
def test_selection():
    model = network()
    before = [v.numpy() for v in model.variables]
    moved = watch(
        model,
        lambda i: [np.any(v.numpy() != b) for v, b in zip(model.variables, before, strict=True)],
    )
    sweep(model, (X, Y), variables="kernels", exclude="b/", magnitudes=[0.1], draws=2)
    assert moved == [[False] * 4, *[[True, False, False, False]] * 2]


@pytest.mark.any_version
@pytest.mark.slow
def test_draws_are_common():
    draws = []
    for scale in (1.0, 2.0):
        model = network()
        model.get_layer("a").kernel.assign(scale * model.get_layer("a").kernel)
        clean = model.get_layer("a").kernel.numpy()
        draws.append(watch(model, lambda i, m=model, c=clean: m.get_layer("a").kernel.numpy() - c))
        sweep(model, (X, Y), noise=[None, noises.Gaussian(relative_to="weight")])
    for seen, clean in zip(draws, (1.0, 2.0), strict=True):
        assert not np.any(seen[0])
        for draw in range(2):
            small, large = seen[1 + 2 * draw : 3 + 2 * draw]
            np.testing.assert_allclose(large, 5 * small, rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(small, draws[0][1 + 2 * draw], rtol=1e-4, atol=1e-6)
            relative = seen[5 + 2 * draw] / np.abs(clean * network().get_layer("a").kernel)
            np.testing.assert_allclose(relative, small, rtol=1e-3, atol=1e-5)
        assert not np.allclose(seen[1], seen[3])


@pytest.mark.slow
@pytest.mark.any_version
@pytest.mark.parametrize(
    ("noise", "magnitudes", "evaluations"),
    [
        (None, [0, 0.1], 1 + 2),
        (noises.Quantization, [8, 2], 1 + 2),
        (quantized, [0, 0.1], 1 + 1 + 2),
        (noises.Quantization(4), [0, 1], 1 + 1),
        ([None, noises.Uniform], [0.0], 1),
    ],
)
def test_what_is_not_random_is_evaluated_once(noise, magnitudes, evaluations):
    model = network()
    seen = watch(model, lambda i: None)
    result = sweep(model, (X, Y), noise=noise, magnitudes=magnitudes)
    assert len(seen) == evaluations
    assert len(result.rows) % (2 * len(magnitudes)) == 0
    for row in result.rows:
        same = [r for r in result.rows if (r.noise, r.magnitude) == (row.noise, row.magnitude)]
        assert [r.draw for r in same] == [0, 1]
        if row.magnitude == 0 and noise is not quantized:
            assert row.metrics == result.clean
    if noise is noises.Quantization:
        with perturbed_weights(model, noises.Quantization(2)):
            metrics = model.evaluate(X, Y, verbose=0, return_dict=True)
        assert result.rows[0].metrics == metrics != result.clean


# Data.


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 4

    def __getitem__(self, i):
        return X[5 * i : 5 * i + 5], Y[5 * i : 5 * i + 5]


def batches(repeat=1):
    x, y = np.empty((5, 4), "float32"), np.empty(5, Y.dtype)
    for i in range(4 * repeat):
        x[:], y[:] = Batches.__getitem__(None, i % 4)
        yield x, y  # The same arrays again.


def dataset():
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(5)


DATA = {
    "dataset": lambda: (dataset(), {}),
    "endless dataset": lambda: (dataset().repeat(), {"steps": 4}),
    "PyDataset": lambda: (Batches(), {}),
    "generator": lambda: (batches(), {}),
    "endless generator": lambda: (batches(9), {"steps": 4}),
    "iterator": lambda: (iter(dataset()), {}),
    "tensors": lambda: ((tf.constant(X), tf.constant(Y)), {"batch_size": 5}),
    "weights": lambda: ((X, Y, np.ones(20)), {"batch_size": 5}),
    "steps": lambda: (
        (np.concatenate([X, X + 1]), np.concatenate([Y, Y])),
        {"batch_size": 5, "steps": 4},
    ),
}


@functools.cache
def expected(recalibrated):
    """What each of these gives."""
    recalibrate = X if recalibrated else None
    return sweep(network(recalibrated), (X, Y), batch_size=5, recalibrate=recalibrate)


@pytest.mark.slow
@pytest.mark.parametrize("form", DATA)
def test_forms_of_data(form):
    model = network()
    data, options = DATA[form]()
    result = sweep(model, data, **options)
    assert result.clean == pytest.approx(expected(False).clean, rel=1e-5)
    for a, b in zip(result.rows, expected(False).rows, strict=True):
        assert a.metrics == pytest.approx(b.metrics, rel=1e-5)


def test_sample_weights_count():
    model = network()
    result = sweep(model, (X, Y, W))
    metrics = model.evaluate(X, Y, sample_weight=W, verbose=0, return_dict=True)
    assert result.clean == metrics != model.evaluate(X, Y, verbose=0, return_dict=True)


def test_a_generator_is_read_no_further_than_steps():
    data = batches(2)
    sweep(network(), data, steps=3)
    np.testing.assert_array_equal(next(data)[0], X[15:])


def test_dictionaries_several_outputs_and_metrics_of_several_values():
    inputs = {name: keras.Input((4,), name=name) for name in ("p", "q")}
    x = L.Concatenate()(list(inputs.values()))
    model = keras.Model(
        inputs, {"one": L.Dense(3, name="one")(x), "two": L.Dense(1, name="two")(x)}
    )
    metrics = {"one": keras.metrics.F1Score(average=None), "two": "mae"}
    model.compile(loss="mse", metrics=metrics, run_eagerly=True)
    y = {"one": np.eye(3, dtype="float32")[Y], "two": W[:, None]}
    result = sweep(model, ({"p": X, "q": X}, y))
    assert {"loss", "one_f1_score_0", "one_f1_score_2", "two_mae"} <= set(result.clean)
    assert result.higher_is_better["one_f1_score_0"]
    assert not result.higher_is_better["two_mae"]
    assert RobustnessResult.from_json(result.to_json()) == result


def test_a_model_without_targets():
    class Autoencoder(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = L.Dense(4)

        def call(self, x):
            return self.dense(x)

        def test_step(self, data):
            return {"error": keras.ops.mean((self(data) - data) ** 2)}

    model = Autoencoder()
    model(X)
    model.compile(run_eagerly=True)
    result = sweep(model, X)
    assert result.clean["error"] == pytest.approx(np.mean((model(X) - X) ** 2), rel=1e-4)
    assert len({row.metrics["error"] for row in result.rows}) == 4


# The state that calls start from.


def test_each_draw_of_a_stateful_model_starts_from_the_same_state():
    keras.utils.set_random_seed(1)
    rnn = L.LSTM(3, stateful=True)
    model = keras.Sequential([keras.Input(batch_shape=(4, 5, 3)), rnn, L.Dense(1)])
    model.compile(loss="mse")
    x, y = np.random.default_rng(0).normal(size=(8, 5, 3)), np.ones((8, 1))
    model.predict(x, batch_size=4, verbose=0)
    before = [v.numpy() for v in rnn.states]
    result = sweep(model, (x, y), batch_size=4, magnitudes=[1e-9, 0.1])
    for value, kept in zip(before, rnn.states, strict=True):
        np.testing.assert_array_equal(value, kept)
    assert [r.metrics for r in result.rows[:2]] == [pytest.approx(result.clean, rel=1e-6)] * 2
    with perturbed_weights(model, 0.1, seed=0) as noisy:
        noisy.redraw()
        metrics = model.evaluate(x, y, batch_size=4, verbose=0, return_dict=True)
    assert result.rows[-1].metrics == metrics


# Errors.


@pytest.mark.any_version
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"magnitudes": [-0.1, 0.1]}, ValueError, r"Invalid `magnitudes`.*Received: magnitudes="),
        ({"magnitudes": []}, ValueError, "Invalid `magnitudes`"),
        ({"magnitudes": [math.inf]}, ValueError, "Invalid `magnitudes`"),
        ({"magnitudes": [True]}, ValueError, "Invalid `magnitudes`"),
        ({"magnitudes": ["a"]}, ValueError, "Invalid `magnitudes`"),
        ({"magnitudes": 0.1}, TypeError, "Invalid `magnitudes`.*list of numbers"),
        ({"noise": noises.StuckAt(), "magnitudes": [0.1, 1.5]}, ValueError, "Invalid `rate`"),
        ({"noise": noises.BitFlip, "magnitudes": [0.1, 1.5]}, ValueError, "Invalid `rate`"),
        ({"noise": noises.Quantization(4) + noises.Gaussian()}, ValueError, "composition.*lambda"),
        ({"noise": [noises.Compose([0.1])]}, ValueError, "composition.*Received: noise="),
        ({"noise": 0.1}, TypeError, r"as in `magnitudes=\[0.1\]`. Received: noise=0.1"),
        ({"noise": "gaussian"}, TypeError, "Invalid `noise`.*Received: noise='gaussian'"),
        ({"noise": []}, ValueError, "Invalid `noise`"),
        ({"noise": lambda s: s}, TypeError, r"to return one of.*Received: noise\(0.1\)=0.1"),
        (
            {
                "noise": lambda s: noises.Gaussian(
                    schedules.LinearRamp(0.0, s, start_step=0, ramp_steps=5)
                )
            },
            TypeError,
            "no steps to evaluate",
        ),
        ({"draws": 0}, ValueError, "Invalid `draws`.*Received: draws=0"),
        ({"draws": 2.0}, TypeError, "Invalid `draws`"),
        ({"draws": range(0)}, ValueError, r"Invalid `draws`.*draws=range\(0, 0\)"),
        ({"draws": range(-1, 2)}, ValueError, "Invalid `draws`"),
        ({"draws": [0, 1]}, TypeError, "Invalid `draws`"),
        ({"seed": None}, TypeError, "Invalid `seed`"),
        ({"seed": -1}, ValueError, "Invalid `seed`"),
        ({"steps": 0}, ValueError, "Invalid `steps`"),
        ({"batch_size": True}, TypeError, "Invalid `batch_size`"),
        ({"verbose": 3}, ValueError, "Invalid `verbose`"),
        ({"variables": "nothing"}, ValueError, "matches no eligible variable"),
        ({"recalibrate": X}, ValueError, "no `keras.layers.BatchNormalization`"),
        ({"data": (X,)}, ValueError, "Invalid `data`.*a tuple of 1"),
        ({"data": X}, ValueError, r"needs targets. Expected a tuple \(x, y\).*ndarray"),
        ({"data": tf.constant(X)}, ValueError, "needs targets"),
        ({"data": {"x": X}}, ValueError, "needs targets"),
        ({"data": [X, Y]}, ValueError, "needs targets.*Received: a list of 2"),
        ({"data": tf.data.Dataset.from_tensors(X)}, ValueError, "needs targets.*a dataset of"),
        ({"data": dataset(), "batch_size": 5}, ValueError, "comes in batches.*batch_size=5"),
        ({"data": dataset().repeat()}, ValueError, "`data` has no end"),
        ({"data": batches(0)}, ValueError, "ended too soon"),
        ({"data": batches(), "steps": 5}, ValueError, "ended too soon. Expected 5"),
    ],
)
def test_wrong_arguments_fail_before_anything_is_evaluated(options, error, message):
    model = network()
    seen = watch(model, lambda i: None)
    before = state(model)
    with pytest.raises(error, match=message):
        sweep(model, **{"data": (X, Y)} | options)
    assert not seen
    assert state(model) == before


@pytest.mark.any_version
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: L.Dense(1), TypeError, "Invalid `model`"),
        (lambda: keras.Sequential([keras.Input((4,)), L.Dense(1)]), ValueError, "not compiled"),
        (lambda: keras.Sequential([L.Dense(1)]), ValueError, "not compiled"),
    ],
)
def test_wrong_models(make, error, message):
    with pytest.raises(error, match=message):
        sweep(make(), (X, Y))


def test_a_model_that_is_not_built():
    model = keras.Sequential([L.Dense(1)])
    model.compile(loss="mse")
    with pytest.raises(ValueError, match="no variables to perturb"):
        sweep(model, (X, Y))


# The model afterwards.


@pytest.mark.slow
@pytest.mark.parametrize("recalibrate", [None, X])
@pytest.mark.parametrize("ends", [None, 0, 1, 3, ValueError])
def test_the_model_is_as_it_was(ends, recalibrate):
    graphs = ends in (None, ValueError)  # The others are interrupted in the same places.
    model = network(normalized=True, run_eagerly=not graphs)
    model.fit(X, Y, verbose=0)
    model.get_layer("a").bias.assign([0.0, -0.0, np.inf, 1e-40, 0.0, 0.0])
    before, history, attributes = state(model), model.history, vars(model.get_layer("bn")).copy()
    options = {"recalibrate": recalibrate, "noise": [None, noises.Uniform]}
    if ends is None:
        assert sweep(model, (X, Y), **options).complete
    elif ends is ValueError:
        watch(model, interrupt_at(3, ValueError))
        with pytest.raises(ValueError):  # noqa: PT011
            sweep(model, (X, Y), **options)
    else:
        watch(model, interrupt_at(ends))
        with pytest.raises(KeyboardInterrupt) if ends < 2 else pytest.warns(match="Interrupted"):
            sweep(model, (X, Y), **options)
    assert state(model) == before
    assert model.history is history
    assert vars(model.get_layer("bn")) == attributes


@pytest.mark.any_version
@pytest.mark.slow
def test_an_interrupt_keeps_what_was_measured():
    model = network()
    whole = sweep(model, (X, Y), noise=[None, noises.Uniform])
    watch(model, interrupt_at(7))
    with pytest.warns(UserWarning, match=r"incomplete.*6 rows") as caught:
        part = sweep(model, (X, Y), noise=[None, noises.Uniform])
    assert caught[0].filename == __file__
    assert not part.complete
    assert "INCOMPLETE" in str(part)
    assert "INCOMPLETE" not in str(whole)
    # Whole draws of every magnitude of the noise, not whole magnitudes.
    assert part.rows == tuple(row for row in whole.rows if (row.noise, row.draw) != ("Uniform", 1))
    assert part.summaries()["Uniform"][0.5].draws == 1
    assert RobustnessResult.from_json(part.to_json()) == part != whole


@pytest.mark.any_version
@pytest.mark.parametrize("place", ["draw", "put"])
def test_an_interrupt_while_weights_are_written(monkeypatch, place):
    model = network()
    before = state(model)
    original, calls = getattr(perturb.PerturbedWeights, place), []

    def interrupted(self, *args, **kwargs):
        calls.append(1)
        if place == "put" and len(calls) == 4:
            self.variables[0].assign(args[0](self.clean)[0])
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(perturb.PerturbedWeights, place, interrupted)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = sweep(model, (X, Y))
    assert any("Interrupted" in str(w.message) for w in caught)
    assert len(result.rows) == 2
    assert state(model) == before


@pytest.mark.any_version
def test_progress(capsys):
    sweep(network(), (X, Y))
    assert not capsys.readouterr().out
    robustness_sweep(network(), (X, Y), magnitudes=[0, 0.1], draws=2)
    assert "2/2" in capsys.readouterr().out


# Recalibration.


def seen_statistics(model, layer="bn"):
    bn = model.get_layer(layer)
    return watch(model, lambda i: (bn.moving_mean.numpy(), bn.moving_variance.numpy()))


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        lambda model: None,
        lambda model: setattr(model, "trainable", False),
        lambda model: model.compile(model.optimizer, model.loss, run_eagerly=True),
    ],
    ids=["graph", "frozen", "eager"],
)
def test_recalibration(change):
    model = network(normalized=True)
    change(model)
    seen = seen_statistics(model)
    data = np.concatenate([X, 3 * X])[:33]
    sweep(model, (X, Y), recalibrate=data, draws=2, magnitudes=[0, 0.5], seed=3)
    bn = model.get_layer("bn")
    np.testing.assert_array_equal(seen[0][0], bn.moving_mean)
    expected = []
    for magnitude, redraws in ((0.0, 0), (0.5, 0), (0.5, 1)):
        with perturbed_weights(model, magnitude, seed=3) as noisy:
            for _ in range(redraws):
                noisy.redraw()
            outputs = [model.get_layer("a")(x).numpy() for x in (data[:32], data[32:])]
        sizes = [32, 1]
        expected.append(
            [np.average([f(z, 0) for z in outputs], 0, sizes) for f in (np.mean, np.var)]
        )
    assert len(seen) == 1 + 3
    for (mean, variance), (m, v) in zip(seen[1:], expected, strict=True):
        np.testing.assert_allclose(mean, m, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(variance, v, rtol=1e-4, atol=1e-5)


def test_recalibration_with_several_layers_shared_and_nested():
    """The second layer sees what the first makes of a batch in training; Dropout does nothing."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((4,))
    shared = L.BatchNormalization(name="shared")
    x = L.Dropout(0.5)(shared(L.Dense(4)(shared(inputs))))
    inner = keras.Sequential([L.Dense(3), L.BatchNormalization(name="inner")], name="nest")
    model = keras.Model(inputs, inner(x))
    model.compile(loss="mse", run_eagerly=True)
    first, second = model.layers[2], inner.layers[0]
    seen = watch(
        model, lambda i: [v.numpy() for bn in (shared, inner.layers[1]) for v in bn.variables[2:]]
    )
    sweep(model, (X, np.ones((20, 3))), magnitudes=[0], recalibrate=(X, Y))

    def normalize(z):
        return (z - z.mean(0)) / np.sqrt(z.var(0) + shared.epsilon)

    z = first(normalize(X)).numpy()
    last = second(normalize(z)).numpy()
    expected = [(X.mean(0) + z.mean(0)) / 2, (X.var(0) + z.var(0)) / 2, last.mean(0), last.var(0)]
    for got, want in zip(seen[1], expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("form", DATA)
def test_forms_of_data_to_recalibrate_on(form):
    model = network(normalized=True, run_eagerly=True)
    data, options = DATA[form]()
    if "batch_size" in options:
        result = sweep(model, (X, Y), recalibrate=data, **options)
    else:
        result = sweep(model, dataset(), recalibrate=data, **options)
    for a, b in zip(result.rows, expected(True).rows, strict=True):
        assert a.metrics == pytest.approx(b.metrics, rel=1e-4)
    assert result.clean == pytest.approx(expected(True).clean)


@pytest.mark.any_version
def test_recalibration_matters():
    for a, b in zip(
        expected(True).rows, sweep(network(True), (X, Y), batch_size=5).rows, strict=True
    ):
        assert a.metrics["loss"] != b.metrics["loss"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_recalibration_changes_is_put_back(monkeypatch, error):
    model = network(normalized=True, run_eagerly=True)
    model.get_layer("bn").trainable = False
    before, attributes = state(model), vars(model.get_layer("bn")).copy()
    original, calls = L.BatchNormalization.call, []

    def failing(self, inputs, training=None, mask=None):
        outputs = original(self, inputs, training=training, mask=mask)
        calls.append(training)
        if len(calls) == 4:
            raise error
        return outputs

    monkeypatch.setattr(L.BatchNormalization, "call", failing)
    with pytest.warns(match="Interrupted") if error is KeyboardInterrupt else pytest.raises(error):
        sweep(model, (X, Y), recalibrate=X)
    assert calls == [False, True, False, True]
    assert state(model) == before
    assert vars(model.get_layer("bn")) == attributes


def test_a_layer_out_of_reach_of_recalibration():
    class Traced(keras.Model):
        def __init__(self):
            super().__init__()
            self.bn = L.BatchNormalization()
            self.dense = L.Dense(3)
            self.traced = tf.function(lambda x: self.bn(x, training=False))

        def call(self, x):
            return self.dense(self.traced(x))

    model = Traced()
    model(X)
    model.compile(loss="mse")
    model.traced.get_concrete_function(tf.TensorSpec((None, 4)))
    before = [v.numpy().tobytes() for v in model.variables]
    with pytest.raises(ValueError, match="cannot be recalibrated"):
        sweep(model, (X, np.ones((20, 3))), recalibrate=X)
    assert [v.numpy().tobytes() for v in model.variables] == before


# Results.


def made(values, clean=None, complete=True):
    """A result of one noise, from a dict of magnitudes to accuracies (the loss is 1 - accuracy)."""
    return RobustnessResult(
        clean={"loss": 0.1, "accuracy": 0.9} if clean is None else clean,
        rows=tuple(
            RobustnessRow("Gaussian", m, d, {"loss": 1 - v, "accuracy": v})
            for m, each in values.items()
            for d, v in enumerate(each)
        ),
        complete=complete,
        higher_is_better={"loss": False, "accuracy": True},
    )


@pytest.mark.any_version
@pytest.mark.parametrize("metric", ["accuracy", "loss"])
@pytest.mark.parametrize(
    ("values", "drop", "expected"),
    [
        ({0.1: [0.9], 0.2: [0.89], 0.3: [0.5]}, 0.01, 0.2),
        ({0.1: [0.9], 0.2: [0.5], 0.3: [0.9]}, 0.01, 0.1),
        ({0.3: [0.5], 0.1: [0.95], 0.2: [0.9]}, 0.0, 0.2),
        ({0.1: [0.8]}, 0.01, 0.0),
        ({0.1: [0.8]}, 0.2, 0.1),
        ({0.1: [0.85, 0.95]}, 0.0, 0.1),
        ({0.1: [0.9], 0.2: [math.nan, 0.9], 0.3: [0.9]}, 1.0, 0.1),
        ({0.1: [0.9], 0.2: [0.88]}, 0.0199, 0.1),
    ],
)
def test_tolerance(values, drop, expected, metric):
    assert made(values).tolerance(metric, drop=drop) == expected
    if metric == "accuracy":
        assert made(values).tolerance(drop=drop) == expected


@pytest.mark.any_version
def test_tolerance_with_the_direction_changed():
    result = made({0.1: [0.95], 0.2: [0.85]})
    assert result.tolerance() == 0.1
    result.higher_is_better["accuracy"] = False
    assert result.tolerance(drop=0.05) == 0.2
    assert result.tolerance() == 0.0


@pytest.mark.any_version
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: r.tolerance("recall"), "Invalid `metric`. Expected one of 'loss', 'accuracy'"),
        (lambda r: r.plot("recall"), "Received: metric='recall'"),
        (lambda r: r.tolerance(drop=-1), "Invalid `drop`"),
        (
            lambda r: made({0.1: [0.9]}, clean={"loss": math.nan, "accuracy": 0.9}).tolerance(
                "loss"
            ),
            "Without noise.*Received: loss=nan",
        ),
        (lambda r: r.from_json('{"type": "Other"}'), "Invalid `source`"),
    ],
)
def test_wrong_arguments_of_results(call, message):
    with pytest.raises(ValueError, match=message):
        call(made({0.1: [0.9]}))


@pytest.mark.any_version
@pytest.mark.parametrize(
    ("name", "high"),
    [
        ("accuracy", True), ("sparse_categorical_accuracy", True), ("acc", True), ("auc", True),
        ("head_precision", True), ("recall_1", True), ("f1_score", True), ("mean_io_u", True),
        ("r2_score", True), ("cosine_similarity", True), ("sensitivity_at_specificity", True),
        ("true_positives", True), ("false_positives", False), ("loss", False), ("mae", False),
        ("accuracy_loss", False), ("mean_squared_error", False), ("kl_divergence", False),
        ("hinge", False), ("perplexity", False),
    ],
)  # fmt: skip
def test_which_metrics_are_better_when_higher(name, high):
    assert prefers_high(name) == high


@pytest.mark.any_version
@pytest.mark.parametrize("degrees", [1, 2, 3, 5, 9, 10, 11, 15, 29, 100, 10000])
def test_t_quantile(degrees):
    assert t_quantile(degrees) == pytest.approx(scipy.stats.t.ppf(0.975, degrees), abs=3e-4)


@pytest.mark.any_version
def test_summary():
    values = {3: 0.5, 5: 0.7, 6: 0.1, 9: 0.2}
    summary = summarize(values, True)
    low, high = scipy.stats.t.interval(
        0.95, 3, np.mean(list(values.values())), scipy.stats.sem(list(values.values()))
    )
    assert summary == (
        4, pytest.approx(0.375), pytest.approx(np.std(list(values.values()), ddof=1)),
        pytest.approx(low, rel=1e-3), pytest.approx(high, rel=1e-3),
        pytest.approx(0.175), pytest.approx(0.35), pytest.approx(0.55), 0.1, 6,
    )  # fmt: skip
    assert summarize(values, False)[-2:] == (0.7, 5)
    one = summarize({0: 0.5}, True)
    assert one.mean == 0.5
    assert all(math.isnan(v) for v in (one.std, one.low, one.high))
    for better in (True, False):
        assert summarize({0: 0.5, 1: math.nan, 2: 0.1}, better).worst_draw == 1
    assert summarize({0: math.inf, 1: 0.0}, False)[-2:] == (math.inf, 0)
    # No difference of infinities.
    assert summarize({0: math.inf, 1: math.inf, 2: 0.0}, False).median == math.inf


@pytest.mark.any_version
def test_printed():
    result = made({0.5: [0.8, 0.7], 0.01: [0.9, 0.9]})
    lines = str(result).splitlines()
    assert repr(result) == str(result)
    assert lines[0] == "Robustness to weight noise"
    assert "Gaussian: accuracy, without noise 0.9000" in lines
    row = lines[-1].split()
    assert row[:3] == ["0.5", "0.7500", "0.0707"]
    assert row[-3:] == ["0.7000", "(1)", "2"]
    assert lines[-2].split()[0] == "0.01"
    assert len({len(line) for line in lines[-3:]}) == 1


@pytest.mark.any_version
@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.97, "0.9700"),
        (0.0, "0.0000"),
        (1e-6, "1.000e-06"),
        (math.nan, "nan"),
        (-2e9, "-2.000e+09"),
    ],
)
def test_numbers(value, text):
    assert number(value) == text


@pytest.mark.any_version
def test_json(tmp_path):
    result = made({0.1: [0.1 + 0.2, math.nan], 1e-9: [math.inf, -math.inf]}, complete=False)
    text = result.to_json(tmp_path / "result.json")
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    for source in (text, tmp_path / "result.json", str(tmp_path / "result.json")):
        again = RobustnessResult.from_json(source)
        assert again == result
        assert again.rows[0] == result.rows[0]
        assert math.isnan(again.rows[1].metrics["accuracy"])
        assert isinstance(again.rows, tuple)
    assert result != made({0.1: [0.1]})
    assert result != 1


def summing(of_data=0.0):
    """A network with a formula for its metric: faster, where values do not matter."""
    model = network()
    model.evaluate = lambda **options: {
        "accuracy": float(sum(np.sum(v) for v in model.get_weights()) + of_data)
    }
    return model


@functools.cache
def first_part():
    return sweep(summing(), (X, Y), draws=range(4))


@pytest.mark.any_version
def test_parts_of_a_sweep_add_up_to_the_whole():
    noise = [None, noises.Uniform]
    model = summing()
    whole = sweep(model, (X, Y), noise=noise, draws=10)
    ranges = (range(7, 8), range(0, 3), range(8, 10), range(3, 7))
    parts = [sweep(model, (X, Y), noise=noise, draws=each) for each in ranges]
    total = parts[0] + parts[1] + parts[2] + parts[3]
    assert total == whole
    assert len({row.metrics["accuracy"] for row in whole.rows}) == 2 * 2 * 10
    assert [row.draw for row in whole.rows[:10]] == list(range(10))
    assert RobustnessResult.from_json(parts[0].to_json()) + parts[1] == parts[1] + parts[0]


@pytest.mark.any_version
@pytest.mark.parametrize(
    "other",
    [
        {"draws": range(3, 5)},
        {"seed": 1},
        {"magnitudes": [0.1]},
        {"noise": noises.Uniform},
        {"variables": "kernels"},
        {"of_data": 1.0},
        {"scaled": True},
    ],
    ids=lambda other: next(iter(other)),
)
def test_parts_of_different_sweeps_do_not_add_up(other):
    options = {"data": (X, Y), "draws": range(4, 6)} | other
    model = summing(options.pop("of_data", 0.0))
    if options.pop("scaled", False):
        model.layers[0].bias.assign_add([1e-9] * 6)
    with pytest.raises(ValueError, match="add up"):
        first_part() + sweep(model, **options)


@pytest.mark.any_version
def test_in_notebooks():
    html = made({0.1: [0.75, 0.5], 0.2: [0.25]})._repr_html_()
    assert html.count("<table>") == 2
    assert html.count("<tr>") == 2 * 3
    assert ">0.6250</td>" in html


@pytest.mark.any_version
def test_what_made_a_result_is_written_down():
    result = sweep(network(), (X, Y), noise=noises.Uniform(relative_to="max"), seed=3)
    content = json.loads(result.to_json())
    assert content["type"] == "RobustnessResult"
    assert content["schema"] == 1
    settings = content["settings"]
    assert settings["model"] == "net"
    assert settings["noise"] == ["Uniform(relative_to='max')"]
    assert (settings["magnitudes"], settings["seed"]) == ([0.1, 0.5], 3)
    assert settings["versions"]["keras"] == keras.__version__
    assert settings["versions"]["keras_weightnoise"] == keras_weightnoise.__version__
    content["schema"] = 2
    with pytest.raises(ValueError, match="a schema up to 1"):
        RobustnessResult.from_json(json.dumps(content))


@pytest.mark.any_version
def test_dataframe():
    frame = made({0.1: [0.75, 0.5], 0.2: [0.25]}).to_dataframe()
    assert list(frame.columns) == ["noise", "magnitude", "draw", "loss", "accuracy"]
    assert frame.groupby("magnitude")["accuracy"].mean().to_dict() == {0.1: 0.625, 0.2: 0.25}


@pytest.mark.any_version
def test_metrics_that_are_called_as_columns():
    metrics = dict.fromkeys(("noise", "magnitude", "draw", "layer", "model", "a"), 0.5)
    more = {"clean": metrics, "complete": True}
    draws = {"higher_is_better": dict.fromkeys(metrics, False), **more}
    axis = np.array([0.0])
    values = {name: axis + 0.5 for name in metrics}
    row = RobustnessRow("Gaussian", 0.1, 3, metrics)
    sweep = RobustnessResult(rows=(row,), **draws)
    row = SensitivityRow("dense", 3, metrics)
    layers = SensitivityResult(rows=(row,), by="layer", noise="", **draws)
    line = LandscapeResult(coordinates=(axis,), values=values, labels=("",), **more)
    swept = {"noise": "Gaussian", "magnitude": 0.1, "draw": 3}
    for result, own in (
        (sweep, swept),
        (layers, {"layer": "dense", "draw": 3}),
        (line, {"a": 0.0}),
        (compare({"net": sweep}), {"model": "net"} | swept),
    ):
        measured = {f"metric_{name}" if name in own else name: 0.5 for name in metrics}
        assert result.to_dataframe().to_dict("records") == [own | measured]


@pytest.mark.any_version
@pytest.mark.parametrize(
    ("module", "call"),
    [("pandas", "to_dataframe"), ("matplotlib.pyplot", "plot")],
)
def test_without_optional_packages(monkeypatch, module, call):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match="pip install"):
        getattr(made({0.1: [0.5]}), call)()


@pytest.mark.slow
@pytest.mark.any_version
@pytest.mark.parametrize(
    ("noise", "magnitudes", "label"),
    [
        (None, [0.1], "Gaussian"),
        (noises.Gaussian(relative_to="max"), [0.1, 0.2], "Gaussian(relative_to='max')"),
        (noises.Uniform, [0.1], "Uniform"),
        (noises.StuckAt(value="max"), [0.1], "StuckAt(value='max')"),
        (quantized, [0.1, 0.2], "Quantization(bits=4) + Gaussian"),
        (noises.Quantization, [2, 4], "Quantization"),
        ([None, noises.Gaussian], [0.1], "Gaussian (2)"),
    ],
)
def test_labels(noise, magnitudes, label):
    result = sweep(network(), (X, Y), noise=noise, magnitudes=magnitudes, draws=1)
    assert result.rows[-1].noise == label


# Plots.


@pytest.fixture
def pyplot():
    import matplotlib.pyplot as plt

    yield plt
    plt.close("all")


@pytest.mark.any_version
def test_plot(pyplot):
    result = made({0.0: [0.9, 0.9], 0.5: [0.6, 0.8], 0.01: [0.9, 0.8]})
    ax = result.plot()
    line, clean = ax.lines
    np.testing.assert_allclose(line.get_xydata(), [[0.01, 0.85], [0.5, 0.7]])
    assert set(clean.get_ydata()) == {0.9}
    assert clean.get_linestyle() == "--"
    assert clean.get_color() == line.get_color()
    (band,) = ax.collections
    points = {tuple(np.round(p, 6)) for p in band.get_paths()[0].vertices}
    assert points == {(0.01, 0.8), (0.01, 0.9), (0.5, 0.6), (0.5, 0.8)}
    assert ax.get_xscale() == "log"
    assert "accuracy" in ax.get_ylabel()
    assert [t.get_text() for t in ax.get_legend().texts] == ["Gaussian", "without noise"]


@pytest.mark.any_version
def test_plots_of_several_models_and_noises(pyplot):
    one, two = made({0.1: [0.9], 0.5: [0.7]}), made({0.1: [0.8], 0.5: [0.6]})
    ax = one.plot("loss", label="one")
    assert two.plot("loss", ax=ax, label="two") is ax
    assert ax.get_xscale() == "linear"
    assert [t.get_text() for t in ax.get_legend().texts] == ["one", "two", "without noise"]
    colors = [line.get_color() for line in ax.lines]
    assert colors[0] == colors[1] != colors[2] == colors[3]
    assert len(pyplot.get_fignums()) == 1
    result = sweep(network(), (X, Y), noise=[None, noises.Uniform])
    ax = result.plot(label="net")
    texts = [t.get_text() for t in ax.get_legend().texts]
    assert texts == ["net, Gaussian", "net, Uniform", "without noise"]
    assert len(ax.lines) == 3
    assert len(ax.collections) == 2


@pytest.mark.any_version
def test_plot_of_results_that_are_not_finite(pyplot):
    ax = made({0.1: [0.9, math.nan], 0.2: [math.nan, math.inf]}).plot()
    ax.figure.canvas.draw()


# A trained model.


@pytest.mark.any_version
@pytest.mark.slow
def test_digits():
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    model = keras.Sequential(
        [keras.Input((64,)), L.Dense(32, activation="relu"), L.Dense(10, activation="softmax")]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x[:1000], y[:1000], epochs=15, verbose=0)
    magnitudes = (0.0, 0.01, 0.1, 0.3, 1.0)
    result = sweep(model, (x[1000:], y[1000:]), magnitudes=magnitudes, batch_size=797)
    means = [s.mean for s in result.summaries()["Gaussian"].values()]
    assert means[0] == result.clean["accuracy"] > 0.85
    assert means[1] == pytest.approx(means[0], abs=0.02)
    assert means[4] < 0.5
    assert means[2] > means[3] > means[4]
    limits = [result.tolerance(drop=drop) for drop in (0.0, 0.02, 0.1, 0.5, 1.0)]
    assert limits == sorted(limits)
    assert limits[1] >= 0.01
    assert limits[-1] == 1.0
    assert result.tolerance("loss", drop=0.001) < result.tolerance("loss", drop=100.0) == 1.0


@pytest.mark.slow
@pytest.mark.skipif(
    tuple(map(int, keras.__version__.split(".")[:2])) < (3, 7),
    reason="This Keras's `evaluate` returns the metrics of the first replica alone.",
)
def test_a_distributed_model_gives_the_numbers_of_one_device():
    def swept():
        model = network()
        result = robustness_sweep(model, (X, Y), magnitudes=[0.1, 1.0], draws=3, verbose=0)
        return result.to_dataframe().drop(columns="noise").to_numpy()

    with strategy().scope():
        several = swept()
    np.testing.assert_allclose(several, swept(), rtol=1e-5)
