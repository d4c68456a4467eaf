"""What a robustness sweep costs, as a ratio to the bare `evaluate` calls that it makes.

Interleaved rounds, medians. A sweep is timed as a whole: tracing, draws, assigning and restoring are
all in it. "by hand" is what one writes without it: NumPy noise, `get_weights`, `set_weights`, `evaluate`.

Run it: `python benchmarks/sweep.py`
"""

import argparse
import functools
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from rounds import medians
from sklearn.datasets import load_digits

from keras_weightnoise import robustness_sweep

MAGNITUDES = (0.01, 0.02, 0.05, 0.1, 0.2)


def mlp():
    hidden = [keras.layers.Dense(128, activation="relu") for _ in range(2)]
    return keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), *hidden, keras.layers.Dense(10)]
    )


def cnn():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(16, 3, activation="relu"),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )


def evaluate(model, x, y, draws):
    for _ in range(1 + draws * len(MAGNITUDES)):
        model.evaluate(x, y, verbose=0)


def by_hand(model, x, y, draws):
    clean = model.get_weights()
    model.evaluate(x, y, verbose=0)
    for draw in range(draws):
        for magnitude in MAGNITUDES:
            rng = np.random.default_rng(draw)
            model.set_weights([w + magnitude * rng.normal(size=w.shape) for w in clean])
            model.evaluate(x, y, verbose=0)
    model.set_weights(clean)


def sweep(model, x, y, draws):
    robustness_sweep(model, (x, y), magnitudes=MAGNITUDES, draws=draws, verbose=0)


WAYS = {"bare evaluate": evaluate, "robustness_sweep": sweep, "by hand": by_hand}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--draws", type=int, default=10)
    arguments = parser.parse_args()
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32").reshape(-1, 8, 8, 1)
    for case, make in {"MLP 64-128-128-10": mlp, "CNN 16-32-10": cnn}.items():
        model = make()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(loss=loss, metrics=["accuracy"])
        sweep(model, x, y, 1)  # Compiles what is compiled once per process.
        ways = {
            name: functools.partial(way, model, x, y, arguments.draws) for name, way in WAYS.items()
        }
        taken = medians(ways, arguments.rounds)
        count = 1 + arguments.draws * len(MAGNITUDES)
        print(f"{case}, {count} evaluations on {len(x)} digits")
        for name, seconds in taken.items():
            ratio = seconds / taken["bare evaluate"]
            print(f"  {name:20s} {1e3 * seconds / count:7.2f} ms each   {ratio:5.2f}")


if __name__ == "__main__":
    main()
