"""Models that earlier versions saved still load, and predict what they did."""

import json
import pathlib

import keras
import numpy as np
import pytest

from keras_weightnoise import GaussianWeightNoise, noises
from keras_weightnoise.constraints import ClipToStddev
from keras_weightnoise.schedules import LinearRamp

DATA = pathlib.Path(__file__).parent.parent / "data"
X = np.linspace(-1, 1, 20).reshape(5, 4).astype("float32")


def saved():
    """What this version of Keras can read: files of its own and of older ones."""
    here = tuple(int(part) for part in keras.__version__.split(".")[:2])
    for path in sorted(DATA.glob("before_the_move_keras_*.keras")):
        version = tuple(int(part) for part in path.stem.rpartition("_")[2].split(".")[:2])
        if version <= here:
            yield path


@pytest.mark.slow
@pytest.mark.parametrize("path", list(saved()), ids=lambda path: path.stem)
def test_files_from_before_the_modules_moved(path):
    """An ensemble, wrappers and a constraint; and a noise with a ramp, as its configuration."""
    record = json.loads(path.with_suffix(".json").read_text())
    ensemble = keras.saving.load_model(path)
    assert (ensemble.members, ensemble.seed, ensemble.name) == (3, 5, "ensemble")
    assert ensemble.magnitude == (1.0, 0.1, 0.05)
    np.testing.assert_allclose(ensemble.predict_members(X), record["members"], atol=2e-6)
    noisy, head = (ensemble.model.get_layer(name) for name in ("noisy", "head"))
    assert isinstance(noisy, GaussianWeightNoise)
    assert (noisy.stddev, noisy.relative_to, noisy.seed, head.stddev) == (0.2, "std", 3, 0.1)
    assert isinstance(noisy.layer.kernel_constraint, ClipToStddev)
    assert noisy.layer.kernel_constraint.k == 2.5
    ramp = LinearRamp(0.0, 0.1, start_step=10, ramp_steps=20)
    assert noises.get(record["noise"]) == noises.Gaussian(ramp, relative_to="rms")


def test_there_is_a_file_for_each_version():
    assert list(saved())
