"""What a robustness sweep and a loss landscape cost, as a ratio to the bare `evaluate` calls that they make.

Interleaved rounds, medians, of CPU time. A sweep is timed as a whole: tracing, draws, assigning and restoring
are all in it. "by hand" is what one writes without it: NumPy noise, `get_weights`, `set_weights`, `evaluate`.

Run it: `python benchmarks/sweep.py`
"""

import argparse
import functools
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from rounds import describe, medians
from sklearn.datasets import load_digits

from keras_weightnoise import layer_sensitivity, loss_landscape, robustness_sweep


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


# Each makes 49 evaluations.
MAGNITUDES = (0.01, 0.02, 0.03, 0.05, 0.1, 0.2)
DRAWS = 8
POINTS = 7
COUNT = 1 + len(MAGNITUDES) * DRAWS


def evaluate(model, x, y):
    for _ in range(COUNT):
        model.evaluate(x, y, verbose=0)


def by_hand(model, x, y):
    clean = model.get_weights()
    model.evaluate(x, y, verbose=0)
    for draw in range(DRAWS):
        for magnitude in MAGNITUDES:
            rng = np.random.default_rng(draw)
            model.set_weights([w + magnitude * rng.normal(size=w.shape) for w in clean])
            model.evaluate(x, y, verbose=0)
    model.set_weights(clean)


def sweep(model, x, y):
    robustness_sweep(model, (x, y), magnitudes=MAGNITUDES, draws=DRAWS, verbose=0)


def landscape(model, x, y):
    loss_landscape(model, (x, y), points=POINTS, verbose=0)


WAYS = {
    "bare evaluate": evaluate,
    "robustness_sweep": sweep,
    "loss_landscape": landscape,
    "by hand": by_hand,
}


def deep(layers):
    hidden = [keras.layers.Dense(32, activation="relu") for _ in range(layers - 1)]
    return keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), *hidden, keras.layers.Dense(10)]
    )


def sensitivity(layers, x, y, loss):
    """Seconds of `layer_sensitivity` in one draw, of a model that was never seen, and of its evaluations."""
    model = deep(layers)
    model.compile(loss=loss, metrics=["accuracy"])
    model.evaluate(x, y, verbose=0)
    start = time.process_time()
    layer_sensitivity(model, (x, y), 0.1, draws=1, verbose=0)
    middle = time.process_time()
    for _ in range(1 + layers):
        model.evaluate(x, y, verbose=0)
    return middle - start, time.process_time() - middle


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32").reshape(-1, 8, 8, 1)
    print(describe())
    for case, make in {"MLP 64-128-128-10": mlp, "CNN 16-32-10": cnn}.items():
        model = make()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(loss=loss, metrics=["accuracy"])
        ways = {name: functools.partial(way, model, x, y) for name, way in WAYS.items()}
        taken = medians(ways, arguments.rounds, clock=time.process_time)
        print(f"{case}, {COUNT} evaluations on {len(x)} digits")
        for name, seconds in taken.items():
            ratio = seconds / taken["bare evaluate"]
            print(f"  {name:20s} {1e3 * seconds / COUNT:7.2f} ms each   {ratio:5.2f}")


if __name__ == "__main__":
    main()
