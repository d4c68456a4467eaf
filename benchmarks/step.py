"""What a training step costs under weight noise, as ratios to a plain step in the same run.

Interleaved rounds, medians over all their steps, from the end of one to the end of the next. (The whole
of a `fit` says little: now and then, as of TensorFlow 2.21, tf.data takes as long again to shut down.)
"usual" is the callback one finds in forums: `tf.random.normal` added in `on_train_batch_begin` and
subtracted in `on_train_batch_end`.

Run it: `python benchmarks/step.py`
"""

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from keras_weightnoise import WeightNoiseCallback, schedules


class Usual(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        self.noise = [
            tf.random.normal(v.shape, stddev=0.01) for v in self.model.trainable_variables
        ]
        for v, n in zip(self.model.trainable_variables, self.noise, strict=True):
            v.assign_add(n)

    def on_train_batch_end(self, batch, logs=None):
        for v, n in zip(self.model.trainable_variables, self.noise, strict=True):
            v.assign_sub(n)


class Stopwatch(keras.callbacks.Callback):
    """Collects the seconds that steps take, without the first of each fit."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def on_train_begin(self, logs=None):
        self.last = None

    def on_train_batch_end(self, batch, logs=None):
        now = time.perf_counter()
        if self.last is not None:
            self.seconds.append(now - self.last)
        self.last = now


def mlp():
    hidden = [keras.layers.Dense(1024, activation="relu") for _ in range(2)]
    return keras.Sequential([keras.Input((784,)), *hidden, keras.layers.Dense(10)])


def cnn():
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.MaxPooling2D(2),
            keras.layers.Conv2D(64, 3, activation="relu"),
            keras.layers.MaxPooling2D(2),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )


CASES = {
    "MLP 784-1024-1024-10, batch 32": (mlp, 32),
    "MLP 784-1024-1024-10, batch 128": (mlp, 128),
    "CNN of 34,826 weights, batch 128": (cnn, 128),
}
WAYS = {
    "plain": lambda: [],
    "WeightNoiseCallback": lambda: [WeightNoiseCallback(0.01)],
    "same, magnitude 0 so far": lambda: [
        WeightNoiseCallback(schedules.LinearRamp(0.0, 0.01, start_step=10**9, ramp_steps=1))
    ],
    "usual": lambda: [Usual()],
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--jit", action="store_true", help="compile the training step with XLA")
    arguments = parser.parse_args()
    for case, (make, batch) in CASES.items():
        rng = np.random.default_rng(0)
        model = make()
        x = rng.random((batch * arguments.steps, *model.input_shape[1:]), dtype="float32")
        y = rng.integers(0, 10, len(x))
        trained = {}
        for way, callbacks in WAYS.items():
            model = make()
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile(keras.optimizers.SGD(0.01), loss, jit_compile=arguments.jit)
            trained[way] = (model, callbacks(), Stopwatch())
        for _ in range(arguments.rounds):
            # In another order each time: what runs first may find a cooler machine.
            for way in rng.permutation(list(trained)):
                model, callbacks, watch = trained[way]
                # Ours is last: what others do when a step ends counts.
                callbacks = [*callbacks, watch]
                model.fit(x, y, batch_size=batch, verbose=0, callbacks=callbacks)
        plain = np.median(trained["plain"][2].seconds)
        print(f"{case}{', XLA' if arguments.jit else ''}")
        for way, (_, _, watch) in trained.items():
            step = np.median(watch.seconds)
            print(f"  {way:26s} {1e3 * step:7.2f} ms   {step / plain:5.2f}")


if __name__ == "__main__":
    main()
