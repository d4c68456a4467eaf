"""What users call inside a `tf.function` runs as it is: AutoGraph does not convert it, nor speak of it."""

import contextlib
import functools
import importlib
import inspect
import logging
import pkgutil
import re

import keras
import pytest
import tensorflow as tf

import keras_weightnoise
from keras_weightnoise import (
    GaussianWeightNoise,
    WeightNoiseEnsemble,
    add_variational_weight_noise,
    constraints,
    noises,
    noisy_call,
    schedules,
)


@contextlib.contextmanager
def log_of_tensorflow():
    """The records that TensorFlow logs, which no filter of warnings sees."""
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logger = tf.get_logger()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    tf.autograph.set_verbosity(3)
    try:
        yield records
    finally:
        tf.autograph.set_verbosity(0)
        logger.setLevel(level)
        logger.removeHandler(handler)


# What AutoGraph says where it converts a function, or has converted it before.
CONVERSION = re.compile(r"<function (\S+) at \S+> is not cached|Cache hit for <function (\S+) at")


def model():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])


def under(noise):
    net = model()
    if isinstance(noise, noises.Learned):
        net = add_variational_weight_noise(net, examples=20)
    return lambda x: noisy_call(net, noise, x, seed=1, step=2)


def made_inside():
    net = model()
    return lambda x: noisy_call(net, noises.Uniform(0.1) + noises.DropConnect(), x, seed=1, step=2)


def wrapper():
    layer = GaussianWeightNoise(keras.layers.Dense(2))
    layer.build((None, 3))
    return layer


def at_step(function):
    return lambda x: function(tf.cast(x[0, 0], tf.int64))


class Own(noises.Gaussian):
    """Noise as a user may write it."""


KINDS = [
    each
    for each in vars(noises).values()
    if inspect.isclass(each) and issubclass(each, noises.Noise) and each is not noises.Noise
]
ARGUMENTS = {
    noises.Compose: [[Own(0.1)]],
    noises.Polynomial: [[0.1, 0.1]],
    noises.Quantization: [4],
    noises.PseudoQuantization: [4],
}
RAMPS = [schedules.LinearRamp, schedules.CosineRamp]

CALLS = {
    "noisy_call": lambda: under(0.1),
    "noisy_call with rules": lambda: under({"kernel": 0.1, None: noises.Uniform(0.2)}),
    "noisy_call with a schedule": lambda: under(schedules.LinearRamp(0.0, 0.1, 1, 2)),
    "noisy_call with noise of one's own": lambda: under(Own(0.1)),
    "noise made inside": made_inside,
    "magnitudes_at": lambda: at_step(noises.Gaussian(0.1).magnitudes_at),
    "wrapper": lambda: functools.partial(wrapper(), training=True),
    "wrapper's call": lambda: functools.partial(wrapper().call, training=True),
    "ensemble": lambda: WeightNoiseEnsemble(model(), 0.1, members=2),
    "ensemble's call": lambda: WeightNoiseEnsemble(model(), 0.1, members=2).call,
    "ClipToStddev": lambda: constraints.ClipToStddev(),
    **{cls.__name__: lambda cls=cls: at_step(cls(0.0, 0.1, 1, 2)) for cls in RAMPS},
    **{cls.__name__: lambda cls=cls: under(cls(*ARGUMENTS.get(cls, ()))) for cls in KINDS},
}


@pytest.mark.parametrize("make", CALLS.values(), ids=CALLS)
def test_nothing_is_converted_but_the_users_own_code(make):
    call = make()

    @tf.function
    def users_own(x):
        return call(x)

    with log_of_tensorflow() as records:
        users_own.get_concrete_function(tf.TensorSpec((4, 3)))
    found = [CONVERSION.match(record.getMessage()) for record in records]
    names = {(each[1] or each[2]).rpartition(".")[2] for each in found if each}
    # The lambda is the table's, and so a user's, too.
    assert "users_own" in names
    assert names <= {"users_own", "<lambda>"}
    assert not [each.getMessage() for each in records if each.levelno >= logging.WARNING]


def test_all_code_of_the_package_is_marked():
    package = keras_weightnoise.__name__
    found = 0
    for info in pkgutil.walk_packages(keras_weightnoise.__path__, f"{package}."):
        module = importlib.import_module(info.name)
        for each in vars(module).values():
            if getattr(each, "__module__", None) == module.__name__ and (
                inspect.isfunction(each) or inspect.isclass(each)
            ):
                found += 1
                assert hasattr(each, "autograph_info__"), each
    assert found > 100


def test_what_users_derive_is_converted_where_they_call_it():
    class Doubling(noises.Gaussian):
        def doubled(self, x):
            if x > 0:  # Of a tensor: an error, if not converted.
                return x + x
            return x

    noise = Doubling(0.1)
    assert float(tf.function(lambda x: noise.doubled(x))(tf.constant(2.0))) == 4.0
