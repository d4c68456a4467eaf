"""What a training step of one Dense layer costs in `GaussianWeightNoise`, as ratios to the bare layer.

Interleaved rounds, medians over all their steps.

Run it: `python benchmarks/wrapper.py`
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from rounds import describe, fit

from keras_weightnoise import GaussianWeightNoise

WAYS = {
    "plain": lambda layer: layer,
    "shared": lambda layer: GaussianWeightNoise(layer, 0.01),
    "flipout": lambda layer: GaussianWeightNoise(layer, 0.01, estimator="flipout"),
    "local_reparameterization": lambda layer: GaussianWeightNoise(
        layer, 0.01, estimator="local_reparameterization"
    ),
    '  relative_to="channel_max"': lambda layer: GaussianWeightNoise(
        layer, 0.01, relative_to="channel_max", estimator="local_reparameterization"
    ),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--widths", type=int, nargs="+", default=[256, 1024, 2048])
    parser.add_argument("--jit", action="store_true", help="compile the training step with XLA")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    print(describe())
    for width in arguments.widths:
        x = rng.random((arguments.batch * arguments.steps, width), dtype="float32")
        ways = {}
        for way, wrap in WAYS.items():
            layer = wrap(keras.layers.Dense(width, activation="relu"))
            model = keras.Sequential([keras.Input((width,)), layer])
            model.compile(keras.optimizers.SGD(0.01), "mse", jit_compile=arguments.jit)
            ways[way] = model, []
        taken = fit(ways, x, x, arguments.batch, arguments.rounds)
        print(f"Dense({width}), batch {arguments.batch}{', XLA' if arguments.jit else ''}")
        for way, seconds in taken.items():
            print(
                f"  {way:28s} {1e3 * seconds:7.2f} ms  {seconds / taken['plain']:5.2f}", flush=True
            )


if __name__ == "__main__":
    main()
