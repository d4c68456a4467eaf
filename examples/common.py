"""What the examples share: the data, the network, and where figures go."""

import argparse
import gzip
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

# Images seen in training, over all epochs. CI does with fewer: there, the examples only have to run.
SEEN = 4_000 if os.environ.get("QUICK") else 40_000


def parser(doc):
    """A parser with the arguments that every example has."""
    arguments = argparse.ArgumentParser(description=doc.strip().split("\n\n")[1])
    arguments.add_argument(
        "--data-dir",
        type=pathlib.Path,
        help="folder of the four idx files of MNIST or Fashion-MNIST; else scikit-learn's digits",
    )
    arguments.add_argument("--out", type=pathlib.Path, default="out", help="folder of the figure")
    arguments.add_argument("--seed", type=int, default=0)
    return arguments


def load(arguments, train=20_000, test=2_000):
    """Returns (images, labels) to train on and (images, labels) to test on, at most so many.

    Images are float32 in [0, 1], of shape (n, height, width, 1). scikit-learn's digits are 1797 images
    of 8x8: 1000 to train on, 797 to test on.
    """
    if arguments.data_dir is None:
        images, labels = load_digits(return_X_y=True)
        order = np.random.default_rng(arguments.seed).permutation(len(images))
        images, labels = images[order].reshape(-1, 8, 8, 1) / 16, labels[order]
        data = images[:1000], labels[:1000], images[1000:], labels[1000:]
    else:
        data = [
            _read(arguments.data_dir / f"{part}-{kind}-ubyte.gz")
            for part in ("train", "t10k")
            for kind in ("images-idx3", "labels-idx1")
        ]
        data = [each[..., None] / 255 if each.ndim == 3 else each for each in data]
    x, y, x_test, y_test = data
    x, x_test = x[:train].astype("float32"), x_test[:test].astype("float32")
    return (x, y[:train].astype("int32")), (x_test, y_test[:test].astype("int32"))


def dataset(arguments):
    """What the data are called."""
    return arguments.data_dir.name if arguments.data_dir else "scikit-learn's digits"


def _read(path):
    with gzip.open(path) as file:
        content = file.read()
    rank = content[3]
    shape = np.frombuffer(content, ">i4", rank, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def network(input_shape, classes=10):
    """A small convolutional network."""
    return keras.Sequential(
        [
            keras.Input(input_shape),
            keras.layers.Conv2D(16, 3, padding="same", activation="relu", name="conv1"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(32, 3, padding="same", activation="relu", name="conv2"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu", name="dense"),
            keras.layers.Dense(classes, activation="softmax", name="head"),
        ]
    )


def compiled(input_shape):
    """A network that is ready to be trained."""
    model = network(input_shape)
    model.compile(
        keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return model


def trained(data, epochs=None, callbacks=(), model=None):
    """A network trained on the data (or the one given, trained further)."""
    x, y = data
    model = model or compiled(x.shape[1:])
    # As many steps for few images as for many.
    epochs = epochs or max(2, SEEN // len(x))
    model.fit(x, y, batch_size=64, epochs=epochs, verbose=0, callbacks=list(callbacks))
    return model


def pretrained(arguments, data):
    """What others may have given you: a trained network, loaded from a file."""
    keras.utils.set_random_seed(arguments.seed)
    arguments.out.mkdir(exist_ok=True, parents=True)
    path = arguments.out / "pretrained.keras"
    trained(data).save(path)
    return keras.models.load_model(path)


# Okabe and Ito's colours, which the colour-blind can tell apart.
ORANGE, BLUE, GREEN, GRAY = "#D55E00", "#0072B2", "#009E73", "#7F7F7F"


def style():
    """Fonts that can be read where a figure is shown at half its size."""
    plt.rcParams.update(
        {"font.size": 13, "axes.labelsize": 14, "axes.titlesize": 14, "legend.fontsize": 12}
        | {"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
    )


def band(ax, x, accuracies, **line):
    """Draws the mean over draws, and one standard deviation to either side. Accuracies: (len(x), draws)."""
    mean, spread = accuracies.mean(axis=1), accuracies.std(axis=1, ddof=1)
    (drawn,) = ax.plot(x, mean, lw=2, **line)
    low, high = mean - spread, np.minimum(mean + spread, 1)
    ax.fill_between(x, low, high, color=drawn.get_color(), alpha=0.18, lw=0)


def save(figure, arguments, name):
    """Saves a figure and says where."""
    arguments.out.mkdir(exist_ok=True, parents=True)
    path = arguments.out / f"{name}.png"
    figure.savefig(path, dpi=150)
    plt.close(figure)
    print(f"Figure: {path}")
