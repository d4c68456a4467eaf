"""Several passes in one training step: against loops by hand, and what is refused."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from fits import Mask, X, Y, batches, same, strategy

from keras_weightnoise import WeightNoiseCallback, adversaries, noises, schedules
from keras_weightnoise._not_public import global_seed
from keras_weightnoise._weights import perturbation, selection
from keras_weightnoise._weights.state import reachable_variables

KERAS = tuple(map(int, keras.__version__.split(".")[:2]))
LAYERS = keras.layers
BATCHES = [slice(0, 4), slice(4, 8), slice(8, 12)]


def curved(optimizer=None, policy="float32", dropout=Mask, **compile_args):
    """BatchNormalization, Dropout and a curved loss: all that a pass may change shows."""
    keras.utils.set_random_seed(1)
    keras.config.set_dtype_policy(policy)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            LAYERS.Dense(5, "tanh"),
            LAYERS.BatchNormalization(),
            dropout(),
            LAYERS.Dense(1),
        ]
    )
    optimizer = optimizer or keras.optimizers.Adam(0.05)
    model.compile(optimizer, "mse", **{"jit_compile": False, **compile_args})
    return model


def fit(model, *callbacks, batch_size=4):
    data = batches(X, Y + 1.0, batch_size)
    return model.fit(data, shuffle=False, verbose=0, callbacks=list(callbacks))


def state_of(model):
    """What is not trained, the state of Dropout's seed included."""
    return [*model.non_trainable_variables, model.layers[2].seed_generator.state]


def values(variables):
    return [v.numpy() for v in variables]


def put(variables, arrays):
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


class ByHand:
    """A training loop by hand that takes several gradients in each step."""

    def __init__(self, model, noise=0.0):
        self.model = model
        self.noise = noises.get(noise)
        self.targets = selection.select(model)
        self.losses = []

    def gradient(self, rows, step, draw=None, change=None):
        """The gradient at the weights of a draw, or changed otherwise, and the state after it."""
        trained = self.model.trainable_variables
        clean = values(trained)
        if draw is not None:
            magnitudes = self.noise.magnitudes_at(step)
            noisy = perturbation.perturb(
                self.noise, self.targets, [tf.constant(w) for w in clean], seed=3, step=step,
                magnitudes=magnitudes, replica=draw,
            )  # fmt: skip
            put(trained, noisy)
        elif change is not None:
            put(trained, [w + c for w, c in zip(clean, change, strict=True)])
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self.model(X[rows], training=True) - 1.0))
        gradients = tape.gradient(loss, trained)
        put(trained, clean)
        return [g.numpy() for g in gradients], float(loss)

    def step(self, passes, weights, counted, rows):
        """Takes a step with the weighted gradients of passes over the same batch."""
        before = values(state_of(self.model))
        gradients, after = [], []
        for each in passes:
            put(state_of(self.model), before)
            g, loss = each()
            gradients.append(g)
            after.append((values(state_of(self.model)), loss))
        put(state_of(self.model), after[counted][0])
        self.losses.append(after[counted][1])
        self.apply(gradients, weights)

    def apply(self, gradients, weights):
        mixed = [
            sum(w * g for w, g in zip(weights, each, strict=True))
            for each in zip(*gradients, strict=True)
        ]
        self.model.optimizer.apply(mixed, self.model.trainable_variables)


def assert_close(model, other, atol=1e-5):
    for here, there in zip(
        values([*model.variables, *model.optimizer.variables]),
        values([*other.variables, *other.optimizer.variables]),
        strict=True,
    ):
        np.testing.assert_allclose(here, there, atol=atol, rtol=1e-4)


# Settings; the passes by the number of their draw, `None` for the clean one; their weights; which counts.
SHARED = {
    "draws": ({"draws_per_step": 3}, [0, 1, 2], [1 / 3] * 3, 0),
    "clean, noisy counts": (
        {"clean_gradient": 0.25, "counted_pass": "noisy"}, [0, None], [0.75, 0.25], 0,
    ),
    "both": (
        {"draws_per_step": 2, "clean_gradient": 0.5}, [0, 1, None], [0.25, 0.25, 0.5], 2,
    ),
}  # fmt: skip


