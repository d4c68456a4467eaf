"""What memory noise takes: the peak above that of the same run without noise, in copies of the weights.

The most that was ever resident, of each run in a process of its own: as it is, and where all that is freed
is given back at once. A fit is plain gradient descent. "usual" is that of `step.py`. The code that XLA
compiles for noise counts, some 70 MB, however large the weights are.

Run it: `python benchmarks/memory.py`
"""

import argparse
import os
import resource

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from rounds import describe, run_again
from step import WAYS

from keras_weightnoise import (
    WeightNoiseEnsemble,
    layer_sensitivity,
    perturbed_weights,
    robustness_sweep,
)


def fit(way):
    return lambda model, x: model.fit(x, x, batch_size=1, verbose=0, callbacks=WAYS[way]())


def evaluate(model, x):
    for _ in range(3):
        model.evaluate(x, x, verbose=0)


def draws(model, x):
    with perturbed_weights(model, 0.01) as noisy:
        for _ in range(3):
            model.evaluate(x, x, verbose=0)
            noisy.redraw()


def sweep(model, x):
    robustness_sweep(model, (x, x), magnitudes=(0.01, 0.1), draws=2, verbose=0)


def sensitivity(model, x):
    layer_sensitivity(model, (x, x), noise=0.1, draws=2, verbose=0)


def predict(model, x):
    model.predict(x, verbose=0)


def ensemble(model, x):
    WeightNoiseEnsemble(model, 0.01, members=16).predict(x, verbose=0)


# By the run without noise: the runs with it, and what each is to take at most.
CASES = {
    ("fit", fit("plain")): {
        "WeightNoiseCallback": (fit("WeightNoiseCallback"), 1.15),
        '  frequency="epoch"': (fit('  frequency="epoch"'), 2.2),
        "usual": (fit("usual"), None),
    },
    ("evaluate", evaluate): {
        "perturbed_weights": (draws, 1.2),
        "robustness_sweep": (sweep, 1.2),
        "layer_sensitivity": (sensitivity, 1.2),
    },
    ("predict", predict): {"WeightNoiseEnsemble, 16 members": (ensemble, 0.5)},
}
RUNS = {name: run for name, run in CASES} | {
    name: run for runs in CASES.values() for name, (run, _) in runs.items()
}


def peak(name, width):
    """Megabytes that were resident at most in this process, which does one run."""
    # Of zeros: making random numbers takes more than what comes after.
    layers = [keras.layers.Dense(width, kernel_initializer="zeros") for _ in range(4)]
    model = keras.Sequential([keras.Input((width,)), *layers])
    model.compile(keras.optimizers.SGD(0.01), "mse", jit_compile=False)
    RUNS[name](model, np.zeros((8, width), "float32"))
    return most_resident()


def most_resident():
    try:
        with open("/proc/self/status") as status:
            (line,) = (each for each in status if each.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    except (OSError, ValueError):
        # Where there is no such file. It counts what the parent had before this process was its own.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--width", type=int, default=6144, help="of each of four Dense layers")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        print(peak(arguments.run, arguments.width))
        return
    copy = 4 * arguments.width**2 * 4 / 2**20
    for condition in "as it is", "page faults dear":
        print(f"4 x Dense({arguments.width}), {describe(condition)}")
        for (plain, _), runs in CASES.items():
            took = {
                name: float(
                    run_again(__file__, condition, "--width", arguments.width, "--run", name)
                )
                for name in (plain, *runs)
            }
            for name, (_, most) in runs.items():
                above = (took[name] - took[plain]) / copy
                bound = "" if most is None else f"   (at most {most})"
                print(f"  {name:32s} {above:6.2f} above {plain}{bound}", flush=True)


if __name__ == "__main__":
    main()
