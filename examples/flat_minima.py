"""
Title: Methods that look for flat minima
Description: SAM, ASAM, RWP, m-RWP and LPF-SGD at their published magnitudes, beside plain training.
Accelerator: None

Each of these methods takes its gradients somewhere beside the weights, so that training ends where the loss
is low all around. Here each trains the same network, from the same starts, for as many steps, with a part of
the labels redrawn: accuracy is that on clean test images after the last step, and beside it is the standard
deviation of noise in the weights at which 0.05 of that accuracy is lost. All magnitudes are the published
ones: nothing is tuned here.

Run it: `python examples/flat_minima.py` (three to four minutes), or with `--data-dir` on MNIST or
Fashion-MNIST.

On scikit-learn's digits (3 seeds, TensorFlow 2.21): accuracy 0.882 ± 0.017 plain, RWP 0.911 ± 0.021, m-RWP
0.901 ± 0.014, LPF-SGD 0.891 ± 0.015, SAM 0.906 ± 0.030, ASAM 0.910 ± 0.017. Noise that is borne: 0.026 plain,
0.025 to 0.029 with noise, 0.034 and 0.035 with ASAM and SAM, each ± 0.004 to 0.006.
"""

import os
import time

import common
import keras
import matplotlib.pyplot as plt
import numpy as np

from keras_weightnoise import noise_tolerance, recipes

QUICK = bool(os.environ.get("QUICK"))

parser = common.parser(__doc__)
parser.add_argument("--seeds", type=int, default=1 if QUICK else 3, help="networks of each method")
parser.add_argument("--wrong", type=float, default=0.4, help="share of the labels redrawn")
arguments = parser.parse_args()
(x, y), test = common.load(arguments, train=1000)
STEPS = common.SEEN // 64

METHODS = {
    "plain": lambda: [],
    "RWP": lambda: [recipes.rwp(steps=STEPS)],
    "m-RWP": lambda: [recipes.m_rwp(steps=STEPS)],
    "LPF-SGD": lambda: [recipes.lpf_sgd(steps=STEPS)],
    "SAM": lambda: [recipes.sam()],
    "ASAM": lambda: [recipes.asam()],
}

"""
## Training
"""


def wrong_labels(seed):
    """The labels, a share of them redrawn."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(len(y)) < arguments.wrong, rng.integers(0, 10, len(y)), y)


accuracy, borne, seconds = ({name: [] for name in METHODS} for _ in range(3))
for seed in range(arguments.seeds):
    labels = wrong_labels(seed)
    for name, callbacks in METHODS.items():
        keras.utils.set_random_seed(seed)
        begin = time.perf_counter()
        model = common.trained((x, labels), callbacks=callbacks())
        seconds[name].append(time.perf_counter() - begin)
        accuracy[name].append(model.evaluate(*test, verbose=0, return_dict=True)["accuracy"])
        tolerance = noise_tolerance(
            model,
            test,
            drop=0.05,
            metric="accuracy",
            high=0.25,
            draws=5,
            bisections=3 if QUICK else 8,
            verbose=0,
        )
        borne[name].append(tolerance.magnitude)

"""
## What they are worth
"""


def spread(values):
    """Mean and standard deviation, as text."""
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1) if len(values) > 1 else 0.0:.3f}"


print(
    f"{arguments.wrong:.0%} of the labels of {common.dataset(arguments)} redrawn, {arguments.seeds} seeds"
)
print(f"{'':10s}{'accuracy':>16s}{'noise borne':>16s}{'time of plain':>15s}")
for name in METHODS:
    ratio = np.median(np.divide(seconds[name], seconds["plain"]))
    print(f"{name:10s}{spread(accuracy[name]):>16s}{spread(borne[name]):>16s}{ratio:15.1f}")

common.style()
figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
names = list(METHODS)[::-1]
for ax, values, label in [
    (axes[0], accuracy, "accuracy on clean test images"),
    (axes[1], borne, "noise borne (standard deviation)"),
]:
    for name in names:
        color = common.GRAY if name == "plain" else common.BLUE
        ax.plot(values[name], [name] * len(values[name]), "o", color=color, alpha=0.4)
        ax.plot(np.mean(values[name]), name, "|", color=color, markersize=22, markeredgewidth=3)
    ax.set(xlabel=label, ylim=(-0.5, len(names) - 0.5))
common.save(figure, arguments, "flat_minima")
