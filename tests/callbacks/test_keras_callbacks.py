"""Every callback of Keras before and after the noise: neither disturbs the other."""

import functools
import pathlib
import types

import keras
import pytest
from fits import batches, linear, mean_output, same

from keras_weightnoise import WeightNoiseCallback

C = keras.callbacks


def remote_monitor(folder, monkeypatch):
    """Posts to nowhere."""
    requests = pytest.importorskip("requests")
    monkeypatch.setattr(requests, "post", lambda *args, **kwargs: types.SimpleNamespace())
    return C.RemoteMonitor(send_as_json=True)


def tensorboard(folder, monkeypatch):
    pytest.importorskip("tensorboard")
    return C.TensorBoard(folder, histogram_freq=1, write_graph=True, update_freq=1)


# Those that change no weight: the fit is what it is without them.
PASSIVE = {
    "backup": lambda folder, _: C.BackupAndRestore(folder / "backup"),
    "csv": lambda folder, _: C.CSVLogger(folder / "log.csv"),
    "lambda": lambda *_: C.LambdaCallback(on_train_batch_end=lambda batch, logs: None),
    "checkpoint": lambda folder, _: C.ModelCheckpoint(folder / "{epoch}.keras"),
    "best weights": lambda folder, _: C.ModelCheckpoint(
        folder / "best.weights.h5", monitor="val_loss", save_best_only=True, save_weights_only=True
    ),
    "progress": lambda *_: C.ProgbarLogger(),
    "remote monitor": remote_monitor,
    "tensorboard": tensorboard,
    "nan": lambda *_: C.TerminateOnNaN(),
}
# Those that act on what they see: they see the same, and do the same, on either side of the noise.
ACTIVE = {
    "early stopping": lambda: C.EarlyStopping(
        "val_loss", min_delta=1e9, patience=1, restore_best_weights=True
    ),
    "schedule": lambda: C.LearningRateScheduler(lambda epoch: 0.1 / (1 + epoch)),
    "plateau": lambda: C.ReduceLROnPlateau("val_loss", factor=0.5, patience=1, min_delta=1e9),
    "averages": lambda: C.SwapEMAWeights(swap_on_epoch=True),
}


def fit(*callbacks):
    keras.utils.set_random_seed(0)
    model = linear()
    averaged = any(isinstance(each, C.SwapEMAWeights) for each in callbacks)
    model.compile(keras.optimizers.SGD(0.1, use_ema=averaged), mean_output, run_eagerly=True)
    data = batches(size=6)
    history = model.fit(
        data, epochs=3, validation_data=data, shuffle=False, verbose=0, callbacks=list(callbacks)
    )
    return model.get_weights(), history.history


@functools.cache
def alone():
    return fit(WeightNoiseCallback(10.0, seed=1))


@pytest.mark.parametrize("order", ["before", "after"])
def test_those_that_change_no_weight(order, tmp_path, monkeypatch):
    others = [make(tmp_path, monkeypatch) for make in PASSIVE.values()]
    noise = WeightNoiseCallback(10.0, seed=1)
    weights, log = fit(*([noise, *others] if order == "before" else [*others, noise]))
    assert same(weights, alone()[0])
    assert log == alone()[1]
    assert log["weight_noise_stddev"] == [10.0] * 3
    assert "weight_noise_stddev" in (tmp_path / "log.csv").read_text()
    last = keras.models.load_model(tmp_path / "3.keras", compile=False)
    assert same(last.get_weights(), weights)


@pytest.mark.parametrize("name", ACTIVE)
def test_those_that_act_on_what_they_see(name):
    noise = WeightNoiseCallback(10.0, seed=1)
    weights, log = fit(noise, ACTIVE[name]())
    other_weights, other_log = fit(ACTIVE[name](), noise)
    assert same(weights, other_weights)
    assert log == other_log
    assert log["weight_noise_stddev"] == [10.0] * len(log["loss"])
    assert not same(weights, alone()[0])


def test_all_callbacks_of_keras_are_here(monkeypatch):
    """A new one should get a row."""
    ours = {type(make()).__name__ for make in ACTIVE.values()}
    ours |= {type(make(pathlib.Path("nowhere"), monkeypatch)).__name__ for make in PASSIVE.values()}
    bases = {"Callback", "CallbackList", "History"}
    assert ours | bases >= {name for name in dir(C) if isinstance(getattr(C, name), type)} - {
        "OrbaxCheckpoint"
    }
