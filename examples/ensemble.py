"""
Title: Better probabilities from a noisy ensemble
Description: Predict with perturbed copies of one network, and compare accuracy and calibration.
Accelerator: None

A network trained to the end on few examples is too sure of itself: where it says 99 %, it is right less
often. The mean over copies with noisy weights is less sure, most so where a small change of the weights
changes the answer. No training is needed, and no second network: only the size of the noise has to be
chosen, here on held-out examples.

Accuracy hardly moves. What improves is the negative log likelihood and the calibration error. Scaling
the logits by one number (temperature scaling, Guo et al., 2017, https://arxiv.org/abs/1706.04599) does
that too, for less: it is the bar to compare with, and is measured here as well. What an ensemble adds is
the spread of its members.

Run it: `python examples/ensemble.py` (under two minutes), or with `--data-dir` on MNIST or Fashion-MNIST.
"""

import common
import keras
import matplotlib.pyplot as plt
import numpy as np

from keras_weightnoise import WeightNoiseEnsemble, calibration_report, noises

parser = common.parser(__doc__)
parser.add_argument("--train", type=int, help="examples to train on: 100 digits, else 1000")
parser.add_argument("--members", type=int, default=20)
parser.add_argument("--sizes", type=float, nargs="+", default=[0.1, 0.2, 0.3, 0.5, 0.7, 1.0])
arguments = parser.parse_args()
(x, y), (x_test, y_test) = common.load(arguments)
count = arguments.train or (1000 if arguments.data_dir else 100)
few, held_out = slice(0, count), slice(count, count + 500)

"""
## The network

Dense, as those suffer most, and trained until it knows its few examples by heart.
"""

keras.utils.set_random_seed(arguments.seed)
model = keras.Sequential(
    [
        keras.Input(x.shape[1:]),
        keras.layers.Flatten(),
        keras.layers.Dense(128, activation="relu"),
        keras.layers.Dense(128, activation="relu"),
        keras.layers.Dense(10, activation="softmax"),
    ]
)
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
common.trained((x[few], y[few]), epochs=200 if arguments.data_dir is None else 40, model=model)

"""
## The size of the noise

Multiplicative: each weight is off by a share of itself. The size with the best likelihood on held-out
examples wins.
"""


def make_ensemble(size):
    noise = noises.Gaussian(size, relative_to="weight")
    return WeightNoiseEnsemble(model, noise, members=arguments.members, seed=arguments.seed)


def report(predict, part):
    images, labels = part
    return calibration_report(labels, predict(images, verbose=0))


validation = (x[held_out], y[held_out])
scores = {size: report(make_ensemble(size).predict, validation).nll for size in arguments.sizes}
size = min(scores, key=scores.get)
print("Negative log likelihood on held-out examples:")
print("\n".join(f"  noise {each:4.2f}: {score:.3f}" for each, score in scores.items()))
ensemble = make_ensemble(size)

"""
## The bar: temperature scaling

Divides the logits (here, of a model that returns probabilities: their logarithms) by one number, chosen on
the same examples.
"""


def at_temperature(temperature):
    def predict(images, verbose=0):
        logits = np.log(np.maximum(model.predict(images, verbose=verbose), 1e-30)) / temperature
        return keras.ops.convert_to_numpy(keras.ops.softmax(logits))

    return predict


temperature = min(np.linspace(1, 4, 31), key=lambda t: report(at_temperature(t), validation).nll)

"""
## Result
"""

test = (x_test, y_test)
reports = {
    "the network": report(model.predict, test),
    f"{arguments.members} members, noise {size:g}": report(ensemble.predict, test),
    f"temperature {temperature:.1f}": report(at_temperature(temperature), test),
}
print(f"\n{'test':24s} accuracy    NLL  Brier    ECE")
for name, each in reports.items():
    print(f"{name:24s} {each.accuracy:8.3f}  {each.nll:.3f}  {each.brier:.3f}  {each.ece:.3f}")

spread = ensemble.predict_spread(x_test)
wrong = spread.mean.argmax(axis=-1) != y_test
print(
    "Disagreement of the members (mutual information, nats): "
    f"{spread.mutual_information[wrong].mean():.3f} where the mean is wrong, "
    f"{spread.mutual_information[~wrong].mean():.3f} where it is right"
)

figure, ax = plt.subplots(figsize=(5.6, 5.2), layout="constrained")
for name, each in reports.items():
    each.plot(ax=ax, label=name)
common.save(figure, arguments, "ensemble")
