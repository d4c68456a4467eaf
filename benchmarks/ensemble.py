"""What an ensemble's `predict` costs, as ratios to predictions of the bare model in the same run.

Interleaved rounds, medians, for an MLP on scikit-learn's digits. "set_weights" is the recipe one finds in
forums: for each member NumPy noise, `set_weights`, `predict`.

Run it: `python benchmarks/ensemble.py`
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from rounds import describe, medians
from sklearn.datasets import load_digits

from keras_weightnoise.models.ensemble import WeightNoiseEnsemble


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--members", type=int, default=16)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--width", type=int, default=128, help="units of the hidden layer")
    arguments = parser.parse_args()
    members = arguments.members
    x = load_digits().data.astype("float32") / 16
    hidden = keras.layers.Dense(arguments.width, activation="relu")
    model = keras.Sequential(
        [keras.Input((64,)), hidden, keras.layers.Dense(10, activation="softmax")]
    )
    ensemble = WeightNoiseEnsemble(model, 0.1, members)
    rng = np.random.default_rng(0)
    options = {"batch_size": arguments.batch, "verbose": 0}

    def bare():
        for _ in range(members):
            model.predict(x, **options)

    def set_weights():
        clean = model.get_weights()
        for _ in range(members):
            model.set_weights([w + rng.normal(0, 0.1, w.shape) for w in clean])
            model.predict(x, **options)
        model.set_weights(clean)

    ways = {
        f"{members} x model.predict": bare,
        f"{members} x set_weights, predict": set_weights,
        "ensemble.predict": lambda: ensemble.predict(x, **options),
        "ensemble.predict_members": lambda: ensemble.predict_members(x, arguments.batch),
        "ensemble.predict_spread": lambda: ensemble.predict_spread(x, arguments.batch),
    }
    taken = medians(ways, arguments.rounds)
    first, *_ = ways
    print(describe())
    print(f"MLP 64-{arguments.width}-10, {len(x)} digits, batch {arguments.batch}")
    for name, seconds in taken.items():
        print(f"  {name:27s} {1e3 * seconds:8.1f} ms   {seconds / taken[first]:5.2f}")


if __name__ == "__main__":
    main()
