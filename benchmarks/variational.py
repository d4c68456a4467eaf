"""What a training step of one layer costs in `VariationalWeightNoise`, and in keras-proba's layers.

As ratios to the plain layer: Dense and Conv2D, the same estimator and the same divergence, in interleaved
rounds. The clock is the process's CPU time, which others on the machine disturb less; with `--wall`, that on
the wall. Beside it, the variables that training keeps, as a ratio too. keras-proba is measured where it is
installed (`pip install --no-deps keras-proba`).

Run it: `python benchmarks/variational.py`
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import time

import keras
import numpy as np
from rounds import medians

from keras_weightnoise import VariationalWeightNoise

try:
    import keras_proba
except ModuleNotFoundError:
    keras_proba = None

ESTIMATORS = {
    "Dense": {
        "shared": "DenseReparameterization",
        "flipout": "DenseFlipout",
        "local_reparameterization": "DenseLocalReparameterization",
    },
    "Conv2D": {"shared": "Conv2DReparameterization", "flipout": "Conv2DFlipout"},
}
EXAMPLES = 60_000


def layers(kind, *args):
    """Makers of a layer of a kind, by name."""
    plain = getattr(keras.layers, kind)
    makers = {"plain": lambda: plain(*args, activation="relu")}
    for estimator, name in ESTIMATORS[kind].items():
        makers[estimator] = lambda estimator=estimator: VariationalWeightNoise(
            plain(*args, activation="relu"), examples=EXAMPLES, estimator=estimator
        )
        if keras_proba:
            makers[f"{estimator}, keras-proba"] = lambda name=name: getattr(
                keras_proba.layers, name
            )(*args, activation="relu", kl_weight=1 / EXAMPLES)
    return makers


def step(layer, x, jit):
    """A training step, and the bytes of the variables of layer and optimizer."""
    model = keras.Sequential([keras.Input(x.shape[1:]), layer])
    model.compile(keras.optimizers.Adam(1e-4), "mse", jit_compile=jit)
    y = np.zeros(model.compute_output_shape(x.shape), "float32")
    model.train_on_batch(x, y)
    variables = {id(v): v for v in (*model.variables, *model.optimizer.variables)}
    held = sum(int(np.prod(v.shape)) * 4 for v in variables.values())
    return lambda: model.train_on_batch(x, y), held


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--jit", action="store_true", help="compile the training step with XLA")
    parser.add_argument("--wall", action="store_true", help="the clock on the wall")
    arguments = parser.parse_args()
    clock = time.perf_counter if arguments.wall else time.process_time
    rng = np.random.default_rng(0)
    for kind, args, shape in (
        ("Dense", (1024,), (1024,)),
        ("Conv2D", (64, 3), (16, 16, 64)),
    ):
        x = rng.random((arguments.batch, *shape), dtype="float32")
        made = {name: step(make(), x, arguments.jit) for name, make in layers(kind, *args).items()}
        ways = {name: run for name, (run, _) in made.items()}
        taken = medians(ways, arguments.rounds, arguments.repeats, clock)
        print(f"{kind}{args} on {shape}, batch {arguments.batch}{', XLA' * arguments.jit}")
        for name, seconds in taken.items():
            held = made[name][1] / made["plain"][1]
            print(
                f"  {name:38s} {1e3 * seconds:7.2f} ms  {seconds / taken['plain']:5.2f}   "
                f"variables {held:4.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
