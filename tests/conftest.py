import os

# Before TensorFlow is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import pytest
import tensorflow as tf

# Two devices, so that MirroredStrategy has something to mirror.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)


def pytest_runtest_setup(item):
    # TensorFlow rewrites graphs before they run, a sixth of what tests cost, and most of what the first
    # predictions of ensembles do: left out where the outcome says nothing of TensorFlow, and by its own mark.
    as_written = any(map(item.get_closest_marker, ("any_version", "as_written")))
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": as_written})


@pytest.fixture(autouse=True)
def _fresh():
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy("float32")
    # Without a full garbage collection, a quarter of a second for each of some thousand tests.
    keras.backend.clear_session(free_memory=False)
