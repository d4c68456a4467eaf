"""What people get wrong: each mistake gets a message that says what to do."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from fits import X, Y

import keras_weightnoise as kw
from keras_weightnoise import noises

GAUSSIAN = noises.Gaussian(0.1)


def network(*layers, **compiled):
    model = keras.Sequential([keras.Input((4,)), *layers], name="network")
    if compiled:
        model.compile(**compiled)
    return model


@functools.cache
def model():
    return network(keras.layers.Dense(1, name="head"), loss="mse", run_eagerly=True)


@functools.cache
def plain():
    return network(keras.layers.Dense(1, name="head"))


@functools.cache
def ensemble():
    return kw.WeightNoiseEnsemble(model(), 0.1, members=2)


def frozen():
    return network(keras.layers.Dense(1, name="head", trainable=False))


def batches():
    yield X, Y


def sweep(data=(X, Y), of=None, **arguments):
    arguments = {"magnitudes": [0.1], "draws": 1, "verbose": 0, **arguments}
    return kw.robustness_sweep(of or model(), data, **arguments)


PROBABILITIES = np.full((3, 3), 1 / 3)

MISTAKES = {
    # Names.
    "stddev": (
        lambda: kw.WeightNoiseCallback(stddev=0.1),
        "Unknown argument `stddev`. Expected `noise`.",
    ),
    "sigma": (lambda: kw.WeightNoiseCallback(sigma=0.1), "Expected `noise`. Received: sigma=0.1"),
    "layers": (lambda: kw.WeightNoiseCallback(0.1, layers="head"), "Expected `variables`."),
    "another": (
        lambda: kw.WeightNoiseCallback(0.1, often=2),
        "Expected `noise`, `frequency`, `variables`",
    ),
    "layers of add_weight_noise": (
        lambda: kw.add_weight_noise(model(), layers="head"),
        "Expected `variables`.",
    ),
    "sigma of add_weight_noise": (
        lambda: kw.add_weight_noise(model(), sigma=0.1),
        "Expected `stddev`.",
    ),
    "data of a callback": (
        lambda: kw.NoisyValidationCallback(data=(X, Y), noise=0.1),
        "Expected `validation_data`.",
    ),
    # Order.
    "noise, model": (
        lambda: kw.perturb_weights(0.1, model()),
        "Expected `model` first, then `noise`.",
    ),
    "noise, ensemble": (
        lambda: kw.WeightNoiseEnsemble(0.1, model()),
        "Expected `model` first, then `noise`.",
    ),
    "stddev, model": (
        lambda: kw.add_weight_noise(0.1, model()),
        "Expected `model` first, then `stddev`.",
    ),
    "stddev, layer": (
        lambda: kw.GaussianWeightNoise(0.1, keras.layers.Dense(3)),
        "Expected `layer` first, then `stddev`.",
    ),
    "noise for stddev": (
        lambda: kw.GaussianWeightNoise(keras.layers.Dense(3), noises.Uniform(0.1)),
        "Expected a number, or the noise by its name, `noise=...`. Received: stddev=Uniform(limit=0.1",
    ),
    "noise for stddev of a model": (
        lambda: kw.add_weight_noise(model(), noises.PCM()),
        "Expected a number, or the noise by its name, `noise=...`. Received: stddev=PCM(",
    ),
    "data, model": (
        lambda: kw.robustness_sweep((X, Y), model()),
        "Expected `model` first, then `data`. Received: model=(<ndarray of shape (12, 4)>,",
    ),
    "noise, layer": (
        lambda: kw.noisy_call(0.1, plain(), X, seed=1, step=0),
        "Expected `layer_or_model` first, then `noise`.",
    ),
    "inputs, noise": (
        lambda: kw.noisy_call(plain(), X, GAUSSIAN, seed=1, step=0),
        "Expected the noise before the inputs. Received: noise=<ndarray of shape (12, 4)>",
    ),
    "noise, data": (lambda: kw.layer_sensitivity(model(), 0.1, (X, Y)), "data come before it."),
    "noise, validation data": (
        lambda: kw.NoisyValidationCallback(0.1, (X, Y)),
        "data come before it.",
    ),
    "probabilities, labels": (
        lambda: kw.calibration_report(PROBABILITIES, [0, 1, 2]),
        "Expected the labels first, then the prob",
    ),
    # Models.
    "weights": (
        lambda: kw.perturb_weights(model().get_weights(), 0.1),
        "Received: model=[<ndarray of shape (4, 1)>, <ndarray of shape (1,)>] (of type list)",
    ),
    "no weights": (
        lambda: kw.perturb_weights(network(keras.layers.Flatten()), 0.1),
        "has no variables to perturb.$",
    ),
    "not built": (
        lambda: kw.perturb_weights(keras.Sequential([keras.layers.Dense(1)]), 0.1),
        "Build it, or call it once",
    ),
    "ensemble, evaluated": (
        lambda: ensemble().evaluate(X, Y),
        "Expected `compile(loss=..., metrics=...)`",
    ),
    "ensemble, fitted": (lambda: ensemble().fit(X, Y), "of WeightNoiseEnsemble before `fit`."),
    **{
        f"not compiled, {name}": (
            functools.partial(function, *arguments),
            "'network' is not compiled",
        )
        for name, function, *arguments in (
            ("robustness_sweep", kw.robustness_sweep, frozen(), (X, Y)),
            ("layer_sensitivity", kw.layer_sensitivity, frozen(), (X, Y), 0.1),
            ("noise_tolerance", functools.partial(kw.noise_tolerance, drop=0.1), frozen(), (X, Y)),
            ("loss_landscape", kw.loss_landscape, frozen(), (X, Y)),
        )
    },
    # Weights.
    "a layer of another model": (
        lambda: kw.perturb_weights(model(), 0.1, variables=plain().get_layer("head")),
        "That layer is not in 'network': `model.get_layer` has those that are.",
    ),
    "a variable of another model": (
        lambda: kw.perturb_weights(model(), 0.1, variables=plain().variables[0]),
        "That variable is not in 'network'",
    ),
    # Data.
    "a generator function": (lambda: sweep(batches), "of a generator function, what it returns"),
    "a number": (lambda: sweep(0.1), "Invalid `data`. Expected a tuple of arrays (x, y)"),
    "nothing": (lambda: sweep(None), "Received: data=None (of type NoneType)"),
    "no batch": (
        lambda: sweep(
            tf.data.Dataset.from_tensor_slices((X, Y)).batch(4).filter(lambda x, y: False)
        ),
        "Invalid `data`. Expected at least one batch.",
    ),
    # Values.
    "draws": (
        lambda: sweep(draws=[1, 2]),
        "Expected an integer >= 1, or a range. Received: draws=[1, 2]",
    ),
    "a noise by name": (lambda: sweep(noise="gaussian"), "such as `noises.Gaussian()`"),
    "a vector": (
        lambda: kw.perturb_weights(model(), np.ones(3)),
        "Received: noise=<ndarray of shape (3,)> (of type ndarray)",
    ),
    "classes": (
        lambda: kw.calibration_report([0, 1, 2], [0, 1, 2]),
        "Expected probabilities, not labels.",
    ),
    "results of another kind": (lambda: kw.compare({"a": 1}), "Received: {'a': 'int'}"),
    "a list of results": (lambda: kw.compare([1]), "Received: results of type list"),
}


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_says_what_to_do(mistake):
    make, message = MISTAKES[mistake]
    with pytest.raises((TypeError, ValueError)) as error:
        make()
    said = str(error.value)
    assert said.endswith(message[:-1]) if message.endswith("$") else message in said, said
    assert len(said) < 600  # Not every number of an array.


@pytest.mark.parametrize("arguments", [{}, {"noise": GAUSSIAN}])
def test_frozen_weights_are_noisy_in_a_wrapper_if_asked(arguments):
    x = tf.ones((2, 4))
    noisy = kw.add_weight_noise(frozen(), frozen=True, seed=1, **arguments)
    assert bool(tf.reduce_all(noisy(x, training=True) != noisy(x)))
    assert not noisy.trainable_variables
    saved = keras.saving.serialize_keras_object(noisy.get_layer("head"))
    again = keras.saving.deserialize_keras_object(saved)
    assert again.perturbs_frozen
    assert again.noise == arguments.get("noise")
    with pytest.raises(ValueError, match="No layer of 'network' is left to wrap"):
        kw.add_weight_noise(frozen())