@functools.cache
def shared_by_hand(name):
    _, draws, weights, counted = SHARED[name]
    loop = ByHand(curved(), 0.2)
    for step, rows in enumerate(BATCHES):
        passes = [
            lambda draw=draw, rows=rows, step=step: loop.gradient(rows, step, draw)
            for draw in draws
        ]
        loop.step(passes, weights, counted, rows)
    return loop


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("draws", {"steps_per_execution": 3}),
        ("clean, noisy counts", {"run_eagerly": True}),
        ("both", {}),
    ],
    ids=str,
)
def test_passes_over_one_batch_match_a_loop_by_hand(name, mode):
    loop = shared_by_hand(name)
    model = curved(**mode)
    history = fit(model, WeightNoiseCallback(0.2, seed=3, **SHARED[name][0]))
    assert_close(model, loop.model)
    # Each example counts once in the metrics, in the pass that counts, and seeds move once.
    np.testing.assert_allclose(history.history["loss"], [np.mean(loop.losses)], rtol=1e-5)
    assert same(values(state_of(model))[-1], values(state_of(loop.model))[-1])


@pytest.mark.slow
def test_parts_of_the_batch_match_a_loop_by_hand():
    """Of the last batch, of one example, one of two parts is empty."""
    sgd = functools.partial(keras.optimizers.SGD, 0.1)
    loop = ByHand(curved(sgd()), 0.2)
    for step, (rows, parts) in enumerate(
        [(slice(0, 11), [(0, 5), (5, 11)]), (slice(11, 12), [None, (11, 12)])]
    ):
        gradients, weights = [], []
        for draw, part in enumerate(parts):
            if part is not None:
                gradient, loss = loop.gradient(slice(*part), step, draw)
                size = part[1] - part[0]
                gradients.append(gradient)
                weights.append(size / (rows.stop - rows.start))
                loop.losses.append(size * loss)
        loop.apply(gradients, weights)
    model = curved(sgd(), jit_compile=True)
    noise = WeightNoiseCallback(0.2, seed=3, draws_per_step=2, split_batch=True)
    history = fit(model, noise, batch_size=11)
    assert_close(model, loop.model)
    np.testing.assert_allclose(history.history["loss"], [sum(loop.losses) / 12], rtol=1e-5)


def test_parts_weigh_the_clean_gradient_too():
    loop = ByHand(curved(), 0.2)
    for step, rows in enumerate(BATCHES):
        at = rows.start
        noisy, _ = loop.gradient(slice(at, at + 2), step, 0)
        clean, _ = loop.gradient(slice(at + 2, at + 4), step)
        loop.apply([noisy, clean], [0.75, 0.25])
    model = curved(run_eagerly=True)
    fit(model, WeightNoiseCallback(0.2, seed=3, clean_gradient=0.25, split_batch=True))
    assert_close(model, loop.model)


