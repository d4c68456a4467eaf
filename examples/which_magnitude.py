"""
Title: How much noise to train with?
Description: A validation curve over the magnitude, beside early stopping, weight decay and Dropout.
Accelerator: None

There is no magnitude that suits all networks. The one that suits yours is found as any other hyperparameter
is: train with several, and keep the one that is best on data held out. This script shows how, on a task where
noise matters: 40 % of the labels are redrawn at random, of the held-out ones, too, as in practice one has no
clean ones. And it shows what else to try before: each of the usual regularizers gets the same treatment.

Run it: `python examples/which_magnitude.py` (two minutes on two cores).
"""

import os

import common
import keras
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from keras_weightnoise import WeightNoiseCallback, schedules

quick = bool(os.environ.get("QUICK"))
parser = common.parser(__doc__)
parser.add_argument("--seeds", type=int, default=1 if quick else 3)
parser.add_argument("--epochs", type=int, default=2 if quick else 50)
arguments = parser.parse_args()

"""
## Data

800 digits to learn from and 200 to choose by, both with wrong labels among them. The other 797 tell, in the
end, how well that went: with the labels they came with.
"""

digits, truth = load_digits(return_X_y=True)
digits = (digits / 16).astype("float32")
BATCH = 80


def split(seed):
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(digits))
    labels = truth.copy()
    redrawn = rng.random(len(labels)) < 0.4
    labels[redrawn] = rng.integers(0, 10, redrawn.sum())
    train, validation, test = order[:800], order[800:1000], order[1000:]
    return (
        (digits[train], labels[train]),
        (digits[validation], labels[validation]),
        (
            digits[test],
            truth[test],
        ),
    )


"""
## One run

The noise sets in gradually, over the first fifth of the steps: a network that has learned nothing yet is lost
under noise that it bears later.
"""


def train(seed, noise=0.0, decay=0.0, dropout=0.0, stop=False):
    """Returns the accuracy on validation data and on test data."""
    keras.utils.set_random_seed(seed)
    data, validation, test = split(seed)
    layers = [keras.Input((64,))]
    for _ in range(2):
        layers += [keras.layers.Dense(128, activation="relu"), keras.layers.Dropout(dropout)]
    model = keras.Sequential([*layers, keras.layers.Dense(10, activation="softmax")])
    optimizer = keras.optimizers.AdamW(weight_decay=decay)
    model.compile(
        optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], steps_per_execution=10
    )
    callbacks = []
    if noise:
        steps = arguments.epochs * len(data[0]) // BATCH
        ramp = schedules.LinearRamp(0.0, noise, start_step=0, ramp_steps=steps // 5)
        callbacks.append(WeightNoiseCallback(ramp))
    if stop:
        callbacks.append(
            keras.callbacks.EarlyStopping("val_accuracy", patience=5, restore_best_weights=True)
        )
    model.fit(
        *data,
        epochs=arguments.epochs,
        batch_size=BATCH,
        validation_data=validation if stop else None,
        callbacks=callbacks,
        verbose=0,
    )
    return [np.mean(np.argmax(model(x), axis=1) == y) for x, y in (validation, test)]


"""
## Every way, every setting

The grid is coarse: magnitudes that differ by less than a half rarely differ in what they do.
"""

grid = {
    "nothing": [{}],
    "early stopping": [{"stop": True}],
    "weight decay": [{"decay": value} for value in ([1.0] if quick else [0.3, 1.0, 3.0, 10.0])],
    "Dropout": [{"dropout": value} for value in ([0.5] if quick else [0.3, 0.5, 0.7, 0.8])],
    "weight noise": [
        {"noise": value} for value in ([0.1] if quick else [0.02, 0.05, 0.07, 0.1, 0.13, 0.17])
    ],
}
progress = keras.utils.Progbar(
    arguments.seeds * sum(map(len, grid.values())), unit_name="run", verbose=2 if quick else 1
)
found = {}
for way, settings in grid.items():
    runs = []
    for each in settings:
        runs.append([])
        for seed in range(arguments.seeds):
            runs[-1].append(train(seed, **each))
            progress.add(1)
    found[way] = np.array(runs)  # By setting, seed, and data.

"""
## The choice

By the validation data alone. What the test data say of the setting chosen is what to report: mean and
standard deviation over the seeds.
"""


def deviation(values):
    return values.std(axis=-1, ddof=min(1, arguments.seeds - 1))


print("\nway              setting  validation           test")
tests = {}
for way, runs in found.items():
    best = int(np.argmax(runs[..., 0].mean(axis=1)))
    tests[way] = runs[best, :, 1]
    setting = next(iter(grid[way][best].values()), "")
    print(
        f"{way:15s} {'' if setting is True else setting:>8}  {runs[best, :, 0].mean():10.3f}  "
        f"{tests[way].mean():.3f} +- {deviation(tests[way]):.3f}"
    )

magnitudes = [0.0] + [each["noise"] for each in grid["weight noise"]]
curves = np.concatenate([found["nothing"], found["weight noise"]])
common.style()
figure, ax = plt.subplots(figsize=(7.4, 4.8), layout="constrained")
for i, (name, color) in enumerate({"validation": common.GRAY, "test": common.BLUE}.items()):
    label = f"noise, {name}" + ("" if i else " (wrong labels)")
    mean, spread = curves[..., i].mean(axis=1), deviation(curves[..., i])
    ax.errorbar(magnitudes, mean, spread, marker="o", color=color, capsize=3, label=label)
chosen = magnitudes[1 + int(np.argmax(found["weight noise"][..., 0].mean(axis=1)))]
ax.axvline(chosen, color=common.BLUE, ls=":", label=f"chosen on validation: {chosen:g}")
styles = {"early stopping": "-", "weight decay": "--", "Dropout": "-."}
for way, style in styles.items():
    ax.axhline(tests[way].mean(), color=common.ORANGE, ls=style, lw=1.5, label=f"{way}, test")
ax.set(xlabel="standard deviation of the noise", ylabel="accuracy")
figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2)
common.save(figure, arguments, "which_magnitude")
