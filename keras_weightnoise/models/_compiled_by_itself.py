"""A model that is made of another, and compiled by itself."""

from typing import Any

import keras


class CompiledByItself(keras.Model):  # type: ignore[misc]  # Keras ships no types.
    """Base class: says what to compile, where Keras says that something is to be compiled."""

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """See `keras.Model.fit`."""
        self._check_compiled("fit")
        return super().fit(*args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """See `keras.Model.evaluate`."""
        self._check_compiled("evaluate")
        return super().evaluate(*args, **kwargs)

    def _check_compiled(self, method: str) -> None:
        if not self.compiled:
            raise ValueError(
                f"Model {self.name!r} is not compiled: what its model is compiled with is not taken over. "
                f"Expected `compile(loss=..., metrics=...)` of {type(self).__name__} before `{method}`."
            )