def plain():
    """Without what differs between replicas."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((4,)), LAYERS.Dense(5, "tanh"), LAYERS.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    return model


@pytest.mark.slow
@pytest.mark.skipif(
    KERAS < (3, 7), reason="This Keras scales the gradients of replicas differently."
)
def test_replicas_with_draws_of_their_own():
    """With noise of its own, each replica has two draws for its half of the batch."""
    loop = ByHand(plain(), 0.2)
    for step, rows in enumerate(BATCHES):
        halves = [slice(rows.start, rows.start + 2), slice(rows.start + 2, rows.stop)]
        gradients = [
            loop.gradient(halves[replica], step, draw)[0]
            for replica in range(2)
            for draw in (None, replica, 2 + replica)
        ]
        loop.apply(gradients, [0.125, 0.1875, 0.1875] * 2)
    with strategy().scope():
        model = plain()
    settings = {"draws_per_step": 2, "clean_gradient": 0.25, "seed": 3}
    fit(model, WeightNoiseCallback(0.2, per_replica=True, **settings))
    assert_close(model, loop.model)


# What a step is that cannot take several gradients.


class Step(keras.Model):
    """Its weights are updated as a test says."""

    def __init__(self, update):
        super().__init__()
        self.dense = LAYERS.Dense(1)
        self.dense.build((None, 4))
        self.built = True
        self.update = update

    def call(self, x):
        return self.dense(x)

    def train_step(self, data):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self(data[0], training=True)))
        self.update(self, tape.gradient(loss, self.trainable_variables))
        return {"objective": loss}


def apply(model, gradients):
    model.optimizer.apply(gradients, model.trainable_variables)


def twice(model, gradients):
    apply(model, gradients)
    apply(model, gradients)


def in_a_branch(model, gradients):
    tf.cond(model.optimizer.iterations >= 0, lambda: apply(model, gradients) or 0, lambda: 0)


def by_hand_before(model, gradients):
    model.dense.bias.assign_sub(0.1 * gradients[1])
    apply(model, gradients)


def by_hand_in_a_branch(model, gradients):
    def clip():
        model.dense.bias.assign_sub(0.1 * gradients[1])
        return 0

    tf.cond(model.optimizer.iterations >= 0, clip, lambda: 0)
    apply(model, gradients)


def by_hand_in_a_function(model, gradients):
    tf.function(lambda: model.dense.kernel.assign_sub(0.1 * gradients[0]), autograph=False)()
    apply(model, gradients)


REFUSED = {
    "twice": (twice, "applies optimizer 'SGD', and then optimizer 'SGD'"),
    "branch": (in_a_branch, "applies optimizer 'SGD' in a branch or a loop"),
    "never": (lambda model, gradients: None, "applies no optimizer"),
    "by hand": (by_hand_before, "assigns '.*bias' by hand"),
    "by hand in a branch": (by_hand_in_a_branch, "assigns '.*bias' by hand"),
    "by hand in a function": (by_hand_in_a_function, "assigns '.*kernel' by hand"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("eager", [False, True])
def test_steps_that_are_refused(name, eager):
    update, message = REFUSED[name]
    if eager and update is in_a_branch:
        return  # Eagerly, there are no branches.
    model = Step(update)
    model.compile(keras.optimizers.SGD(0.1, name="SGD"), run_eagerly=eager, jit_compile=False)
    before = values(model.trainable_variables)
    settings = {"clean_gradient": 0.5, "split_batch": True} if eager else {"draws_per_step": 2}
    with pytest.raises(ValueError, match=f"{message}.* so that .*Expected a `train_step`"):
        fit(model, WeightNoiseCallback(0.2, variables="kernels", **settings))
    assert same(values(model.trainable_variables), before)


class Keeps(Step):
    """Counts its steps, and keeps an average of its weights after each update."""

    def __init__(self):
        super().__init__(self.apply_and_average)
        self.average = LAYERS.Dense(1, trainable=False)
        self.average.build((None, 4))
        self.steps = tf.Variable(0)

    def apply_and_average(self, _, gradients):
        self.steps.assign_add(1)
        keras.random.normal(())  # From the global generator of seeds.
        try:
            apply(self, gradients)
        except Exception:  # Sees nothing of how passes end.
            self.steps.assign(-100)
            raise
        for average, v in zip(self.average.weights, self.dense.weights, strict=True):
            average.assign(0.5 * average + 0.5 * v)


@pytest.mark.parametrize("eager", [False, True])
def test_what_a_step_keeps_is_as_after_a_plain_one(eager):
    """At a ramp's start, all passes are alike: after them, everything is what it was bit for bit."""
    ramp = schedules.LinearRamp(0.0, 0.3, start_step=100, ramp_steps=1)

    def train(*callbacks):
        for _ in range(2):  # The first time, it may make the generator, with a seed of Python's.
            keras.utils.set_random_seed(1)
            keras.random.normal(())
        global_seed().assign([1, 0])
        model = Keeps()
        model.compile(keras.optimizers.SGD(0.1), run_eagerly=eager, jit_compile=False)
        fit(model, *callbacks)
        drawn = keras.random.normal((2,)).numpy()
        return [*values(model.variables), model.steps.numpy(), drawn]

    plain = train()
    assert plain[-2] == 3
    noise = WeightNoiseCallback(ramp, draws_per_step=2, clean_gradient=0.3, seed=1)
    assert same(train(noise), plain)


TOO_LITTLE = (
    1e-30  # Changes no weight but those that are 0; yet it is noise, and all passes are made.
)


def everything():
    """Two outputs and losses, and layers of every kind that keep something or are special to noise."""

    class Keeps(LAYERS.Layer):
        def __init__(self):
            super().__init__()
            self.seen, self.calls = keras.metrics.Mean(name="seen"), tf.Variable(0, trainable=False)

        def call(self, x):
            self.seen.update_state(tf.reduce_mean(x))
            self.calls.assign_add(1)
            self.add_loss(0.1 * tf.reduce_mean(x**2))
            return x

    inputs = keras.Input((4,), batch_size=4)
    shared = LAYERS.Dense(4, "tanh", kernel_regularizer="l2", kernel_constraint="max_norm")
    x = LAYERS.BatchNormalization()(shared(shared(inputs)))
    x = LAYERS.Dropout(0.5, seed=1)(Keeps()(LAYERS.Dense(4, trainable=False)(x)))
    rnn = LAYERS.SimpleRNN(3, stateful=True, activity_regularizer="l2", dropout=0.5, seed=1)
    x = rnn(LAYERS.Reshape((2, 2))(x))
    return keras.Model(inputs, {name: LAYERS.Dense(1, name=name)(x) for name in "ab"})


