"""perturb_weights and perturbed_weights: what is perturbed, and that all else stays as it was."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from fits import strategy

from keras_weightnoise import (
    WeightNoiseEnsemble,
    clip_weights,
    noises,
    perturb_weights,
    perturbed_weights,
    schedules,
)
from keras_weightnoise._weights import reachable, selection
from keras_weightnoise._weights.perturbation import perturb
from keras_weightnoise._weights.state import state_variables

L = keras.layers
X = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
Y = np.ones((8, 2), "float32")


def double(x):
    return 2 * x


def network(compiled=True):
    """A functional model with a shared layer, a nested model, state, and a custom function."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((4,))
    shared = L.Dense(4, activation=double, name="shared")
    x = shared(shared(inputs))
    x = keras.Sequential(
        [L.Dense(3, name="dense"), L.BatchNormalization(name="bn"), L.Dropout(0.5)], name="in"
    )(x)
    model = keras.Model(inputs, L.Dense(2, name="head")(x), name="net")
    if compiled:
        model.compile(keras.optimizers.Adam(0.1), "mse", metrics=["mae"])
        model.run_eagerly = (
            True  # For this step: the trace of it would take longer than most tests.
        )
        model.fit(X, Y, verbose=0)
        model.run_eagerly, model.train_function = False, None
    return model


class Subclass(keras.Model):
    """Without a configuration, so that Keras cannot make another."""

    def __init__(self, units):
        super().__init__()
        self.dense = L.Dense(units)

    def call(self, x):
        return self.dense(x)


class Configured(Subclass):
    def __init__(self, units, **kwargs):
        super().__init__(units)
        self.units = units

    def get_config(self):
        return {"units": self.units}


def values(model):
    return [v.numpy() for v in model.variables]


def same(a, b):
    return all(x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True))


def moved(model, before, original=None):
    """The paths of what differs. A copy's begin anew in nested models, as those of a loaded model do."""
    named = zip((original or model).variables, values(model), before, strict=True)
    return {reachable.path(v) for v, now, then in named if np.any(now != then)}


LEARNED = {
    "shared/kernel", "shared/bias", "in/dense/kernel", "in/dense/bias", "in/bn/gamma", "in/bn/beta",
    "head/kernel", "head/bias",
}  # fmt: skip


def by_hand(model, noise, seed, step):
    """The perturbed values, as the callback's documentation has them: by the place in the model."""
    targets = selection.select(model, frozen=True)
    clean = [tf.convert_to_tensor(t.variable.value) for t in targets]
    noise = noises.get(noise)
    noisy = perturb(noise, targets, clean, seed=seed, step=step, magnitudes=noise.magnitudes_at(0))
    return [v.numpy() for v in noisy]


NOISES = [0.1, noises.Uniform(0.2), noises.Gaussian(0.1, relative_to="std"), noises.BitFlip(0.01)]


@pytest.mark.any_version
@pytest.mark.slow
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_values(noise, inplace):
    model = network()
    before = values(model)
    expected = by_hand(model, noise, 7, 0)
    noisy = perturb_weights(model, noise, seed=7, inplace=inplace)
    assert (noisy is model) == inplace
    if not inplace:
        assert same(values(model), before)
        assert not {id(v) for v in noisy.variables} & {id(v) for v in model.variables}
    assert moved(noisy, before, model) <= LEARNED
    for target, value in zip(selection.select(noisy, frozen=True), expected, strict=True):
        np.testing.assert_allclose(target.variable, value, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
@pytest.mark.any_version
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, LEARNED),
        ({"variables": "kernels"}, {p for p in LEARNED if p.endswith("kernel")}),
        ({"variables": L.BatchNormalization}, {"in/bn/gamma", "in/bn/beta"}),
        ({"exclude": ["bias", L.BatchNormalization]}, {p for p in LEARNED if "kernel" in p}),
        ({"variables": lambda v: v.path == "head/bias"}, {"head/bias"}),
    ],
    ids=str,
)
def test_selection(options, expected, inplace):
    model = network()
    before = values(model)
    noisy = perturb_weights(model, 0.1, seed=1, inplace=inplace, **options)
    assert moved(noisy, before, model) == expected


@pytest.mark.slow
@pytest.mark.parametrize("inplace", [False, True])
def test_one_layer_of_the_original(inplace):
    model = network()
    before = values(model)
    noisy = perturb_weights(model, 0.1, variables=model.get_layer("head"), seed=1, inplace=inplace)
    assert moved(noisy, before) == {"head/kernel", "head/bias"}


