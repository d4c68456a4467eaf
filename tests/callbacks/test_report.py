"""What a fit shows of its noises, whatever else is in the list of callbacks."""

import re

import keras
import numpy as np
import pytest
from fits import X, Y, batches, linear, mean_output

from keras_weightnoise import WeightNoiseCallback, noises, schedules

RAMP = schedules.LinearRamp(0.0, 0.5, start_step=6, ramp_steps=10)


def fit(*callbacks, model=None, **fit_args):
    if model is None:
        model = linear()
        model.compile(keras.optimizers.SGD(0.0), loss=mean_output)
    fit_args = {"epochs": 1, "shuffle": False, "verbose": 0, **fit_args}
    return model.fit(batches(), callbacks=list(callbacks), **fit_args)


@pytest.mark.slow
@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("as_list", [False, True])
def test_loggers_have_the_magnitude_in_any_order(tmp_path, order, as_list):
    seen = []
    record = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(dict(logs))
    )
    callbacks = [keras.callbacks.CSVLogger(tmp_path / "log.csv"), record]
    callbacks.insert(2 * order, WeightNoiseCallback(0.25))
    model = linear()
    model.compile(keras.optimizers.SGD(0.0), loss=mean_output)
    if as_list:
        callbacks = keras.callbacks.CallbackList(callbacks, add_history=True, model=model, epochs=2)
        model.fit(X, Y, epochs=2, callbacks=callbacks, validation_data=(X, Y), verbose=0)
    else:
        fit(*callbacks, model=model, epochs=2, validation_data=(X, Y))
    assert [logs["weight_noise_stddev"] for logs in seen] == [0.25, 0.25]
    assert {"loss", "val_loss"} <= seen[0].keys()
    header, *rows = (tmp_path / "log.csv").read_text().splitlines()
    assert [row.split(",")[header.split(",").index("weight_noise_stddev")] for row in rows] == [
        "0.25", "0.25",
    ]  # fmt: skip
    assert not any("weight_noise" in key for key in fit(model=model).history)


def rows(text):
    return [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]


@pytest.mark.slow
def test_a_ramp_is_shown_at_its_end(capsys):
    fit(WeightNoiseCallback(RAMP, variables="kernels", verbose=1))
    _, header, first, _ = rows(capsys.readouterr().out)
    assert header == ["Variable", "Shape", "Stddev now", "At the end", "Weight rms", "SNR (dB)"]
    assert first[2:4] == ["0", "0.5"]
    assert float(first[5]) == pytest.approx(20 * np.log10(float(first[4]) / 0.5), abs=0.06)


def test_several_noises_are_told_apart(capsys):
    rules = {"kernels": 0.1, "bias": 0.2}
    history = fit(WeightNoiseCallback(rules, verbose=1)).history
    header, *table = rows(capsys.readouterr().out)[1:]
    assert header[2] == "Noise of"
    assert {(row[2], row[3]) for row in table} == {("kernels", "0.1"), ("bias", "0.2")}
    # Zeros have no signal.
    assert {row[-1] for row in table if row[2] == "bias"} == {"-"}
    assert history["weight_noise_gaussian_stddev_kernels"] == pytest.approx([0.1])
    assert history["weight_noise_gaussian_stddev_bias"] == pytest.approx([0.2])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("noise", "keys"),
    [
        (0.1, ["stddev"]),
        (noises.DropConnect(0.1), ["rate"]),
        ({"bias": noises.Rademacher(0.5), None: 0.1}, ["rademacher_scale", "gaussian_stddev"]),
        ({"bias": 0.5, None: 0.1}, ["gaussian_stddev_bias", "gaussian_stddev_rest"]),
        ({keras.layers.Dense: 0.5}, ["stddev"]),
        (noises.Gaussian(0.1) + noises.Uniform(0.1), ["gaussian_stddev", "uniform_limit"]),
        (noises.Gaussian(0.1) + 0.1, ["gaussian1_stddev", "gaussian2_stddev"]),
        (noises.Compose([noises.Quantization(4, 0.3)]), ["probability"]),
        (
            noises.TruncatedGaussian(0.2) + noises.Quantization(4),
            ["truncated_gaussian_stddev", "quantization_probability"],
        ),
    ],
    ids=str,
)
def test_keys(noise, keys):
    logged = {key for key in fit(WeightNoiseCallback(noise)).history if key.startswith("weight")}
    assert logged == {f"weight_noise_{key}" for key in keys}


def test_repr():
    assert repr(WeightNoiseCallback(0.1)) == "WeightNoiseCallback(noise=0.1)"
    noise = WeightNoiseCallback(noises.LogNormal(0.1), variables="kernels", frozen=True, seed=3)
    assert repr(noise) == (
        f"WeightNoiseCallback(noise={noises.LogNormal(0.1)!r}, variables='kernels', frozen=True, seed=3)"
    )


def test_stddev_is_called_noise():
    with pytest.raises(TypeError, match=r"Unknown.*`stddev`.*Expected `noise`.*stddev=0.1"):
        WeightNoiseCallback(stddev=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("fitted", [False, True])
def test_evaluate_and_predict_warn_that_it_does_nothing(fitted):
    model = linear()
    model.compile(keras.optimizers.SGD(0.0), loss=mean_output)
    noise = WeightNoiseCallback(0.1)
    if fitted:
        fit(noise, model=model, validation_data=(X, Y), epochs=2)  # Which does not warn.
    for method in (model.evaluate, model.predict):
        with pytest.warns(UserWarning, match=f"no effect in `model.{method.__name__}`"):
            method(X, verbose=0, callbacks=[noise]) if method == model.predict else method(
                X, Y, verbose=0, callbacks=[noise]
            )
    fit(noise, model=model, validation_data=(X, Y))


@pytest.mark.slow
def test_frozen_weights_are_perturbed_if_asked():
    def losses(**arguments):
        keras.utils.set_random_seed(1)
        model = keras.Sequential(
            [
                keras.Input((4,)),
                keras.layers.Dense(3, name="base"),
                keras.layers.BatchNormalization(),
                keras.layers.Dense(1),
            ]
        )
        model.layers[0].trainable = False
        model.compile(keras.optimizers.SGD(0.0), loss=mean_output)
        before = model.layers[0].get_weights()
        noise = WeightNoiseCallback(0.3, seed=1, **arguments)
        loss = fit(noise, model=model).history["loss"]
        assert all(map(np.array_equal, model.layers[0].get_weights(), before))
        return loss, [target.variable.path for target in noise._step.targets]

    plain, without = losses()
    perturbed, with_base = losses(frozen=True)
    assert not any("base" in path for path in without)
    assert sum("base" in path for path in with_base) == 2
    assert not any("moving" in path for path in with_base)
    assert perturbed != plain
