"""Names of types that others ship none of. Private."""

from typing import Any

import keras
import tensorflow as tf

Tensor = Any  # TensorFlow ships no types.

# In Keras 3.5 the variables of layers are no `keras.Variable`s, but of the base class of that.
VARIABLE_TYPES = (keras.Variable.__bases__[0], tf.Variable)