@pytest.mark.any_version
@pytest.mark.slow
def test_different_noise_for_different_variables():
    model = network()
    before = values(model)
    rules = {"head": noises.StuckAt(1.0, "zero"), "shared": 0.0, "kernels": noises.Rademacher(0.5)}
    with perturbed_weights(model, rules, seed=1):
        assert moved(model, before) == {"head/kernel", "head/bias", "in/dense/kernel"}
        assert not np.any(model.get_layer("head").kernel.numpy())
    assert same(values(model), before)


@pytest.mark.slow
def test_frozen_weights_are_perturbed():
    model = network()
    model.trainable = False
    before = values(model)
    with perturbed_weights(model, 0.1, seed=1):
        assert moved(model, before) == LEARNED
    assert same(values(model), before)


@pytest.mark.slow
def test_a_copy_is_compiled_and_trains_on_its_own():
    model = network()
    before = values(model)
    copy = perturb_weights(model, 0.0)
    assert same(values(copy), before)
    assert copy.evaluate(X, Y, verbose=0) == model.evaluate(X, Y, verbose=0)
    copy.fit(X, Y, verbose=0)
    assert int(copy.optimizer.iterations) == int(model.optimizer.iterations) == 1
    assert same(values(model), before)
    assert not perturb_weights(network(compiled=False), 0.1).compiled


def mean_difference(y_true, y_pred):
    return keras.ops.mean(y_true - y_pred, -1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"loss": mean_difference, "metrics": [mean_difference]},
        {
            "loss": keras.losses.MeanSquaredError(reduction="sum"),
            "weighted_metrics": [keras.metrics.MeanAbsoluteError()],
        },
    ],
    ids=str,
)
def test_a_copy_is_compiled_with_functions_of_ones_own(settings):
    model = network(compiled=False)
    model.compile("sgd", **settings)
    model.fit(X, Y, verbose=0)
    copy = perturb_weights(model, 0.0)
    for each in (
        model,
        copy,
    ):  # The first evaluation builds the metrics, and with them their order.
        each.evaluate(X, Y, verbose=0)
    np.testing.assert_allclose(*(each.evaluate(X, Y, verbose=0) for each in (model, copy)))


@pytest.mark.slow
def test_a_copy_that_cannot_be_compiled_says_so():
    model = network(compiled=False)
    model.compile("sgd", lambda y_true, y_pred: keras.ops.mean(y_true - y_pred, -1))
    model.fit(X, Y, verbose=0)
    message = r"copy of model 'net' is not compiled.*Compile it"
    with pytest.warns(UserWarning, match=message) as caught:
        assert not perturb_weights(model, 0.0).compiled
    assert [w.filename for w in caught] == [__file__]


def scaled(factor):
    def activation(x):
        return factor * x

    return activation


def test_functions_of_one_name_are_not_mixed_up():
    parts = [L.Dense(4, activation=scaled(factor)) for factor in (1, 5)]
    model = keras.Sequential([keras.Input((4,)), *parts])
    np.testing.assert_array_equal(perturb_weights(model, 0.0)(X), model(X))
    # One layer with both: Keras looks them up by name, and cannot tell them apart.
    parts[0].other = scaled(2)
    with pytest.raises(ValueError, match=r"(?s)cannot be rebuilt.*have the name 'activation'"):
        perturb_weights(model, 0.0)


def with_a_lambda():
    return keras.Sequential([keras.Input((4,)), L.Lambda(lambda x: x + 1), L.Dense(2)])


def configured():
    model = Configured(2)
    model(X)
    return model


def preprocessing():
    adapted = L.Normalization()
    adapted.adapt(3 * X + 1)
    return keras.Sequential([keras.Input((4,)), adapted, L.Dense(2)])


@pytest.mark.parametrize("make", [with_a_lambda, configured, preprocessing])
def test_copies_of_other_models(make):
    model = make()
    copy = perturb_weights(model, 0.0)
    assert type(copy) is type(model)
    np.testing.assert_array_equal(copy(X), model(X))
    assert np.any(perturb_weights(model, 0.1)(X) != model(X))