def train_everything(eager, *callbacks):
    """What is there in the end: the log, and every variable."""
    keras.utils.set_random_seed(1)
    model = everything()
    optimizer = keras.optimizers.AdamW(
        0.05, weight_decay=0.1, clipnorm=0.5, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2
    )  # fmt: skip
    losses = {"loss": {"a": "mse", "b": "mae"}, "loss_weights": {"a": 1.0, "b": 0.5}}
    metrics = {"metrics": {"a": ["mae"], "b": ["mse"]}, "weighted_metrics": {"a": ["mae"]}}
    model.compile(optimizer, **losses, **metrics, run_eagerly=eager, jit_compile=False)
    log = model.fit(
        X, {"a": Y + 1.0, "b": Y - 1.0}, sample_weight={"a": np.arange(12.0), "b": np.ones(12)},
        batch_size=4, shuffle=False, verbose=0, callbacks=list(callbacks),
    ).history  # fmt: skip
    held = values([*reachable_variables(model), *optimizer.variables])
    return [[log[name] for name in sorted(log) if "weight_noise" not in name], held]


SPELLINGS = {
    "draws": {"draws_per_step": 3},
    "both, held": {"draws_per_step": 2, "clean_gradient": 0.3, "frequency": 3},
    "clean, one at a time": {"clean_gradient": 0.3, "one_at_a_time": True},
    "noisy counts": {"clean_gradient": 0.3, "counted_pass": "noisy", "frozen": True},
    "sam": {"noise": adversaries.SAM(TOO_LITTLE)},
    "asam, noisy counts": {"noise": adversaries.ASAM(TOO_LITTLE), "counted_pass": "noisy"},
    "awp, clean": {"noise": adversaries.AWP(TOO_LITTLE), "clean_gradient": 0.3},
}


@functools.cache
def plain_everything(eager):
    return train_everything(eager)


@pytest.mark.filterwarnings("ignore:Most of the noise is lost to rounding")
@pytest.mark.parametrize(
    ("name", "eager"),
    [
        ("draws", True),
        ("sam", True),
        *(
            pytest.param(name, True, marks=pytest.mark.slow)
            for name in list(SPELLINGS)[1:]
            if name != "sam"
        ),
        pytest.param("noisy counts", False, marks=pytest.mark.slow),
    ],
)
def test_a_step_of_several_passes_counts_as_one(name, eager):
    """Bit for bit: weights, averages, statistics, states, seeds, metrics of losses and of layers, the log."""
    noise = WeightNoiseCallback(**{"noise": TOO_LITTLE, "seed": 1, **SPELLINGS[name]})
    assert same(train_everything(eager, noise), plain_everything(eager))


@pytest.mark.any_version
def test_at_magnitude_0_a_step_is_the_plain_one():
    def train(*callbacks):
        model = curved(dropout=lambda: LAYERS.Dropout(0.5, seed=1), run_eagerly=True)
        history = fit(model, *callbacks)
        return [*values(model.variables), history.history["loss"]]

    plain = train()
    for magnitude in (0.0, schedules.LinearRamp(0.0, 0.3, start_step=100, ramp_steps=1)):
        noise = WeightNoiseCallback(magnitude, draws_per_step=3, clean_gradient=0.3)
        assert same(train(noise), plain)


@pytest.mark.parametrize(
    "noise", [{"noise": 0.2, "draws_per_step": 2}, {"noise": adversaries.SAM()}]
)
def test_a_skipped_update_is_skipped_with_all_its_passes(noise):
    """Where one overflows in float16, so does the mean; and nothing is perturbed by what is not finite."""
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.1), initial_scale=2.0**40
    )
    model = curved(optimizer, policy="mixed_float16")
    before = values(model.trainable_variables)
    fit(model, WeightNoiseCallback(**noise, seed=1))
    assert same(values(model.trainable_variables), before)
    assert float(optimizer.dynamic_scale.numpy()) == 2.0**37
    assert all(np.isfinite(v).all() for v in values(model.variables))


