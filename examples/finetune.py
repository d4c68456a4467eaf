"""
Title: Perturb once, then fine-tune
Description: A little uniform noise in pretrained weights before fine-tuning on few examples.
Accelerator: None

A pretrained network has settled where its old task wanted it. NoisyTune (Wu et al., 2022,
https://arxiv.org/abs/2202.12024) shakes it a little before fine-tuning: each weight matrix gets uniform
noise whose size follows the matrix's own standard deviation. The paper reports gains of about half a
point for language models. Do small convolutional networks gain? This script measures it, over several
seeds, against fine-tuning from the same weights unperturbed.

The old task is to tell the first five classes apart, the new one to tell the last five, from 50 labelled
images.

Run it: `python examples/finetune.py` (under two minutes), or with `--data-dir` on MNIST or Fashion-MNIST.
"""

import common
import keras
import matplotlib.pyplot as plt
import numpy as np

from keras_weightnoise import noises, perturb_weights

parser = common.parser(__doc__)
parser.add_argument("--seeds", type=int, default=8)
parser.add_argument("--intensities", type=float, nargs="+", default=[0.15, 0.5, 1.0, 2.0])
arguments = parser.parse_args()
(x, y), (x_test, y_test) = common.load(arguments)
old, new, new_test = y < 5, y >= 5, y_test >= 5

"""
## The pretrained network

Trained on the old task, with a head of five classes.
"""

keras.utils.set_random_seed(arguments.seed)
model = common.network(x.shape[1:], classes=5)
model.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
common.trained((x[old], y[old]), model=model)
print(f"Old task, training accuracy: {model.evaluate(x[old], y[old], verbose=0)[1]:.3f}")

"""
## Fine-tuning

An intensity of lambda is uniform noise of up to `lambda / 2` standard deviations. The head starts anew.
"""


def finetuned(intensity, seed):
    """Returns the accuracy on the new task."""
    keras.utils.set_random_seed(seed)
    noise = noises.Uniform(intensity / 2, relative_to="std")
    # A copy, also without noise: the pretrained network stays as it is.
    start = perturb_weights(model, noise, variables="kernels", exclude="head", seed=seed)
    head = start.get_layer("head")
    head.kernel.assign(head.kernel_initializer(head.kernel.shape))
    head.bias.assign(np.zeros(5))
    few = np.random.default_rng(seed).choice(np.flatnonzero(new), 50, replace=False)
    start.fit(x[few], y[few] - 5, batch_size=10, epochs=20, verbose=0)
    return start.evaluate(x_test[new_test], y_test[new_test] - 5, verbose=0)[1]


intensities = [0.0, *arguments.intensities]
accuracies = np.zeros((len(intensities), arguments.seeds))
progress = keras.utils.Progbar(accuracies.size, unit_name="run")
for i, intensity in enumerate(intensities):
    for seed in range(arguments.seeds):
        accuracies[i, seed] = finetuned(intensity, seed)
        progress.add(1)

"""
## Result

Seed by seed, since each seed has images of its own: these differ by more than the noise does.
"""

gains = accuracies - accuracies[0]
error = gains.std(axis=1, ddof=1) / np.sqrt(arguments.seeds)
print("\nintensity  accuracy  difference to no noise (+- standard error)")
for i, intensity in enumerate(intensities):
    print(
        f"{intensity:9.2f}  {accuracies[i].mean():8.3f}  {gains[i].mean():+.3f} +- {error[i]:.3f}"
    )

figure, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
places = np.arange(1, len(intensities))
ax.axhline(0.0, color="tab:gray", ls="--")
ax.plot(places, gains[1:], ".", color="tab:blue", alpha=0.3)
ax.errorbar(places, gains[1:].mean(axis=1), 2 * error[1:], fmt="o", color="tab:blue", capsize=3)
ax.set_xticks(places, [f"{intensity:g}" for intensity in intensities[1:]])
ax.set(
    xlabel="intensity of the noise before fine-tuning",
    ylabel="gain in test accuracy",
    title="Each seed, and the mean with two standard errors",
)
ax.spines[["top", "right"]].set_visible(False)
common.save(figure, arguments, "finetune")
