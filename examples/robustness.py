"""
Title: How much weight noise does a network bear?
Description: Uniform noise on all weights of a pretrained network, and which layers break first.
Accelerator: None

Before a network moves to hardware with inexact weights, one wants to know how exact they have to be, and
where. This script sweeps the size of uniform noise on all weights of a trained network, then perturbs one
layer at a time.

Sizes are relative to the largest weight of each variable, as those of a converter's steps are.

Run it: `python examples/robustness.py` (some seconds), or with `--data-dir` on MNIST or Fashion-MNIST.
"""

import common
import matplotlib.pyplot as plt

from keras_weightnoise import layer_sensitivity, noises, robustness_sweep

arguments = common.parser(__doc__).parse_args()
train, test = common.load(arguments)
model = common.pretrained(arguments, train)

"""
## The whole network

Each size is evaluated in ten draws, the same ones for all sizes. `tolerance` is the largest size at which
the mean accuracy is still within a point of that without noise.
"""

noise = noises.Uniform(relative_to="max")
sweep = robustness_sweep(
    model,
    test,
    noise=noise,
    magnitudes=(0.02, 0.05, 0.1, 0.2, 0.3, 0.5),
    draws=10,
    seed=arguments.seed,
)
print(sweep)
print(f"Within 0.01 of the accuracy without noise up to {sweep.tolerance('accuracy', drop=0.01)}")

"""
## One layer at a time
"""

sensitivity = layer_sensitivity(
    model, test, noises.Uniform(0.3, relative_to="max"), draws=10, seed=arguments.seed
)
print(sensitivity)

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
sweep.plot("accuracy", ax=left)
left.set(xlabel="limit of the noise / max|w|", title="noise on all weights")
sensitivity.plot("accuracy", ax=right)
right.set_title("limit 0.3, one layer at a time")
common.save(figure, arguments, "robustness")
