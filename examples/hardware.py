"""
Title: Training for noisy hardware
Description: Weight noise and clipping in training, for a network whose weights will never be exact.
Accelerator: None

Analog chips hold weights as conductances, which come out a little different each time. The error is
about as large for all weights of a layer, and proportional to the largest of them. A network that has
seen such noise in training bears it; weights are clipped to two standard deviations, since one large
weight sets the noise of all others (Joshi et al., 2020, https://doi.org/10.1038/s41467-020-16108-9).

This script trains a network four ways, with and without noise, with and without clipping, and evaluates
each under the noise of the hardware. All four see the same draws.

Run it: `python examples/hardware.py` (under two minutes), or with `--data-dir` on MNIST or Fashion-MNIST.
"""

import common
import keras
import matplotlib.pyplot as plt

from keras_weightnoise import WeightNoiseCallback, clip_weights, noises, robustness_sweep

parser = common.parser(__doc__)
parser.add_argument("--stddev", type=float, default=0.2, help="of the noise in training / max|w|")
arguments = parser.parse_args()
train, test = common.load(arguments)

"""
## Training

The noise is that of the hardware: relative to the largest weight of each kernel, drawn anew in each
step. `clip_weights` puts a constraint on the kernels, which the optimizer applies after each update.
"""


def hardware(stddev):
    return noises.Gaussian(stddev, relative_to="max")


models = {}
for name, noisy, clipped in (
    ("plain", False, False),
    ("clipped", False, True),
    ("noise", True, False),
    ("noise and clipping", True, True),
):
    keras.utils.set_random_seed(arguments.seed)
    model = common.network(train[0].shape[1:])
    model.compile(
        keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    if clipped:
        clip_weights(model, 2.0)
    noise = WeightNoiseCallback(
        hardware(arguments.stddev), variables="kernels", seed=arguments.seed
    )
    models[name] = common.trained(train, callbacks=[noise] if noisy else [], model=model)

"""
## Under the noise of the hardware
"""

figure, ax = plt.subplots(figsize=(6, 3.8), layout="constrained")
print("accuracy            no noise   0.1     0.2     0.3    largest noise that costs at most 0.02")
for name, model in models.items():
    sweep = robustness_sweep(
        model,
        test,
        noise=hardware,
        magnitudes=(0.05, 0.1, 0.15, 0.2, 0.25, 0.3),
        draws=10,
        variables="kernels",
        seed=arguments.seed,
        verbose=0,
    )
    at = sweep.summaries("accuracy")["Gaussian(relative_to='max')"]
    means = "".join(f"{at[size].mean:8.3f}" for size in (0.1, 0.2, 0.3))
    tolerance = sweep.tolerance("accuracy", drop=0.02)
    print(f"{name:18s}{sweep.clean['accuracy']:10.3f}{means}    {tolerance:g}")
    sweep.plot("accuracy", ax=ax, label=name)
ax.set(
    xlabel="stddev of the noise / max|w|", title=f"Trained under {arguments.stddev:g}, or without"
)
common.save(figure, arguments, "hardware")