def test_what_cannot_be_copied_says_so_and_is_perturbed_in_place():
    model = Subclass(2)
    model(X)
    before = values(model)
    with pytest.raises(ValueError, match=r"cannot be rebuilt.*`inplace=True`.*Received: model="):
        perturb_weights(model, 0.1)
    assert same(values(model), before)
    perturb_weights(model, 0.1, inplace=True)
    assert not same(values(model), before)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_loaded_models(tmp_path, suffix):
    model = network()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of the legacy format.
        model.save(tmp_path / f"model.{suffix}")
        loaded = keras.models.load_model(
            tmp_path / f"model.{suffix}", custom_objects={"double": double, "mse": "mse"}
        )
    before = values(loaded)
    for noisy in (perturb_weights(loaded, 0.1, seed=3), model):
        if noisy is model:
            perturb_weights(model, 0.1, seed=3, inplace=True)
        for v, w in zip(noisy.weights, perturb_weights(loaded, 0.1, seed=3).weights, strict=True):
            np.testing.assert_array_equal(v, w)
    assert same(values(loaded), before)


@pytest.mark.slow
def test_a_reloaded_saved_model(tmp_path):
    network().export(tmp_path / "saved")
    model = keras.Sequential([keras.Input((4,)), L.TFSMLayer(tmp_path / "saved")])
    before, clean = values(model), model.predict(X, verbose=0)
    with perturbed_weights(model, 0.5, seed=1):
        assert np.any(model.predict(X, verbose=0) != clean)
        assert len(moved(model, before)) == len(LEARNED)
    assert same(values(model), before)
    np.testing.assert_array_equal(model.predict(X, verbose=0), clean)


@pytest.mark.slow
def test_inside_the_model_is_noisy_for_everyone(tmp_path):
    model = network()
    clean = model.predict(X, verbose=0)
    loss = model.evaluate(X, Y, verbose=0)
    with perturbed_weights(model, 0.5, seed=1):
        noisy = model.predict(X, verbose=0)
        assert np.any(noisy != clean)
        assert model.evaluate(X, Y, verbose=0) != loss
        model.export(tmp_path / "saved")
        model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(model.predict(X, verbose=0), clean)
    saved = tf.saved_model.load(tmp_path / "saved")
    np.testing.assert_allclose(saved.serve(X), noisy, atol=1e-5)
    loaded = keras.models.load_model(tmp_path / "model.keras", {"double": double})
    np.testing.assert_allclose(loaded.predict(X, verbose=0), noisy, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16", "mixed_bfloat16"])
def test_every_bit_is_back_after_many_draws(dtype):
    model = keras.Sequential([keras.Input((4,)), L.Dense(30, dtype=dtype), L.Dense(2, dtype=dtype)])
    special = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 1e-40], "float32")
    model.layers[0].bias.assign(np.resize(special, 30))
    before = values(model)
    draws = []
    with perturbed_weights(model, 1.0, seed=1) as noisy:
        for _ in range(20):
            draws.append(model.layers[1].kernel.numpy().tobytes())
            noisy.redraw()
    assert len(set(draws)) == 20
    assert same(values(model), before)


@pytest.mark.any_version
@pytest.mark.slow
def test_draws_are_a_function_of_the_seed():
    model = network()

    def draws(seed, count=3):
        found = []
        with perturbed_weights(model, 0.1, seed=seed) as noisy:
            for step in range(count):
                if step:
                    noisy.redraw()
                found.append(model.get_layer("head").kernel.numpy())
        return found

    reference = draws(5)
    np.testing.assert_array_equal(draws(5), reference)
    again = perturb_weights(model, 0.1, seed=5).get_layer("head").kernel
    np.testing.assert_array_equal(again, reference[0])
    assert np.all(np.not_equal(reference[0], reference[1]))
    assert np.all(np.not_equal(draws(6), reference))
    keras.utils.set_random_seed(3)
    first = draws(None)
    assert np.all(np.not_equal(draws(None), first))
    keras.utils.set_random_seed(3)
    np.testing.assert_array_equal(draws(None), first)


@pytest.mark.slow
def test_one_object_for_several_withs_repeats_its_draws():
    model = network()
    noisy = perturbed_weights(model, 0.1)
    seen = []
    for _ in range(2):
        with noisy:
            noisy.redraw()
            seen.append(model.get_layer("head").kernel.numpy())
    np.testing.assert_array_equal(*seen)