@pytest.mark.any_version
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"draws_per_step": 0}, ValueError, "draws_per_step=0"),
        ({"draws_per_step": 1.5}, TypeError, "draws_per_step=1.5"),
        ({"split_batch": 1}, TypeError, "split_batch=1"),
        ({"split_batch": True}, ValueError, "split_batch=True"),
        ({"clean_gradient": 1.0}, ValueError, "clean_gradient=1.0"),
        ({"clean_gradient": float("nan")}, ValueError, "clean_gradient=nan"),
        ({"clean_gradient": "half"}, TypeError, "clean_gradient='half'"),
        ({"counted_pass": "first"}, ValueError, "counted_pass='first'"),
        ({"noise": adversaries.SAM(), "frequency": 2}, ValueError, "frequency=2"),
        ({"noise": adversaries.SAM(), "draws_per_step": 2}, ValueError, "draws_per_step=2"),
        ({"noise": adversaries.SAM(), "frozen": True}, ValueError, "frozen=True"),
        ({"noise": {"kernels": adversaries.SAM()}}, TypeError, r"noise=SAM\(rho=0.05\)"),
        ({"counted_pass": "clean"}, ValueError, "counted_pass='clean', clean_gradient=0.0"),
        (
            {"counted_pass": "noisy", "draws_per_step": 2, "split_batch": True},
            ValueError,
            "counted_pass='noisy'",
        ),
    ],
    ids=str,
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=f"Expected .*Received: {message}"):
        WeightNoiseCallback(**arguments)


@pytest.mark.parametrize(
    "noise", [{"noise": 0.2, "draws_per_step": 2}, {"noise": adversaries.SAM()}]
)
def test_an_error_in_the_step_leaves_the_weights_as_they_were(noise):
    def check(x):
        with tf.control_dependencies([tf.debugging.assert_less(tf.reduce_max(x), 50.0)]):
            return tf.identity(x)

    model = keras.Sequential([keras.Input((4,)), LAYERS.Dense(1), LAYERS.Lambda(check)])
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=False)
    model.set_weights([np.ones((4, 1)), np.zeros(1)])
    x = np.concatenate([X[:4], 100.0 * np.ones((4, 4))])
    with pytest.raises(tf.errors.InvalidArgumentError, match="Condition x < y"):
        model.fit(
            x,
            Y[:8],
            batch_size=4,
            shuffle=False,
            verbose=0,
            callbacks=[WeightNoiseCallback(**noise)],
        )
    assert same(model.get_weights(), [np.ones((4, 1)), np.zeros(1)])


class FailsAt(LAYERS.Layer):
    """Counts its calls, and fails in one of them."""

    def __init__(self):
        super().__init__()
        self.calls, self.left = tf.Variable(0, trainable=False), 0

    def call(self, x):
        self.calls.assign_add(1)
        self.left -= 1
        if self.left == 0:
            raise RuntimeError("in this call")
        return x


