"""NoisyValidationCallback: what it logs, and that training does not notice."""

import copy
import pickle

import keras
import numpy as np
import pytest

from keras_weightnoise import WeightNoiseCallback, noises, perturbed_weights, schedules
from keras_weightnoise.analysis.noisy_validation import NoisyValidationCallback

L = keras.layers
X = np.random.default_rng(0).normal(size=(20, 4)).astype("float32")
Y = np.random.default_rng(1).integers(0, 3, 20)
HELD_OUT = X[:10] + 1, Y[:10]


def network():
    keras.utils.set_random_seed(1)
    layers = [L.Dense(6), L.BatchNormalization(), L.Dropout(0.5), L.Dense(3, activation="softmax")]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def fit(model, *callbacks, **options):
    data = {"validation_data": HELD_OUT, "verbose": 0, "epochs": 2, "shuffle": False} | options
    return model.fit(X, Y, callbacks=list(callbacks), **data).history


@pytest.mark.slow
@pytest.mark.any_version
@pytest.mark.parametrize("noise", [0.3, noises.Uniform(0.2), {"kernel": 0.1}], ids=str)
def test_figures_are_the_mean_over_the_draws(noise):
    model = network()
    history = fit(model, NoisyValidationCallback(HELD_OUT, noise, draws=2, seed=4))
    found = []
    with perturbed_weights(model, noise, seed=4) as noisy:
        for _ in range(2):
            found.append(model.evaluate(*HELD_OUT, verbose=0, return_dict=True))
            noisy.redraw()
    for metric in ("loss", "accuracy"):
        expected = np.mean([each[metric] for each in found])
        assert history[f"val_noisy_{metric}"][-1] == pytest.approx(expected, rel=1e-5)
        assert len(history[f"val_noisy_{metric}"]) == 2


@pytest.mark.slow
def test_training_does_not_notice():
    runs = []
    for more in ([], [NoisyValidationCallback(HELD_OUT, 0.3, draws=2)]):
        model = network()
        history = fit(model, *more, WeightNoiseCallback(0.1, seed=0))
        kept = {name: each for name, each in history.items() if "noisy" not in name}
        runs.append((kept, [v.numpy().tobytes() for v in model.variables]))
        assert model.history is not None
        assert model.history.history == history
    assert runs[0] == runs[1]


@pytest.mark.slow
def test_other_callbacks_can_use_it(tmp_path):
    path = str(tmp_path / "{epoch}-{val_noisy_accuracy:.2f}.weights.h5")
    best = str(tmp_path / "best.weights.h5")
    criterion = {"monitor": "val_noisy_accuracy", "mode": "max"}
    stop = keras.callbacks.EarlyStopping(**criterion, min_delta=1.0, patience=1)
    save = keras.callbacks.ModelCheckpoint(path, save_weights_only=True)
    keep = keras.callbacks.ModelCheckpoint(
        best, **criterion, save_best_only=True, save_weights_only=True
    )
    board = keras.callbacks.TensorBoard(tmp_path / "logs")
    log = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    noisy = NoisyValidationCallback(HELD_OUT, 0.3)
    history = fit(network(), noisy, stop, save, keep, board, log, epochs=5)
    assert len(history["loss"]) == 2
    assert len(list(tmp_path.glob("?-?.??.weights.h5"))) == 2
    assert keep.best == max(history["val_noisy_accuracy"])
    (events,) = (tmp_path / "logs" / "validation").iterdir()
    assert b"epoch_noisy_accuracy" in events.read_bytes()
    assert "val_noisy_accuracy" in (tmp_path / "log.csv").read_text()


def test_every_so_many_epochs():
    calls = NoisyValidationCallback(HELD_OUT, 0.3, draws=1, every=3)
    history = fit(network(), calls, epochs=4)
    assert len(history["val_noisy_loss"]) == 1


@pytest.mark.slow
def test_it_can_be_copied_pickled_and_used_again():
    callback = NoisyValidationCallback(HELD_OUT, 0.3, draws=1)
    histories = [fit(network(), each) for each in (callback, callback)]
    callback.set_model(None)
    for each in (copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))):
        histories.append(fit(network(), each))
    assert histories == [histories[0]] * 4


@pytest.mark.any_version
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"draws": 0}, ValueError, "Invalid `draws`"),
        ({"every": 0}, ValueError, "Invalid `every`"),
        ({"every": 1.5}, TypeError, "Invalid `every`"),
        ({"seed": None}, TypeError, "Invalid `seed`"),
        ({"noise": "a"}, TypeError, "Invalid `noise`"),
        ({"variables": 3}, TypeError, "Invalid `variables`"),
        ({"validation_data": (X,)}, ValueError, "Invalid `validation_data`"),
    ],
)
def test_wrong_arguments(options, error, message):
    with pytest.raises(error, match=message):
        NoisyValidationCallback(**{"validation_data": HELD_OUT, "noise": 0.1} | options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"variables": "nothing"}, ValueError, "matches no eligible"),
        (
            {"noise": schedules.LinearRamp(0.0, 0.1, start_step=0, ramp_steps=5)},
            TypeError,
            "evaluate a schedule",
        ),
        ({"validation_data": X}, ValueError, "Invalid `validation_data`.*needs targets"),
    ],
)
def test_errors_in_fit(options, error, message):
    arguments = {"validation_data": HELD_OUT, "noise": 0.1} | options
    with pytest.raises(error, match=message):
        fit(network(), NoisyValidationCallback(**arguments))