@pytest.mark.slow
@pytest.mark.any_version
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("redraws", [0, 2])
def test_restored_after_errors(error, redraws):
    model = network()
    before = values(model)

    def fail():
        with perturbed_weights(model, 0.1) as noisy:
            for _ in range(redraws):
                noisy.redraw()
            raise error

    with pytest.raises(error):
        fail()
    assert same(values(model), before)


@pytest.mark.any_version
@pytest.mark.parametrize("failing", range(6))
@pytest.mark.parametrize("use", ["with", "redraw", "inplace"])
def test_an_interrupt_at_any_assignment_leaves_clean_weights(monkeypatch, failing, use):
    """Of two variables: while noise goes in, while the next does, and while it is taken off."""
    model = keras.Sequential([keras.Input((4,)), L.Dense(2)])
    before = values(model)
    kind = type(model.variables[0])
    assign, calls = kind.assign, []

    def interrupted(self, value):
        calls.append(self)
        result = assign(self, value)
        if len(calls) == failing + 1:
            raise KeyboardInterrupt
        return result

    def run():
        if use == "inplace":
            return perturb_weights(model, 0.1, inplace=True)
        with perturbed_weights(model, 0.1) as noisy:
            if use == "redraw":
                noisy.redraw()

    monkeypatch.setattr(kind, "assign", interrupted)
    try:
        run()
    except KeyboardInterrupt:
        if use == "inplace" and not same(values(model), before):
            assert len(moved(model, before)) == 2  # All of it, which is what was asked for.
        else:
            assert same(values(model), before)
    else:
        assert len(calls) <= failing
        assert use != "redraw"


@pytest.mark.slow
def test_nested():
    model = network()
    before = values(model)
    with perturbed_weights(model, 0.1, variables="kernels", seed=1):
        outer = values(model)
        with perturbed_weights(model, 0.1, seed=2) as inner:
            inner.redraw()
            assert moved(model, outer) == LEARNED
        assert same(values(model), outer)
    assert same(values(model), before)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["fit", "load", "assign"])
def test_changes_made_inside_are_undone_with_a_warning(tmp_path, what):
    model = network()
    model.save_weights(tmp_path / "net.weights.h5")
    before = values(model)

    def change():
        if what == "fit":
            model.fit(X, Y, verbose=0)
        elif what == "load":
            model.load_weights(tmp_path / "net.weights.h5")
        else:
            model.get_layer("head").kernel.assign(np.ones((3, 2)))

    with (
        pytest.warns(UserWarning, match="changed the weights .*head/kernel.*that is undone"),
        perturbed_weights(model, 0.1),
    ):
        change()
    assert moved(model, before) <= {"in/bn/moving_mean", "in/bn/moving_variance"} | {
        v.path for v in model.variables if "seed" in v.path
    }
    with perturbed_weights(model, 0.1) as noisy:
        change()
        with pytest.warns(UserWarning, match="that is undone") as caught:
            noisy.redraw()
    assert [w.filename for w in caught] == [__file__]


@pytest.mark.slow
def test_no_word_of_retracing(caplog):
    model = network(compiled=False)
    for _ in range(8):
        with perturbed_weights(model, 0.1) as noisy:
            noisy.redraw()
    assert "retracing" not in caplog.text


@pytest.mark.slow
def test_what_is_not_perturbed_may_change_inside():
    model = network()
    with perturbed_weights(model, 0.1, variables="kernels"):
        model.get_layer("head").bias.assign([3.0, 4.0])
    np.testing.assert_array_equal(model.get_layer("head").bias, [3.0, 4.0])


def stateful():
    """A model of which a call with `training=True` changes states, statistics and a seed."""
    rnn = L.GRU(3, stateful=True)
    parts = [L.BatchNormalization(), rnn, L.Dropout(0.5), L.Dense(1)]
    return keras.Sequential([keras.Input(batch_shape=(4, 5, 3)), *parts]), rnn


@pytest.mark.slow
def test_each_draw_starts_from_the_same_state():
    model, rnn = stateful()
    x = np.random.default_rng(1).normal(size=(4, 5, 3)).astype("float32")
    expected = np.array(model(x))
    rnn.reset_state()
    state = state_variables(model)
    before = [np.array(v) for v in state]
    with perturbed_weights(model, 0.0) as noisy:
        for _ in range(3):
            np.testing.assert_array_equal(model(x), expected)
            assert np.any(model(x) != expected)  # Within a draw, the sequence goes on.
            model(x, training=True)
            now = [np.array(v) for v in state]
            assert sum(np.any(a != b) for a, b in zip(now, before, strict=True)) == 4
            noisy.redraw()
    assert same([np.array(v) for v in state], before)


