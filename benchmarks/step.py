"""What a training step costs under weight noise, as ratios to a plain step in the same run.

Interleaved rounds, medians over all their steps; each case in a process of its own, the dense ones with the
heap kept and with page faults dear (see `rounds.py`). "usual" is the callback one finds in forums, at its
best: `tf.random.normal` added in `on_train_batch_begin` and subtracted in `on_train_batch_end`, each in one
`tf.function`; "NumPy" does the same through `get_weights` and `set_weights`.

Several passes in a step cost at most as many plain steps, and as many times the noise.

Beside the ratio to a plain step: what the noise adds to one, in ns per weight, and as a share of what the
usual callback adds.

Run it: `python benchmarks/step.py`, or `--cases MLP`, or `--jit` for steps compiled by XLA.
"""

import argparse
import os
import re

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from rounds import describe, fit, run_again

from keras_weightnoise import WeightNoiseCallback, adversaries, schedules


class Usual(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.add, self.subtract = tf.function(self._add), tf.function(self._subtract)

    def on_train_begin(self, logs=None):
        # TensorFlow's, which are read and written without Keras in between.
        self.variables = [v.value for v in self.model.trainable_variables]

    def on_train_batch_begin(self, batch, logs=None):
        self.noise = self.add()

    def on_train_batch_end(self, batch, logs=None):
        self.subtract(self.noise)
        self.noise = None

    def _add(self):
        noise = [tf.random.normal(v.shape, stddev=0.01) for v in self.variables]
        for v, n in zip(self.variables, noise, strict=True):
            v.assign_add(n)
        return noise

    def _subtract(self, noise):
        for v, n in zip(self.variables, noise, strict=True):
            v.assign_sub(n)


class NumPy(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        weights = self.model.get_weights()
        rng = np.random.default_rng()
        self.noise = [rng.normal(scale=0.01, size=w.shape) for w in weights]
        self.model.set_weights([w + n for w, n in zip(weights, self.noise, strict=True)])

    def on_train_batch_end(self, batch, logs=None):
        weights = self.model.get_weights()
        self.model.set_weights([w - n for w, n in zip(weights, self.noise, strict=True)])


def mlp():
    hidden = [keras.layers.Dense(1024, activation="relu") for _ in range(2)]
    return keras.Sequential([keras.Input((784,)), *hidden, keras.layers.Dense(10)])


def dense():
    layer = keras.layers.Dense(4000, use_bias=False)
    return keras.Sequential([keras.Input((2500,)), layer])


def cnn(dense=()):
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(32, 3, activation="relu"),
            *([] if dense else [keras.layers.MaxPooling2D(2)]),
            keras.layers.Conv2D(64, 3, activation="relu"),
            keras.layers.MaxPooling2D(2),
            keras.layers.Flatten(),
            *(keras.layers.Dense(units, activation="relu") for units in dense),
            keras.layers.Dense(10),
        ]
    )


def lstm():
    return keras.Sequential([keras.Input((64, 32)), keras.layers.LSTM(256), keras.layers.Dense(10)])


def application(make):
    return lambda: make(
        weights=None, input_shape=(64, 64, 3), classes=10, classifier_activation=None
    )


BOTH = "heap kept", "page faults dear"
# A model, the batch, steps in a fit, and the conditions.
CASES = {
    "Dense(4000) of 2500, batch 1": (dense, 1, 20, BOTH),
    "MLP 784-1024-1024-10, batch 32": (mlp, 32, 40, BOTH),
    "MLP 784-1024-1024-10, batch 128": (mlp, 128, 40, BOTH),
    "keras.io's MNIST CNN, batch 128": (cnn, 128, 40, ["as it is"]),
    "CNN of 1.2 M weights, batch 128": (lambda: cnn(dense=[128]), 128, 10, ["as it is"]),
    "LSTM-256, 64 steps, batch 32": (lstm, 32, 20, ["as it is"]),
    "MobileNetV3Small, batch 32": (
        application(keras.applications.MobileNetV3Small),
        32,
        10,
        ["as it is"],
    ),
    "ResNet50, batch 32": (application(keras.applications.ResNet50), 32, 4, ["as it is"]),
}
WAYS = {
    "plain": lambda: [],
    "WeightNoiseCallback": lambda: [WeightNoiseCallback(0.01)],
    '  frequency="epoch"': lambda: [WeightNoiseCallback(0.01, frequency="epoch")],
    "  magnitude 0 so far": lambda: [
        WeightNoiseCallback(schedules.LinearRamp(0.0, 0.01, start_step=10**9, ramp_steps=1))
    ],
    "  draws_per_step=2": lambda: [WeightNoiseCallback(0.01, draws_per_step=2)],
    "  clean_gradient=0.5": lambda: [WeightNoiseCallback(0.01, clean_gradient=0.5)],
    "  adversaries.SAM()": lambda: [WeightNoiseCallback(adversaries.SAM())],
    "usual": lambda: [Usual()],
    "NumPy": lambda: [NumPy()],
}


def compiled(make, jit=False):
    model = make()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01), loss, jit_compile=jit)
    return model


def data(model, examples):
    """Noise, and one of ten labels for each."""
    rng = np.random.default_rng(0)
    x = rng.random((examples, *model.input_shape[1:]), dtype="float32")
    return x, rng.integers(0, 10, examples)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cases", default="", help="a regular expression")
    parser.add_argument("--jit", action="store_true", help="compile the training step with XLA")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        measure(arguments.only, arguments.rounds, arguments.jit)
        return
    jit = ["--jit"] if arguments.jit else []
    for case, (_, _, _, conditions) in CASES.items():
        for condition in conditions if re.search(arguments.cases, case) else ():
            print(describe(condition))
            options = "--rounds", arguments.rounds, *jit, "--only", case
            print(run_again(__file__, condition, *options), end="", flush=True)


def measure(case, rounds, jit):
    make, batch, steps, _ = CASES[case]
    ways = {way: (compiled(make, jit), callbacks()) for way, callbacks in WAYS.items()}
    model, _ = ways["plain"]
    x, y = data(model, batch * steps)
    taken = fit(ways, x, y, batch, rounds)
    weights = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    print(f"{case}, {weights:,} weights{', XLA' if jit else ''}")
    print("                               step   ratio  ns/weight  of usual")
    for way, seconds in taken.items():
        added = seconds - taken["plain"]
        share = added / (taken["usual"] - taken["plain"])
        print(
            f"  {way:24s} {1e3 * seconds:7.2f} ms  {seconds / taken['plain']:5.2f}"
            f"  {1e9 * added / weights:9.2f}  {share:8.2f}"
        )


if __name__ == "__main__":
    main()
