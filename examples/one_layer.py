"""
Title: Noise on one layer of a pretrained network
Description: Perturb the kernels of one convolution, look at them, and see what the network still knows.
Accelerator: None

How precise do the weights of one layer have to be? This script takes a trained network, adds Gaussian
noise to the kernels of its second convolution, and compares accuracy over several draws and sizes of the
noise. The size is relative to the standard deviation of the layer's own weights, so that 1 means as much
noise as there is signal.

Run it: `python examples/one_layer.py` (some seconds), or with `--data-dir` on MNIST or Fashion-MNIST.
"""

import common
import matplotlib.pyplot as plt
import numpy as np

from keras_weightnoise import noises, perturb_weights, perturbed_weights

arguments = common.parser(__doc__).parse_args()
train, test = common.load(arguments)
model = common.pretrained(arguments, train)
layer = model.get_layer("conv2")

"""
## One perturbed copy

`perturb_weights` returns another model. The one we have stays as it is, and so do all other layers of the
copy.
"""

noise = noises.Gaussian(1.0, relative_to="std")
noisy = perturb_weights(model, noise, variables=layer, exclude="bias", seed=arguments.seed)
_, before = model.evaluate(*test, verbose=0)
_, after = noisy.evaluate(*test, verbose=0)
print(
    f"Accuracy {before:.3f}; with as much noise as signal in {layer.name}: {after:.3f} (one draw)"
)

"""
## Many draws

To look at many draws there is no need for copies: `perturbed_weights` puts noise into the model itself,
for as long as the `with` lasts, and `redraw` replaces it by the next.
"""

sizes, draws = [0.25, 0.5, 1.0, 1.5, 2.0], 10
accuracies = np.zeros((len(sizes), draws))
for i, size in enumerate(sizes):
    noise = noises.Gaussian(size, relative_to="std")
    with perturbed_weights(
        model, noise, variables=layer, exclude="bias", seed=arguments.seed
    ) as weights:
        for draw in range(draws):
            if draw:
                weights.redraw()
            _, accuracies[i, draw] = model.evaluate(*test, verbose=0)
print("stddev / std(w)   accuracy: mean   worst of 10 draws")
for size, row in zip(sizes, accuracies, strict=True):
    print(f"{size:15.2f}   {row.mean():14.3f}   {row.min():17.3f}")
_, again = model.evaluate(*test, verbose=0)
print(f"The model itself, after all that: {again:.3f}")

"""
## Figure

A few of the layer's kernels before and after, and the accuracies.
"""

figure = plt.figure(figsize=(8, 3.4), layout="constrained")
left, right = figure.subfigures(1, 2, width_ratios=[1, 1.25])
panels = left.subplots(2, 4)
for row, (kernel, label) in enumerate(
    [(layer.kernel, "before"), (noisy.get_layer("conv2").kernel, "after")]
):
    limit = np.abs(layer.kernel).max()
    for column, panel in enumerate(panels[row]):
        panel.imshow(kernel[:, :, 0, column], cmap="RdBu", vmin=-limit, vmax=limit)
        panel.set(xticks=[], yticks=[])
    panels[row, 0].set_ylabel(label)
left.suptitle("kernels of conv2, noise = signal")
ax = right.subplots()
ax.axhline(before, color="tab:gray", ls="--", label="no noise")
ax.plot(sizes, accuracies.mean(axis=1), color="tab:blue", label=f"mean of {draws} draws")
ax.fill_between(
    sizes, accuracies.min(axis=1), accuracies.max(axis=1), alpha=0.2, lw=0, label="all draws"
)
ax.set(xlabel="stddev of the noise / std of the weights", ylabel="test accuracy")
ax.legend(frameon=False)
ax.spines[["top", "right"]].set_visible(False)
common.save(figure, arguments, "one_layer")
