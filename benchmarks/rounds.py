"""Times of several ways to do one thing, on a machine whose speed drifts: interleaved rounds, medians."""

import time

import keras
import numpy as np


def interleave(names, rounds):
    """Each name once in each round, in another order each time: the first may find a cooler machine."""
    rng = np.random.default_rng(0)
    for _ in range(rounds):
        yield from rng.permutation(list(names))


def medians(ways, rounds, repeats=1, clock=time.perf_counter):
    """Seconds that each of these functions takes, by a clock."""
    seconds = {name: [] for name in ways}
    for way in ways.values():
        way()  # Traces.
    for name in interleave(ways, rounds):
        start = clock()
        for _ in range(repeats):
            ways[name]()
        seconds[name].append((clock() - start) / repeats)
    return {name: float(np.median(each)) for name, each in seconds.items()}


class Stopwatch(keras.callbacks.Callback):
    """Collects the seconds that steps take, but for those that are first in a fit."""

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


def fit(ways, x, y, batch, rounds):
    """Seconds per step, of pairs of a compiled model and callbacks.

    From the end of one step to the end of the next. (The whole of a `fit` says little: now and then, as
    of TensorFlow 2.21, tf.data takes as long again to shut down.)
    """
    watches = {name: Stopwatch() for name in ways}
    for name in interleave(ways, rounds):
        model, callbacks = ways[name]
        # Ours is last: what others do when a step ends counts.
        callbacks = [*callbacks, watches[name]]
        model.fit(x, y, batch_size=batch, verbose=0, callbacks=callbacks)
    return {name: float(np.median(watch.seconds)) for name, watch in watches.items()}
