"""Every optimizer that Keras has, found by introspection, and the kinds that users write.

Of a linear model the gradient does not depend on the weights. So a fit under noise must do bit for bit what
a plain fit does, the optimizer's state included, while its loss must differ.
"""

import contextlib
import inspect

import keras
import pytest
import tensorflow as tf
from fits import Weights, X, Y, batches, linear, mean_output, same

from keras_weightnoise import WeightNoiseCallback, schedules
from keras_weightnoise.callbacks._interception import intercepting, listening

OPTIMIZERS = keras.optimizers


class Overrides(OPTIMIZERS.SGD):
    """Overrides `apply` without `super`, and counts nothing."""

    def apply(self, grads, trainable_variables=None):
        for g, v in zip(grads, trainable_variables, strict=True):
            v.assign_sub(0.1 * g)


class Counts(Overrides):
    """The same, but counts."""

    def apply(self, grads, trainable_variables=None):
        super().apply(grads, trainable_variables)
        self.iterations.assign_add(1)


class OtherNames(OPTIMIZERS.SGD):
    """Calls `super`, from an `apply` with arguments of its own."""

    def apply(self, grads, scale, weights):
        super().apply([scale * g for g in grads], weights)

    def apply_gradients(self, grads_and_vars):
        grads, weights = zip(*grads_and_vars, strict=True)
        self.apply(grads, 0.5, weights=weights)


class GradientsAndVariables(OPTIMIZERS.SGD):
    """Has an `apply_gradients` of its own, which does not call `apply`."""

    def apply_gradients(self, grads_and_vars):
        for g, v in grads_and_vars:
            v.assign_sub(0.1 * g)


class Around(OPTIMIZERS.Optimizer):
    """Passes updates on to another optimizer. Has no count of its own."""

    def __init__(self, inner):
        super().__init__(learning_rate=0.0)
        self.inner = inner

    def build(self, variables):
        self.inner.build(variables)
        super().build(variables)

    @property
    def variables(self):
        return super().variables + self.inner.variables

    def apply(self, grads, trainable_variables=None):
        self.inner.apply([-g for g in grads], trainable_variables)


class Twice(Around):
    """Has the other optimizer make two steps of each."""

    def apply(self, grads, trainable_variables=None):
        super().apply(grads, trainable_variables)
        super().apply(grads, trainable_variables)


def multi(**kwargs):
    by_path = OPTIMIZERS.OptimizerMap(OPTIMIZERS.SGD(0.1, **kwargs))
    by_path[".*kernel"] = OPTIMIZERS.Adam(0.1, **kwargs)
    return OPTIMIZERS.MultiOptimizer(by_path)


# What cannot be made without arguments.
ARGUMENTS = {
    "LossScaleOptimizer": lambda cls: cls(OPTIMIZERS.Adam(0.1), initial_scale=8.0),
    "MultiOptimizer": lambda cls: multi(),
}
SETTINGS = {
    "learning_rate": 0.1,
    "weight_decay": 0.01,
    "use_ema": True,
    "ema_momentum": 0.5,
    "ema_overwrite_frequency": 2,
}


def found():
    """A function that makes one, by name, for each class of optimizers in `keras.optimizers`."""

    def make(cls):
        if cls.__name__ in ARGUMENTS:
            return ARGUMENTS[cls.__name__](cls)
        taken = inspect.signature(cls).parameters
        return cls(**{name: value for name, value in SETTINGS.items() if name in taken})

    return {
        name: lambda cls=cls: make(cls)
        for name, cls in vars(OPTIMIZERS).items()
        if inspect.isclass(cls)
        and issubclass(cls, OPTIMIZERS.Optimizer)
        and cls is not OPTIMIZERS.Optimizer
    }


KERAS_OWN = found()
WRITTEN = {
    "overrides": lambda: Overrides(0.1),
    "overrides, counts": lambda: Counts(0.1),
    "other names": lambda: OtherNames(0.1),
    "apply_gradients": lambda: GradientsAndVariables(0.1),
    "around": lambda: Around(OPTIMIZERS.Adam(0.1, use_ema=True)),
    "around one that overrides": lambda: Around(Overrides(0.1)),
    "loss scale around one that overrides": lambda: OPTIMIZERS.LossScaleOptimizer(Overrides(0.1)),
    "loss scale around": lambda: OPTIMIZERS.LossScaleOptimizer(Around(OPTIMIZERS.SGD(0.1))),
}
if hasattr(OPTIMIZERS, "MultiOptimizer"):
    WRITTEN["loss scale around several"] = lambda: OPTIMIZERS.LossScaleOptimizer(multi())
    WRITTEN["averages inside"] = lambda: multi(use_ema=True, ema_momentum=0.5)
ALL = {**KERAS_OWN, **WRITTEN}


class Both(keras.Model):
    """Holds an optimizer that is inside of its own one, as users do who want to log its learning rate."""

    def compile(self, optimizer, **kwargs):
        super().compile(optimizer, **kwargs)
        for name in ("inner", "inner_optimizer"):
            if hasattr(optimizer, name):
                self.kept = getattr(optimizer, name)


def fit(make, *callbacks, model=linear, epochs=2, **compile_args):
    keras.utils.set_random_seed(1)
    base = model()
    base = Both(base.inputs, base.outputs)
    optimizer = make()
    base.compile(optimizer, loss=mean_output, **compile_args)
    # Keras 3.15: built while the step is traced, a `ScheduleFreeAdamW` starts from zeros.
    optimizer.build(base.trainable_variables)
    probe = Weights()
    callbacks = [*callbacks, probe]
    history = base.fit(batches(), epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks)
    return history.history, [probe.seen, [v.numpy() for v in optimizer.variables]]


