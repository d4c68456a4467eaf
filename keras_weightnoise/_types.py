"""Names of types that others ship none of. Private."""

from typing import Any

Tensor = Any  # TensorFlow ships no types.
