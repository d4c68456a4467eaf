"""
Title: How flat is a minimum?
Description: The loss around two networks, trained without and with weight noise, and what noise they bear.
Accelerator: None

Noise in the weights during training is said to find flat minima. This script looks: it trains one network
without noise and one with it, from the same start, evaluates both on a plane of random, filter-normalised
directions around each and on the plane of its training, and asks how much noise each bears before it loses a
tenth of its accuracy.

Run it: `python examples/landscape.py` (a minute or two), or with `--data-dir` on MNIST or Fashion-MNIST.
"""

import os

import common
import keras
import matplotlib.pyplot as plt

from keras_weightnoise import (
    WeightNoiseCallback,
    compare,
    loss_landscape,
    noise_tolerance,
    schedules,
)

arguments = common.parser(__doc__).parse_args()
train, test = common.load(arguments)
quick = bool(os.environ.get("QUICK"))

"""
## Two networks
"""

ramp = schedules.LinearRamp(0.0, 0.05, start_step=0, ramp_steps=len(train[0]) // 64)
models, runs = {}, {}


class Weights(keras.callbacks.Callback):
    """Keeps the weights at a dozen steps. Of a large model, let `ModelCheckpoint` write them to files."""

    def __init__(self):
        super().__init__()
        self.seen, self.step = [], 0

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        if self.step % (common.SEEN // 64 // 12) == 0:
            self.seen.append(self.model.get_weights())


for name, callbacks in {"without noise": [], "with noise": [WeightNoiseCallback(ramp)]}.items():
    keras.utils.set_random_seed(arguments.seed)
    weights = Weights()
    models[name] = common.trained(train, callbacks=[*callbacks, weights])
    runs[name] = weights.seen

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
## The way there

Beside it, the plane in which the weights moved most while they were trained, with their way drawn in.
"""

ways = {
    name: loss_landscape(model, train, trajectory=runs[name], points=5 if quick else 15)
    for name, model in models.items()
}

"""
## How much noise they bear
"""

tolerances = {
    name: noise_tolerance(
        model,
        test,
        drop=0.1,
        metric="accuracy",
        high=1.0,
        draws=5 if quick else 30,
        bisections=3 if quick else 8,
    )
    for name, model in models.items()
}
around, borne = compare(landscapes), compare(tolerances)
print(f"{around}\n\n{borne}\n")
figure, axes = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
compare(ways).plot("loss", ax=axes)
common.save(figure, arguments, "trajectory")

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
around.plot("loss", ax=[left, middle])
borne.plot(ax=right)
common.save(figure, arguments, "landscape")