@pytest.mark.slow
def test_misuse():
    noisy = perturbed_weights(network(), 0.1)
    with pytest.raises(RuntimeError, match="no noise to replace"):
        noisy.redraw()
    with noisy, pytest.raises(RuntimeError, match="is in use"):
        noisy.__enter__()
    with pytest.raises(RuntimeError, match="no noise to replace"):
        noisy.redraw()


@pytest.mark.any_version
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"noise": -1}, ValueError, r"Invalid `noise`.*Received: noise=-1"),
        ({"noise": "much"}, TypeError, r"Invalid `noise`"),
        (
            {"noise": noises.Quantization(8) + noises.Gaussian(schedules.LinearRamp(0, 1, 0, 1))},
            TypeError,
            r"a magnitude that is a number.*Received: noise=Gaussian",
        ),
        ({"variables": 3}, TypeError, r"Invalid `variables`"),
        ({"exclude": "("}, ValueError, r"Invalid `exclude`"),
        ({"variables": "nowhere"}, ValueError, r"`variables` matches no eligible"),
        ({"variables": "moving_mean"}, ValueError, r"`variables` matches no eligible"),
        ({"exclude": "nowhere"}, ValueError, r"`exclude` matches no"),
        ({"seed": -1}, ValueError, r"Invalid `seed`"),
        ({"seed": 0.5}, TypeError, r"Invalid `seed`"),
    ],
    ids=str,
)
@pytest.mark.parametrize("function", [perturb_weights, perturbed_weights])
def test_bad_arguments(function, arguments, error, message):
    model = network(compiled=False)
    before = values(model)
    with pytest.raises(error, match=message):
        function(model, **{"noise": 0.1, **arguments})
    assert same(values(model), before)


@pytest.mark.slow
@pytest.mark.parametrize("function", [perturb_weights, perturbed_weights])
def test_no_model_and_a_model_that_is_not_built(function):
    with pytest.raises(TypeError, match=r"Invalid `model`.*Received: model=3"):
        function(3, 0.1)
    with pytest.raises(ValueError, match=r"no variables to perturb.*Expected a built model"):
        function(keras.Sequential([L.Dense(2)]), 0.1)
    with pytest.raises(TypeError, match="Invalid `inplace`"):
        perturb_weights(network(), 0.1, inplace="yes")


@pytest.mark.parametrize("function", [perturb_weights, perturbed_weights, WeightNoiseEnsemble])
def test_a_class_for_a_model(function):
    with pytest.raises(TypeError, match=r"Invalid `model`.*not a class.*Received: model=<class"):
        function(Subclass, 0.1)


def test_what_is_printed():
    model = keras.Sequential([keras.Input((4,)), L.Dense(2, name="head")], name="net")
    for make in (perturbed_weights, WeightNoiseEnsemble):
        shown = repr(make(model, noises.Uniform(0.2), seed=3))
        assert f"of 'net', noise={noises.Uniform(0.2)}," in shown
        assert "seed=3" in shown
    assert repr(clip_weights(model)) == "[net/head/kernel (4, 2)]"


@pytest.mark.slow
def test_quantized_integers_stay():
    model = network(compiled=False)
    model.get_layer("head").quantize("int8")
    before = values(model)
    with perturbed_weights(model, 0.1):
        assert moved(model, before) == LEARNED - {"head/kernel"}
    assert same(values(model), before)


@pytest.mark.slow
def test_a_distributed_model():
    with strategy().scope():
        model = network()
    before = values(model)
    with perturbed_weights(model, 0.1):
        assert moved(model, before) == LEARNED
        for v in model.trainable_variables:
            first, second = strategy().experimental_local_results(v.value)
            np.testing.assert_array_equal(first, second)
    assert same(values(model), before)


@pytest.mark.slow
def test_optimizer_and_history_are_left_alone():
    model = network()
    before = [v.numpy() for v in model.optimizer.variables]
    history, function = model.history, model.train_function
    with perturbed_weights(model, 0.1) as noisy:
        noisy.redraw()
    assert same([v.numpy() for v in model.optimizer.variables], before)
    assert model.history is history
    assert model.train_function is function
