"""What benchmarks share: times of several ways to do one thing, and the conditions they are taken in.

On a machine whose speed drifts: interleaved rounds, medians.
"""

import os
import platform
import subprocess
import sys
import time

import keras
import numpy as np

# What large buffers cost depends on who keeps them when they are freed. Where TensorFlow has oneDNN on (by
# default on CPUs with VNNI, such as Xeons since 2019 and EPYCs since 2022), its own allocator does. Elsewhere
# it is glibc, which gives back what is larger than 32 MB, or less: each page of a new buffer is then a fault.
CONDITIONS = {
    "as it is": {},
    "heap kept": {
        "TF_ENABLE_ONEDNN_OPTS": "0",
        "MALLOC_MMAP_THRESHOLD_": str(2**32),
        "MALLOC_TRIM_THRESHOLD_": str(2**34),
    },
    "page faults dear": {
        "TF_ENABLE_ONEDNN_OPTS": "0",
        "MALLOC_MMAP_THRESHOLD_": str(2**16),
        "MALLOC_TRIM_THRESHOLD_": "0",
    },
}


def run_again(path, condition, *arguments):
    """What a script prints, run in a process of its own in one of the conditions."""
    command = [sys.executable, path, *map(str, arguments)]
    environment = os.environ | CONDITIONS[condition]
    return subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=environment
    ).stdout


def describe(condition="as it is"):
    """The condition and the machine, for the head of a table."""
    found = f"{condition}, {os.cpu_count()} x {_cpu('model name') or platform.processor()}"
    if CONDITIONS[condition]:
        return found
    return f"{found}, oneDNN {'on' if 'vnni' in _cpu('flags') else 'off'} by default"


def _cpu(what):
    """A line of what Linux says of the processor."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith(what))
    except (OSError, StopIteration):
        return ""


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
