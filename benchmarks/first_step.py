"""What the first step costs under weight noise, as a ratio to a plain first step: it traces and compiles.

From the call of `fit` to the end of its first step. And of an ensemble of 16, the first `predict` of a batch,
to that of its model. Each time in a process of its own, as there is one first in each; interleaved, medians.

Run it: `python benchmarks/first_step.py`, or `--cases MLP`.
"""

import argparse
import os
import re
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from rounds import describe, interleave
from step import CASES, WAYS, compiled, data

from keras_weightnoise import WeightNoiseEnsemble

STEPS = ["plain", "WeightNoiseCallback", "usual"]
PREDICTS = ["predict", "predict of WeightNoiseEnsemble"]


class First(keras.callbacks.Callback):
    """Notes the end of the first step."""

    def on_train_batch_end(self, batch, logs=None):
        self.end = time.perf_counter()
        self.model.stop_training = True


def first_step(case, way):
    """Seconds of the first step of this process."""
    make, batch, *_ = CASES[case]
    model = compiled(make)
    x, y = data(model, batch)
    first = First()
    start = time.perf_counter()
    model.fit(x, y, batch_size=batch, verbose=0, callbacks=[*WAYS[way](), first])
    return first.end - start


def first_predict(case, way):
    """Seconds of the first `predict` of this process."""
    make, batch, *_ = CASES[case]
    model = make()
    x, _ = data(model, batch)
    predictor = model if way == "predict" else WeightNoiseEnsemble(model, 0.01, members=16)
    start = time.perf_counter()
    predictor.predict(x[:batch], batch_size=batch, verbose=0)
    return time.perf_counter() - start


def compare(case, ways, rounds):
    """Prints the medians of several ways, each time in a process of its own."""
    seconds = {way: [] for way in ways}
    for way in interleave(ways, rounds):
        command = [sys.executable, __file__, "--only", case, way]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        seconds[way].append(float(output))
    taken = {way: float(np.median(each)) for way, each in seconds.items()}
    print(f"{case}, {describe()}")
    for way, each in taken.items():
        print(f"  {way:30s} {each:6.2f} s  {each / taken[ways[0]]:5.2f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cases", default="ResNet50|MobileNet", help="a regular expression")
    parser.add_argument("--only", nargs=2, metavar=("CASE", "WAY"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        first = first_predict if arguments.only[1] in PREDICTS else first_step
        print(first(*arguments.only))
        return
    for case in CASES:
        if not re.search(arguments.cases, case):
            continue
        compare(case, STEPS, arguments.rounds)
        compare(case, PREDICTS, arguments.rounds)


if __name__ == "__main__":
    main()