def test_some_are_found():
    assert {"SGD", "Adam", "AdamW", "LossScaleOptimizer"} <= KERAS_OWN.keys()


@pytest.mark.parametrize("name", ALL)
def test_each_update_is_heard_once(name):
    optimizer, heard = ALL[name](), []
    weights = [keras.Variable([[1.0, 2.0], [3.0, 4.0]]) for _ in range(2)]
    methods = own_methods(type(optimizer))
    optimizer.build(weights)

    def hear(update):
        heard.append((update.optimizer, update.variables))
        return contextlib.nullcontext()

    for pairs in (zip([tf.ones((2, 2))] * 2, weights, strict=True) for _ in range(2)):
        with intercepting(), listening(hear):
            optimizer.apply_gradients(pairs)
    optimizer.apply_gradients(zip([tf.ones((2, 2))] * 2, weights, strict=True))  # Not heard.
    assert [each is optimizer for each, _ in heard] == [True, True]
    assert all(a is b for _, updated in heard for a, b in zip(updated, weights, strict=True))
    assert own_methods(type(optimizer)) == methods


def own_methods(cls):
    names = ("apply", "apply_gradients")
    return [vars(base)[name] for base in cls.__mro__ for name in names if name in vars(base)]


def cases():
    """Eagerly those of Keras that leave `apply` alone; in a graph those that do not, and of the others
    the plainest, one with all settings, and those that step in ways of their own."""
    for name in ALL:
        own = name not in KERAS_OWN or "apply" in vars(getattr(OPTIMIZERS, name))
        if own or name in ("SGD", "AdamW", "Adafactor", "Muon", "ScheduleFreeAdamW"):
            yield name, False
        if not own or name in ("overrides", "loss scale around one that overrides", "around"):
            yield name, True


@pytest.mark.slow
@pytest.mark.parametrize(("name", "eager"), list(cases()))
def test_trains_as_without_noise_and_counts_each_step_once(name, eager):
    ramp = schedules.LinearRamp(0.1, 0.7, start_step=0, ramp_steps=6)
    plain_logs, plain = fit(ALL[name], run_eagerly=eager)
    logs, noisy = fit(ALL[name], WeightNoiseCallback(ramp, seed=1), run_eagerly=eager)
    assert same(noisy, plain)
    assert logs["loss"] != plain_logs["loss"]
    # The last steps of the epochs are the steps 2 and 5.
    assert logs["weight_noise_stddev"] == pytest.approx([0.3, 0.6])


def test_steps_of_the_optimizer_inside_count():
    ramp = schedules.LinearRamp(0.0, 1.2, start_step=0, ramp_steps=12)
    logs = fit(lambda: Twice(OPTIMIZERS.SGD(0.1)), WeightNoiseCallback(ramp, seed=1))[0]
    assert logs["weight_noise_stddev"] == pytest.approx([0.4, 1.0])


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(OPTIMIZERS, "MultiOptimizer"), reason="This Keras has none.")
def test_optimizers_inside_that_accumulate():
    """The batches of one optimizer step share a draw and a magnitude."""
    ramp = schedules.LinearRamp(0.1, 0.7, start_step=0, ramp_steps=6)
    make = lambda: multi(gradient_accumulation_steps=3)  # noqa: E731
    logs = fit(make, WeightNoiseCallback(ramp, seed=1))[0]
    assert logs["weight_noise_stddev"] == pytest.approx([0.1, 0.2])


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(OPTIMIZERS, "MultiOptimizer"), reason="This Keras has none.")
def test_a_resumed_run_of_several_optimizers_is_the_uninterrupted_one(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def curved():
        return keras.Sequential(
            [keras.Input((4,)), keras.layers.Dense(3, "tanh"), keras.layers.Dense(1)]
        )

    def train(*callbacks):
        noise = WeightNoiseCallback(0.3, frequency=2, seed=1)
        return fit(multi, noise, *callbacks, model=curved, epochs=4)[1]

    whole = train()
    with pytest.raises(KeyboardInterrupt):
        train(keras.callbacks.BackupAndRestore(tmp_path), Stop())
    resumed = train(keras.callbacks.BackupAndRestore(tmp_path))
    assert same(resumed[0][-1], whole[0][-1])
    assert same(resumed[1], whole[1])


@pytest.mark.slow
def test_averages_of_variables_that_are_not_updated_are_clean():
    class Part(keras.Model):
        """Updates two of its four weights. The optimizer averages all."""

        def train_step(self, data):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(self(data[0], training=True))
            some = self.trainable_variables[:2]
            self.optimizer.apply(tape.gradient(loss, some), some)
            return {"objective": loss}

    def train(*callbacks):
        keras.utils.set_random_seed(1)
        base = linear()
        model = Part(base.inputs, base.outputs)
        model.compile(OPTIMIZERS.SGD(0.1, use_ema=True, ema_momentum=0.5))
        model.optimizer.build(model.trainable_variables)
        history = model.fit(X, Y, batch_size=4, verbose=0, callbacks=list(callbacks))
        return [v.numpy() for v in model.optimizer.variables], history.history["objective"]

    plain, noisy = train(), train(WeightNoiseCallback(0.3, seed=1))
    assert same(plain[0], noisy[0])
    assert plain[1] != noisy[1]
