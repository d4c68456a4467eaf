"""
Title: A year on phase-change memory
Description: Accuracy from one second to one year after programming, for three ways to train.
Accelerator: None

In phase-change memory, a weight is a pair of conductances. They are not quite what was programmed, they
drift towards zero for years, and each read of them is noisy. `noises.PCM` is a model of all three as
measured on devices (Nandakumar et al., 2019; Joshi et al., 2020,
https://doi.org/10.1038/s41467-020-16108-9). Its magnitude is the time since programming.

This script trains a network plainly, under Gaussian noise relative to the largest weight, and under the
noise of the devices itself, the latter two with clipped weights. Then each network is programmed on ten
chips, and evaluated over a year: as it is read, and with the outputs of each layer scaled by what the sum
of its weights has lost, as chips do ("global drift compensation").

It is noise of weights alone. That of a chip's inputs and outputs costs more (Rasch et al., 2023,
https://doi.org/10.1038/s41467-023-40770-4), so these are no forecasts of a chip's accuracy.

Run it: `python examples/drift.py` (under two minutes), or with `--data-dir` on MNIST or Fashion-MNIST.
"""

import common
import keras
import matplotlib.pyplot as plt
import numpy as np

from keras_weightnoise import WeightNoiseCallback, clip_weights, noises, robustness_sweep

parser = common.parser(__doc__)
parser.add_argument("--chips", type=int, default=10)
arguments = parser.parse_args()
train, test = common.load(arguments)

"""
## Training

Of the devices' noise, training sees a new chip in each step, 20 seconds after programming.
"""


def trained(noise):
    keras.utils.set_random_seed(arguments.seed)
    model = common.compiled(train[0].shape[1:])
    callbacks = []
    if noise is not None:
        clip_weights(model, 2.0)
        callbacks = [WeightNoiseCallback(noise, variables="kernels", seed=arguments.seed)]
    return common.trained(train, callbacks=callbacks, model=model)


"""
## A year

A draw is a chip, the same ones at all times and for all networks.
"""

times = {"1 s": 1, "1 min": 60, "1 h": 3600, "1 d": 86400, "1 mo": 2592000, "1 y": 31536000}


def evaluated(model, compensation):
    """Accuracies on the test data: a row for each time, a column for each chip."""
    sweep = robustness_sweep(
        model,
        test,
        noise=noises.PCM(compensation=compensation),
        magnitudes=tuple(times.values()),
        draws=arguments.chips,
        variables="kernels",
        seed=arguments.seed,
        verbose=0,
    )
    accuracies = np.zeros((len(times), arguments.chips))
    for row in sweep.rows:
        accuracies[list(times.values()).index(row.magnitude), row.draw] = row.metrics["accuracy"]
    return accuracies, sweep.clean["accuracy"]


common.style()
figure, panels = plt.subplots(1, 2, figsize=(10, 4.6), sharey=True, layout="constrained")
print(f"accuracy, mean and standard deviation of {arguments.chips} chips")
print(f"{'trained under':24s}exact " + "".join(f"{name:>15s}" for name in times))
for name, noise, line in (
    ("PCM noise", noises.PCM(), {"color": common.BLUE, "marker": "o"}),
    (
        "Gaussian noise",
        noises.Gaussian(0.1, relative_to="max"),
        {"color": common.GREEN, "marker": "^", "ls": "--"},
    ),
    ("no noise", None, {"color": common.ORANGE, "marker": "s", "ls": "-."}),
):
    model = trained(noise)
    for ax, compensation in zip(panels, (None, "global"), strict=True):
        accuracies, clean = evaluated(model, compensation)
        print(f"{name + (', compensated' if compensation else ''):28s}{clean:.3f} ", end="")
        print("".join(f"  {at.mean():.3f} ± {at.std(ddof=1):.3f}" for at in accuracies))
        common.band(ax, list(times.values()), accuracies, label=name, **line)
for ax, title in zip(panels, ("as read", "with global drift compensation"), strict=True):
    ax.set_xscale("log")
    ax.set_xticks(list(times.values()), list(times))
    ax.minorticks_off()
    ax.set(title=title, xlabel="time since programming")
panels[0].set_ylabel(f"test accuracy ({arguments.chips} chips)")
panels[1].legend(title="trained under", loc="lower left", alignment="left")
figure.suptitle(f"A small network on {common.dataset(arguments)}, in phase-change memory")
common.save(figure, arguments, "drift")
