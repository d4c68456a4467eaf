"""
Title: How flat is a minimum?
Description: The loss around two networks, trained without and with weight noise, and what noise they bear.
Accelerator: None

Noise in the weights during training is said to find flat minima. This script looks: it trains one network
without noise and one with it, from the same start, evaluates both on a plane of random, filter-normalised
directions around each, and asks how much noise each bears before it loses a tenth of its accuracy.

Run it: `python examples/landscape.py` (a minute or two), or with `--data-dir` on MNIST or Fashion-MNIST.
"""

import os

import common
import keras
import matplotlib.pyplot as plt
import numpy as np

from keras_weightnoise import WeightNoiseCallback, loss_landscape, noise_tolerance, schedules

arguments = common.parser(__doc__).parse_args()
train, test = common.load(arguments)
quick = bool(os.environ.get("QUICK"))

"""
## Two networks
"""

ramp = schedules.LinearRamp(0.0, 0.05, start_step=0, ramp_steps=len(train[0]) // 64)
models = {}
for name, callbacks in {"without noise": [], "with noise": [WeightNoiseCallback(ramp)]}.items():
    keras.utils.set_random_seed(arguments.seed)
    models[name] = common.trained(train, callbacks=callbacks)

"""
## The loss around them

Each direction is as long as the weights, filter by filter: at coordinate 1, every filter has been moved by
as much as it is long. Both maps have one scale of colors.
"""

landscapes = {
    name: loss_landscape(model, test, span=1.0, points=5 if quick else 15, seed=arguments.seed)
    for name, model in models.items()
}

"""
## How much noise they bear
"""

tolerances = {
    name: noise_tolerance(
        model, test, drop=0.1, metric="accuracy", high=1.0, draws=5, bisections=3 if quick else 8
    )
    for name, model in models.items()
}
for name in models:
    print(f"{name}\n{landscapes[name]}")
    low, high = tolerances[name].interval
    print(
        f"accuracy falls by 0.1 at a standard deviation of {tolerances[name].magnitude:.3f} "
        f"({low:.3f} to {high:.3f}), flatness {tolerances[name].flatness:.0f}\n"
    )

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
every = np.concatenate([each.values["loss"].ravel() for each in landscapes.values()])
# The walls are high: the colors end where the ninth tenth of the values does.
limits = (0.0, float(np.quantile(every, 0.9)))
for ax, (name, each) in zip((left, middle), landscapes.items(), strict=True):
    each.plot("loss", ax=ax, limits=limits, label=name)
for name, each in tolerances.items():
    each.plot(ax=right, label=name)
common.save(figure, arguments, "landscape")
