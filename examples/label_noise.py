"""
Title: Weight noise against wrong labels
Description: Train a small network on digits of which many are mislabelled, with and without noise.
Accelerator: None

A network that is large for its data learns wrong labels by heart, and pays for it on clean test data.
Noise in the weights makes it hard to learn anything by heart: what a weight stores to the last digit is
gone in the next step. This script measures how much of the loss that wins back.

The data are scikit-learn's 8x8 digits. In the training set, a share of the labels is redrawn at random.
The standard deviation of the noise is chosen on a validation split that has wrong labels too, as in
practice one has no clean ones.

Run it: `python examples/label_noise.py` (under a minute on two cores).
"""

import argparse
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from keras_weightnoise import WeightNoiseCallback

parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
parser.add_argument("--redrawn", type=float, default=0.4, help="share of training labels redrawn")
parser.add_argument("--stddevs", type=float, nargs="+", default=[0.05, 0.1, 0.15])
parser.add_argument("--seeds", type=int, default=3)
parser.add_argument("--epochs", type=int, default=50, help="a multiple of 5")
parser.add_argument("--out", type=pathlib.Path, default="out", help="folder of the figure")
arguments = parser.parse_args()

"""
## Data

1000 digits to learn from, a fifth of them for validation; the other 797 are the test set, with the labels
they came with.
"""

digits, truth = load_digits(return_X_y=True)
digits = (digits / 16).astype("float32")


def split(seed):
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(digits))
    train, validation, test = order[:800], order[800:1000], order[1000:]
    labels = truth.copy()
    redrawn = rng.random(len(labels)) < arguments.redrawn
    labels[redrawn] = rng.integers(0, 10, redrawn.sum())
    return (
        (digits[train], labels[train]),
        (digits[validation], labels[validation]),
        (digits[test], truth[test]),
    )


"""
## Training

Noise is one callback. With a standard deviation of 0 there is none.
"""


def train(stddev, seed):
    """Returns the accuracy on validation data, and on test data after every fifth epoch."""
    keras.utils.set_random_seed(seed)
    train_data, validation_data, test_data = split(seed)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(
        "adam", "sparse_categorical_crossentropy", metrics=["accuracy"], steps_per_execution=10
    )
    history = model.fit(
        *train_data,
        epochs=arguments.epochs,
        batch_size=80,
        validation_data=test_data,
        validation_freq=5,
        callbacks=[WeightNoiseCallback(stddev)] if stddev else [],
        verbose=0,
    )
    _, validation = model.evaluate(*validation_data, verbose=0)
    return validation, history.history["val_accuracy"]


stddevs = [0.0, *arguments.stddevs]
progress = keras.utils.Progbar(len(stddevs) * arguments.seeds, unit_name="run")
validation = np.zeros((len(stddevs), arguments.seeds))
test = np.zeros((len(stddevs), arguments.seeds, arguments.epochs // 5))
for i, stddev in enumerate(stddevs):
    for seed in range(arguments.seeds):
        validation[i, seed], test[i, seed] = train(stddev, seed)
        progress.add(1)

"""
## Result

The standard deviation with the best validation accuracy is the one to report.
"""

chosen = 1 + int(np.argmax(validation[1:].mean(axis=1)))
print(f"\n{arguments.redrawn:.0%} of the training labels redrawn, {arguments.seeds} seeds")
print("stddev  validation accuracy  clean test accuracy")
for i, stddev in enumerate(stddevs):
    final = test[i, :, -1]
    mark = "  <- chosen on validation" if i == chosen else ""
    print(
        f"{stddev:6.2f}  {validation[i].mean():19.3f}  {final.mean():.3f} +- {final.std(ddof=1):.3f}"
        f"      {mark}"
    )
gain = test[chosen, :, -1] - test[0, :, -1]
print(f"Difference on test, seed by seed: {gain.mean():+.3f} +- {gain.std(ddof=1):.3f}")

fig, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
epochs = np.arange(5, arguments.epochs + 1, 5)
for i, color, label in (
    (0, "tab:gray", "without noise"),
    (chosen, "tab:blue", f"WeightNoiseCallback({stddevs[chosen]:g})"),
):
    ax.plot(epochs, test[i].mean(axis=0), color=color, label=label)
    ax.fill_between(epochs, test[i].min(axis=0), test[i].max(axis=0), color=color, alpha=0.2, lw=0)
ax.set(
    xlabel="epoch",
    ylabel="accuracy on clean test digits",
    title=f"Digits, {arguments.redrawn:.0%} of the training labels redrawn",
    xlim=(5, arguments.epochs),
)
ax.legend(loc="lower right", frameon=False)
ax.spines[["top", "right"]].set_visible(False)
arguments.out.mkdir(exist_ok=True)
fig.savefig(arguments.out / "label_noise.png", dpi=150)
print(f"Figure: {arguments.out / 'label_noise.png'}")