@pytest.mark.parametrize(
    ("settings", "passes"),
    [
        ({"draws_per_step": 2, "clean_gradient": 0.5}, 3),
        ({"draws_per_step": 2, "split_batch": True}, 2),
        ({"noise": adversaries.SAM()}, 2),
        ({"noise": adversaries.SAM(), "counted_pass": "noisy"}, 2),
    ],
    ids=str,
)
def test_an_error_in_any_pass_leaves_all_as_it_was(settings, passes):
    """Eagerly, what layers, metrics and seeds keep included."""
    layers = [LAYERS.Dense(5), LAYERS.BatchNormalization(), Mask(), FailsAt(), LAYERS.Dense(1)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile(keras.optimizers.Adam(0.1), "mse", run_eagerly=True)
    noise = WeightNoiseCallback(**{"noise": 0.2, "seed": 1, **settings})

    def look(batch=None, logs=None):
        held = [*model.variables, *model.optimizer.variables, *model.metrics[0].variables]
        seen.append(values([*held, layers[2].seed_generator.state, layers[3].calls]))

    look_on = keras.callbacks.LambdaCallback(on_train_batch_begin=look)
    for number in range(1, passes + 1):
        seen = []
        layers[3].left = passes + number  # In the second step.
        with pytest.raises(RuntimeError, match="in this call"):
            fit(model, noise, look_on)
        look()
        assert same(seen[2], seen[1])
        assert not same(seen[1], seen[0])


# Adversaries.


def sam(weights, gradients):
    norm = np.sqrt(sum(np.sum(g**2) for g in gradients))
    return [0.1 * g / norm for g in gradients]


def asam(weights, gradients):
    norm = np.sqrt(sum(np.sum((w * g) ** 2) for w, g in zip(weights, gradients, strict=True)))
    return [0.1 * w**2 * g / norm for w, g in zip(weights, gradients, strict=True)]


# The adversary, the formula, and settings. The others are in `test_methods.py`.
ADVERSARIES = {
    "sam, noisy counts": (adversaries.SAM(0.1), sam, {"counted_pass": "noisy"}),
    "sam, some of the clean gradient": (
        adversaries.SAM(0.1), sam, {"clean_gradient": 0.25},
    ),
    "asam": (adversaries.ASAM(0.1), asam, {}),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ADVERSARIES)
def test_adversaries_match_a_loop_by_hand(name):
    adversary, formula, settings = ADVERSARIES[name]
    loop = ByHand(curved())
    share = settings.get("clean_gradient", 0.0)
    for rows in BATCHES:
        before = values(state_of(loop.model))
        clean, _ = loop.gradient(rows, 0)
        put(state_of(loop.model), before)
        change = formula(values(loop.model.trainable_variables), clean)
        passes = [
            lambda rows=rows: loop.gradient(rows, 0),
            lambda rows=rows, change=change: loop.gradient(rows, 0, change=change),
        ]
        counted = settings.get("counted_pass") == "noisy"
        loop.step(passes, [share, 1 - share], counted, rows)
    model = curved(run_eagerly=True)
    history = fit(model, WeightNoiseCallback(adversary, **settings))
    assert_close(model, loop.model)
    np.testing.assert_allclose(history.history["loss"], [np.mean(loop.losses)], rtol=1e-5)
    assert same(values(state_of(model))[-1], values(state_of(loop.model))[-1])


def test_sharpness_aware_minimization_of_a_quadratic():
    """L = w^T A w / 2 in closed form: w <- w - lr A (w + rho A w / |A w|)."""
    a, lr, rho = np.diag([1.0, 4.0]), 0.1, 0.05

    class Quadratic(Step):
        def __init__(self):
            super().__init__(apply)
            self.w = self.add_weight(shape=(2,), initializer="ones", dtype="float64", name="w")

        def train_step(self, data):
            with tf.GradientTape() as tape:
                loss = 0.5 * tf.reduce_sum(self.w * tf.linalg.matvec(a, self.w.value))
            self.optimizer.apply(tape.gradient(loss, [self.w.value]), [self.w])
            return {"objective": loss}

    model = Quadratic()
    model.compile(keras.optimizers.SGD(lr), jit_compile=False)
    history = fit(model, WeightNoiseCallback(adversaries.SAM(rho), variables="w$"))
    w = np.ones(2)
    for _ in range(3):
        w -= lr * a @ (w + rho * a @ w / np.linalg.norm(a @ w))
    np.testing.assert_allclose(model.w.numpy(), w, rtol=1e-6)
    assert history.history["weight_noise_rho"] == pytest.approx([rho])


@pytest.mark.slow
@pytest.mark.any_version
def test_an_adversary_at_magnitude_0_and_without_gradient_is_the_plain_step():
    def train(*callbacks):
        model = curved(run_eagerly=True)
        fit(model, *callbacks)
        return values([*model.variables, model.layers[2].seed_generator.state])

    plain_values = train()
    ramp = schedules.LinearRamp(0.0, 0.3, start_step=100, ramp_steps=1)
    for adversary in (adversaries.SAM(0.0), adversaries.SAM(ramp)):
        assert same(train(WeightNoiseCallback(adversary)), plain_values)
    zeros = [tf.zeros((2, 2)), tf.zeros((2,))]
    for adversary in (adversaries.SAM(0.1), adversaries.ASAM(0.1), adversaries.AWP(0.1)):
        for gradients in (zeros, [z + np.inf for z in zeros], [z + np.nan for z in zeros]):
            moved = adversary.perturbation([z + 1.0 for z in zeros], gradients, 0.1)
            assert same([m.numpy() for m in moved], [z.numpy() for z in zeros])


@pytest.mark.any_version
@pytest.mark.parametrize("kind", [adversaries.SAM, adversaries.ASAM, adversaries.AWP])
def test_adversaries_of_equal_settings_are_equal(kind):
    # Else, a callback used again would trace its step again.
    def ramp():
        return schedules.LinearRamp(0.0, 0.1, start_step=0, ramp_steps=10)

    assert kind(ramp()) == kind(ramp())
    assert hash(kind(ramp())) == hash(kind(ramp()))
    assert kind(0.1) != kind(0.2)
    assert repr(kind(np.float32(0.5))) == repr(kind(0.5))
    assert kind.from_config(kind(ramp()).get_config()) == kind(ramp())
