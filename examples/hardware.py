"""
Title: Training for noisy hardware
Description: Weight noise and clipping in training, for a network whose weights will never be exact.
Accelerator: None

Analog chips hold weights as conductances, which come out a little different each time. The error is
about as large for all weights of a layer, and proportional to the largest of them. A network that has
seen such noise in training bears it; weights are clipped to two standard deviations, since one large
weight sets the noise of all others (Joshi et al., 2020, https://doi.org/10.1038/s41467-020-16108-9).

This script trains a network four ways, with and without noise, with and without clipping, and evaluates
each under noise of the weights. All four see the same draws. The noise of a chip's inputs and outputs,
which costs more (Rasch et al., 2023, https://doi.org/10.1038/s41467-023-40770-4), is not in it: this is no
forecast of a chip's accuracy. For noise as measured on devices, and drift: `drift.py`.

Run it: `python examples/hardware.py` (under two minutes), or with `--data-dir` on MNIST or Fashion-MNIST.
"""

import common
import keras
import matplotlib.pyplot as plt
import numpy as np

from keras_weightnoise import WeightNoiseCallback, clip_weights, noises, robustness_sweep

parser = common.parser(__doc__)
parser.add_argument("--stddev", type=float, default=0.2, help="of the noise in training / max|w|")
parser.add_argument("--draws", type=int, default=10, help="chips that each network is put on")
arguments = parser.parse_args()
train, test = common.load(arguments)

"""
## Training

The noise is that of the hardware: relative to the largest weight of each kernel, drawn anew in each
step. `clip_weights` puts a constraint on the kernels, which the optimizer applies after each update.
"""


def hardware(stddev):
    return noises.Gaussian(stddev, relative_to="max")


def trained(noisy, clipped):
    keras.utils.set_random_seed(arguments.seed)
    model = common.compiled(train[0].shape[1:])
    if clipped:
        clip_weights(model, 2.0)
    noise = WeightNoiseCallback(
        hardware(arguments.stddev), variables="kernels", seed=arguments.seed
    )
    return common.trained(train, callbacks=[noise] if noisy else [], model=model)


"""
## Under the noise of the hardware
"""

magnitudes = (0, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)


def evaluated(model):
    """Accuracies on the test data: a row for each magnitude, a column for each chip."""
    sweep = robustness_sweep(
        model,
        test,
        noise=hardware,
        magnitudes=magnitudes,
        draws=arguments.draws,
        variables="kernels",
        seed=arguments.seed,
        verbose=0,
    )
    accuracies = np.zeros((len(magnitudes), arguments.draws))
    for row in sweep.rows:
        accuracies[magnitudes.index(row.magnitude), row.draw] = row.metrics["accuracy"]
    return accuracies, sweep.tolerance("accuracy", drop=0.02)


common.style()
figure, ax = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
print(f"accuracy, mean and standard deviation of {arguments.draws} chips; noise in units of max|w|")
print("trained with          no noise   0.1            0.2            costs at most 0.02 up to")
for name, noisy, clipped, line in (
    (
        f"noise ({arguments.stddev:g} max|w|) and clipping",
        True,
        True,
        {"color": common.BLUE, "marker": "o"},
    ),
    ("noise alone", True, False, {"color": common.GREEN, "marker": "^", "ls": "--"}),
    ("clipping alone", False, True, {"color": common.GRAY, "marker": "v", "ls": ":"}),
    ("neither: a plain network", False, False, {"color": common.ORANGE, "marker": "s"}),
):
    accuracies, tolerance = evaluated(trained(noisy, clipped))
    print(f"{name.replace('neither: a plain network', 'neither')[:19]:20s}", end="")
    print(f"{accuracies[0].mean():10.3f}", end="   ")
    for size in (0.1, 0.2):
        at = accuracies[magnitudes.index(size)]
        print(f"{at.mean():.3f} ± {at.std(ddof=1):.3f}", end="  ")
    print(f"{tolerance:g}")
    common.band(ax, magnitudes, accuracies, label=name, **line)
ax.set(
    xlabel="standard deviation of the weight noise / max|w|",
    ylabel=f"test accuracy ({arguments.draws} chips)",
    title=f"A small network on {common.dataset(arguments)}, its weights inexact",
    xlim=(0, 1.02 * magnitudes[-1]),
    ylim=(0, 1.02),
)
ax.legend(title="trained with", loc="lower left", alignment="left")
common.save(figure, arguments, "hardware")
