"""What `WeightNoiseCallback` adds to a step, by the number of weights and of the variables they are in.

The step does next to nothing: its loss is the sum of the weights. Interleaved rounds, medians. "usual" is
that of `step.py`. With a magnitude of 0 nothing is drawn: what is left is the callback's Python and the
ops that ask whether there is noise.

Run it: `python benchmarks/scaling.py`
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from rounds import describe, fit
from step import WAYS

CASES = [  # Weights, variables, steps in a fit.
    (10, 1, 300),
    (10**4, 10, 200),
    (10**5, 10, 100),
    (10**6, 1, 40),
    (10**6, 10, 40),
    (10**6, 100, 40),
    (10**6, 1000, 20),
    (10**7, 10, 10),
    (10**8, 10, 3),
]
SHOWN = ["plain", "WeightNoiseCallback", "  magnitude 0 so far", "usual"]


class Sum(keras.layers.Layer):
    def __init__(self, weights, variables):
        super().__init__()
        self.parts = [
            self.add_weight(shape=(weights // variables,), initializer="zeros")
            for _ in range(variables)
        ]

    def call(self, x):
        return x * sum(keras.ops.sum(part) for part in self.parts)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(describe())
    print(f"{'weights':>11s} {'variables':>9s}  {'plain':>10s}  added: noise, magnitude 0, usual")
    for weights, variables, steps in CASES:
        ways = {}
        for way in SHOWN:
            model = keras.Sequential([keras.Input((1,)), Sum(weights, variables)])
            model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=False)
            ways[way] = model, WAYS[way]()
        x = np.ones((steps, 1), "float32")
        taken = fit(ways, x, x, 1, arguments.rounds)
        plain, *others = (1e3 * taken[way] for way in SHOWN)
        added = "".join(f"  {each - plain:7.2f} ms" for each in others)
        per_weight = "".join(f"  {1e6 * (each - plain) / weights:6.2f}" for each in others)
        print(f"{weights:11,d} {variables:9d}  {plain:7.2f} ms{added}", end="")
        print(f"   ns per weight:{per_weight}" if weights >= 10**6 else "", flush=True)


if __name__ == "__main__":
    main()
