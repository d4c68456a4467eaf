"""What the wrappers that put noise on a layer's weights have in common."""

import functools
import inspect
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import tensorflow as tf

from keras_weightnoise._random import seeds
from keras_weightnoise._types import Tensor
from keras_weightnoise._weights import selection, selectors
from keras_weightnoise._weights.building import build, built_by_calling
from keras_weightnoise._weights.reachable import Layer
from keras_weightnoise._weights.selection import Target
from keras_weightnoise._weights.selectors import Selector
from keras_weightnoise._weights.skipped import quantized_kernels
from keras_weightnoise.layers import _estimators as estimators
from keras_weightnoise.layers._estimators import Estimator
from keras_weightnoise.layers._noisy_reads import is_recording
from keras_weightnoise.layers._signatures import signed, with_training


class WeightNoiseWrapper(keras.layers.Wrapper):  # type: ignore[misc]  # Keras ships no types.
    """Base class: a wrapper that is the wrapped layer, and calls it under noise where a subclass says so.

    A subclass says when (`is_noisy`), and how (`noisy_call`). Noise that has variables makes them in
    `build_noise`. At the end of its constructor, a subclass calls `check_targets_if_built`.

    Args:
        layer: A `keras.Layer` or `keras.Model`.
        estimator: What each example of a batch sees of the noise.
        variables: A selector of the variables that are perturbed.
        exclude: A selector of those that are not.
        seed: Int in [0, 2^32), or `None`.
        **kwargs: Keyword arguments of `keras.Layer`. `dtype` is by default the wrapped layer's.
    """

    # The arguments that `get_config` serializes.
    serialized: ClassVar[tuple[str, ...]] = ("variables", "exclude")
    # Whether frozen weights are perturbed, too.
    perturbs_frozen: bool = False

    def __init__(
        self,
        layer: Layer,
        *,
        estimator: Estimator = "shared",
        variables: Selector | None,
        exclude: Selector | None,
        seed: int | None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(layer, keras.Layer):
            raise ValueError(
                f"Layer {layer} supplied to Wrapper isn't a supported layer type. Expected a "
                f"`keras.Layer`. Received: layer={layer} (of type {type(layer).__name__})"
            )
        if "go_backwards" in kwargs:
            # `Bidirectional` makes its second layer by adding this to the config of its first.
            raise ValueError(_not_in_bidirectional(self))
        estimators.check_estimator(estimator, layer)
        selectors.check_selectors(variables=variables, exclude=exclude)
        estimators.check_selection(estimator, variables, exclude)
        seeds.check_seed(seed)
        # Keras takes from these signatures which shapes, masks and tensors a layer wants, and whether
        # it may call it with `training`. It reads the first in its own constructor.
        signature = inspect.signature(layer.call)
        self.call = signed(self.call, with_training(signature))  # type: ignore[method-assign]
        self.build = signed(self.build, inspect.signature(layer.build))  # type: ignore[method-assign]
        if layer.quantization_mode is None:
            kwargs.setdefault("dtype", layer.dtype_policy)
        else:
            kwargs.setdefault("dtype", layer.compute_dtype)
        super().__init__(layer, autocast=layer.autocast, **kwargs)
        self.estimator = estimator
        # In this form Keras does not take a selected layer for one more layer of this one.
        self._select = functools.partial(selection.select, variables=variables, exclude=exclude)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self._passes_training = "training" in signature.parameters
        self._warned = False
        self._had_targets = False
        self._noise_is_built = False

    def build_noise(self, targets: Sequence[Target]) -> None:
        """Makes the variables of the noise, if it has any. Called once, when the wrapped layer has its own.

        Args:
            targets: What is perturbed, and what would be if it were not frozen.
        """

    def is_noisy(self, training: bool | None) -> bool:
        """Whether a call with this `training` is noisy, if there is something to perturb."""
        raise NotImplementedError

    def noisy_call(
        self,
        targets: Sequence[Target],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        *,
        seed: Tensor,
        step: Tensor,
    ) -> Any:
        """Calls the wrapped layer under noise.

        Args:
            targets: What is perturbed.
            args: Positional arguments of the call.
            kwargs: Keyword arguments of the call.
            seed: What the draw depends on, a scalar integer.
            step: What the draw depends on beside it, another number for each call.
        """
        raise NotImplementedError

    @property
    def supports_masking(self) -> bool:
        """Whether the wrapped layer supports masking."""
        return bool(self.layer.supports_masking)

    @property
    def input_spec(self) -> Any:
        """The wrapped layer's."""
        return self.layer.input_spec

    @property
    def go_backwards(self) -> bool:
        """Not there, and said so to `keras.layers.Bidirectional`."""
        raise AttributeError(_not_in_bidirectional(self))

    def build(self, *args: Any, **kwargs: Any) -> None:
        """Builds the wrapped layer; takes the same arguments."""
        if self.estimator != "shared":
            shape = args[0] if args else kwargs["input_shape"]
            estimators.check_input_shape(self.estimator, self.layer, shape)
        if not self.layer.built and not built_by_calling(self.layer):
            self.layer.build(*args, **kwargs)
        if self.layer.built:
            self._check_targets()
        self._build_noise()

    def call(self, *args: Any, training: bool | None = None, **kwargs: Any) -> Any:
        """Calls the wrapped layer, under noise where the subclass says so."""
        kwargs = self._arguments(training, kwargs)
        targets = self._targets(args, kwargs) if self.is_noisy(training) else []
        if not targets:
            outputs = self.layer(*args, **kwargs)
            self._build_noise()
            return outputs
        seed, step = tf.unstack(self.seed_generator.next())
        return self.noisy_call(targets, args, kwargs, seed=seed, step=step)

    def compute_output_spec(self, *args: Any, training: bool | None = None, **kwargs: Any) -> Any:
        """The wrapped layer's."""
        spec = self.layer.compute_output_spec(*args, **self._arguments(training, kwargs))
        self._build_noise()
        return spec

    def compute_output_shape(self, *args: Any, **kwargs: Any) -> Any:
        """The wrapped layer's."""
        return self.layer.compute_output_shape(*args, **kwargs)

    def compute_mask(self, *args: Any, **kwargs: Any) -> Any:
        """The wrapped layer's."""
        return self.layer.compute_mask(*args, **kwargs)

    def get_build_config(self) -> dict[str, Any] | None:
        """The wrapped layer's, whose arguments of `build` ours are."""
        config: dict[str, Any] | None = self.layer.get_build_config()
        return config

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, serialized."""
        return {
            **super().get_config(),
            "estimator": self.estimator,
            **{
                name: selectors.serialize(name, each)
                for name, each in self._select.keywords.items()
            },
            "seed": self.seed,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> "WeightNoiseWrapper":
        """The inverse of `get_config`."""
        objects: dict[str, Any] = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects)
            for name in cls.serialized
            if name in config
        }
        layer: WeightNoiseWrapper = super().from_config({**config, **objects}, custom_objects)
        return layer

    def _arguments(self, training: bool | None, kwargs: dict[str, Any]) -> dict[str, Any]:
        # Passed only if there is something to pass: `None` would hide what an outer layer was given.
        if training is not None and self._passes_training:
            kwargs["training"] = training
        return kwargs

    def _targets(self, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> list[Target]:
        """The kernels as they are now: layers are frozen, quantized and given LoRA at any time."""
        if not is_recording():
            raise ValueError(
                f"The layer {self.name!r} is called where no gradient is recorded, as in `keras.remat` "
                "(`tf.recompute_grad`), which calls it again, with another draw, when gradients are "
                "taken. Do not rematerialize this layer."
            )
        build(self.layer, args, kwargs)
        if not self._had_targets:
            self._check_targets()
        self._build_noise()
        try:
            if self.perturbs_frozen:
                targets = self._select(self.layer, frozen=True)
            else:
                targets = self._select(self.layer) if self.trainable else []
        except ValueError:  # What there was is frozen or quantized now.
            targets = []
        quantized = [v.path for v in quantized_kernels(self.layer)]
        if not self._warned and (quantized or not targets):
            self._warned = True
            what = f"the quantized kernels {quantized}" if quantized else "anything: all is frozen"
            warnings.warn(
                f"The layer {self.name!r} does not perturb {what}. Weight noise is for trainable "
                "floating-point weights; `GaussianWeightNoise(..., frozen=True)` has it in frozen ones, too.",
                stacklevel=2,
            )
        return targets

    def _build_noise(self) -> None:
        """Makes the variables of the noise, unless they are there, or the layer's are still to come."""
        if self._noise_is_built or built_by_calling(self.layer):
            return
        try:
            targets = self._select(self.layer, frozen=True)
        except ValueError:  # All is quantized, or still to be built.
            return
        self._noise_is_built = True
        self.build_noise(targets)

    def check_targets_if_built(self) -> None:
        """Raises if the wrapped layer is built and has nothing to perturb. For the end of a constructor."""
        if self.layer.built:
            self._check_targets()

    def _check_targets(self) -> None:
        """Raises if the wrapped layer, which is built, has nothing to perturb and never had."""
        try:
            self._select(self.layer, frozen=True)
        except ValueError as error:
            if not quantized_kernels(self.layer):
                raise ValueError(
                    f"`{type(self).__name__}` has nothing to perturb in the layer "
                    f"{self.layer.name!r}. {error}"
                ) from error
        self._had_targets = True


def _not_in_bidirectional(wrapper: WeightNoiseWrapper) -> str:
    name = type(wrapper).__name__
    return (
        f"`keras.layers.Bidirectional` cannot make a backward copy of a `{name}`. Wrap it from outside: "
        f"`{name}(keras.layers.Bidirectional(layer))`."
    )
