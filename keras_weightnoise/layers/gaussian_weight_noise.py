"""`GaussianWeightNoise`: a layer whose kernels are noisy in training."""

import functools
import inspect
import warnings
from typing import Any

import keras
import tensorflow as tf

from keras_weightnoise import noises
from keras_weightnoise._random import sampling
from keras_weightnoise._random.sampling import Tensor
from keras_weightnoise._weights import reachable, selection, selectors
from keras_weightnoise._weights.building import build, built_by_calling
from keras_weightnoise._weights.reachable import Layer
from keras_weightnoise._weights.selection import Target
from keras_weightnoise._weights.selectors import Selector
from keras_weightnoise.layers import _estimators as estimators
from keras_weightnoise.layers._estimators import Estimator
from keras_weightnoise.layers._noisy_reads import is_recording
from keras_weightnoise.layers._signatures import signed, with_training
from keras_weightnoise.layers.noisy_call import call_under_noise
from keras_weightnoise.noises import Scale


@keras.saving.register_keras_serializable(package="keras_weightnoise")
class GaussianWeightNoise(keras.layers.Wrapper):  # type: ignore[misc]  # Keras ships no types.
    """Wraps a layer so that its kernels are noisy in training: `w' = w + stddev * scale(w) * n`.

    Use it where some layers of a model are to be trained under weight noise, and not others, or each
    with its own strength; `WeightNoiseCallback` is for whole models. n ~ N(0, 1) is drawn anew for each
    call with `training=True`, once for the whole call: a recurrent layer sees one draw for all of a
    sequence. Gradients are taken at the noisy weights and land on the clean ones, which are never
    written. With `training=False` the wrapper is the wrapped layer, bit for bit: saved, exported and
    evaluated models are clean.

    What is perturbed: every trainable float variable of rank 2 or more in the wrapped layer and in the
    layers inside it, at any depth, or what `variables` selects. That leaves out biases and
    BatchNormalization's parameters. Never perturbed are BatchNormalization's statistics, frozen weights,
    and the integer kernels of quantized layers. After `enable_lora` the
    noise is on the trainable factors. Where nothing is left to perturb (the layer was frozen or
    quantized after it was built), calls are those of the plain layer, with one warning.

    Each output of each example has the mean and variance of weight noise. How the outputs of a batch
    vary together is the `estimator`'s:

    - `"shared"`: one noisy kernel for all examples, whose errors are so correlated. For any layer.
    - `"flipout"`: `y = x W + ((x * s_in) dW) * s_out`, with dW the shared noise and random signs for
      each example and channel. An example sees one kernel, `W + dW * outer(s_in, s_out)`, at all of its
      positions. Examples are uncorrelated, but not independent: the sizes of dW are common to them. For
      `Dense` and `Conv1D` to `Conv3D`, where gradients are to be less noisy, for a second matmul.
    - `"local_reparameterization"`: `y ~ N(x W + b, stddev^2 sum_i x_i^2 scale_i^2)`, drawn for each
      output: the law of a kernel drawn for each example, and the cheapest. The gradient with respect
      to x is the expectation of that law's, given y. For `Dense` on inputs of shape (batch, features);
      where positions share a kernel, their correlation would be lost.

    The last two refuse layers with LoRA or float8, which are not linear in what they train.

    The draws are those of a `keras.random.SeedGenerator`, as for `keras.layers.Dropout`: its state is
    not saved in `.keras` files, and a reloaded or cloned layer begins again.

    Args:
        layer: A `keras.Layer` or `keras.Model` with kernels. A recurrent layer that is to run in both
            directions goes into `keras.layers.Bidirectional` first, and that in here.
        stddev: Float >= 0, in units of the weights where `relative_to` is `None`, else of that scale.
            Defaults to `0.1`.
        relative_to: The scale: `None`, `"std"`, `"rms"`, `"max"`, `"range"`, `"channel_max"`,
            `"filter_norm"` or `"weight"`. See `noises.Gaussian`. Defaults to `None`.
        estimator: `"shared"`, `"flipout"` or `"local_reparameterization"`. Defaults to `"shared"`.
        variables: Which variables of the wrapped layer: `"kernels"` (rank 2 and above), a regular
            expression searched in `variable.path`, a layer, a layer class, a function of a variable
            that returns a bool, or a list of these. `None`: every trainable float variable. With a
            layer or a class the wrapper cannot be saved or cloned. Defaults to `"kernels"`.
        exclude: Which of these not, in the same terms. Defaults to `None`.
        seed: Int in [0, 2^32), or `None` for one drawn from what `keras.utils.set_random_seed` seeds.
            Defaults to `None`.
        **kwargs: Keyword arguments of `keras.Layer`, such as `name`. `dtype` is by default the wrapped
            layer's.

    Call arguments:
        Those of the wrapped layer, and `training`.

    Raises:
        ValueError: If `layer` is no layer; if `variables` and `exclude` leave nothing of it (as soon as
            its variables exist), or are given together with another estimator than `"shared"`; if
            `stddev` is negative or not finite; if `relative_to` or `estimator` is not one of these; if
            `estimator` does not apply to the layer or to its inputs. In a call: if a layer assigns its
            kernel itself (as `keras.layers.SpectralNormalization` does), or reads it where noise would
            not reach it or would outlive the call (in a `tf.function` of its own, in `keras.remat`);
            the message names it.
        TypeError: If `stddev` is not a number (a schedule has no step inside of a layer), or `seed` no
            integer.

    Example:

    >>> import keras
    >>> from keras_weightnoise import GaussianWeightNoise
    >>> layer = GaussianWeightNoise(keras.layers.Dense(3), stddev=0.1, seed=1)
    >>> x = keras.ops.ones((2, 4))
    >>> clean, noisy = layer(x), layer(x, training=True)
    >>> bool(keras.ops.all(clean == noisy)), bool(keras.ops.all(clean == layer(x)))
    (False, True)

    References:
        - [Graves, 2011](https://papers.nips.cc/paper/4329-practical-variational-inference-for-neural-networks)
        - [Kingma et al., 2015](https://arxiv.org/abs/1506.02557) (`"local_reparameterization"`)
        - [Murray and Edwards, 1994](https://doi.org/10.1109/72.317730)
        - [Wen et al., 2018](https://arxiv.org/abs/1803.04386) (`"flipout"`)
    """

    def __init__(
        self,
        layer: Layer,
        stddev: float = 0.1,
        *,
        relative_to: Scale | None = None,
        estimator: Estimator = "shared",
        variables: Selector | None = "kernels",
        exclude: Selector | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(layer, keras.Layer):
            raise ValueError(
                f"Layer {layer} supplied to Wrapper isn't a supported layer type. Expected a "
                f"`keras.Layer`. Received: layer={layer} (of type {type(layer).__name__})"
            )
        if "go_backwards" in kwargs:
            # `Bidirectional` makes its second layer by adding this to the config of its first.
            raise ValueError(_BIDIRECTIONAL)
        if isinstance(stddev, keras.optimizers.schedules.LearningRateSchedule):
            raise TypeError(
                "Invalid `stddev`. Expected a number: a layer knows no optimizer step to evaluate a "
                "schedule at. Use `WeightNoiseCallback` for noise that changes during training. "
                f"Received: stddev={stddev}"
            )
        noises.Gaussian(stddev, relative_to)  # Checks both.
        estimators.check_estimator(estimator, layer)
        selectors.check_selectors(variables=variables, exclude=exclude)
        if estimator != "shared" and (variables != "kernels" or exclude is not None):
            raise ValueError(
                f"The estimator {estimator!r} is for the kernel, and only that. Expected "
                "`variables='kernels'` and no `exclude`, or `estimator='shared'`. "
                f"Received: variables={variables}, exclude={exclude}"
            )
        sampling.check_seed(seed)
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
        self.stddev = float(stddev)
        self.relative_to = relative_to
        self.estimator = estimator
        # In this form Keras does not take a selected layer for one more layer of this one.
        self._select = functools.partial(selection.select, variables=variables, exclude=exclude)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self._passes_training = "training" in signature.parameters
        self._warned = False
        self._had_targets = False
        if layer.built:
            self._check_targets()

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
        raise AttributeError(_BIDIRECTIONAL)

    def build(self, *args: Any, **kwargs: Any) -> None:
        """Builds the wrapped layer; takes the same arguments."""
        if self.estimator != "shared":
            shape = args[0] if args else kwargs["input_shape"]
            estimators.check_input_shape(self.estimator, self.layer, shape)
        if not self.layer.built and not built_by_calling(self.layer):
            self.layer.build(*args, **kwargs)
        if self.layer.built:
            self._check_targets()

    def call(self, *args: Any, training: bool | None = None, **kwargs: Any) -> Any:
        """Calls the wrapped layer, under noise if `training`."""
        kwargs = self._arguments(training, kwargs)
        targets = self._targets(args, kwargs) if training and self.stddev > 0 else []
        if not targets:
            return self.layer(*args, **kwargs)
        noise = noises.Gaussian(self.stddev, self.relative_to)
        seed, step = tf.unstack(self.seed_generator.next())
        if self.estimator != "shared":
            return estimators.call(
                self.estimator, self.layer, targets, noise, args, kwargs, seed=seed, step=step
            )
        return call_under_noise(self.layer, [(noise, targets)], args, kwargs, seed=seed, step=step)

    def compute_output_spec(self, *args: Any, training: bool | None = None, **kwargs: Any) -> Any:
        """The wrapped layer's."""
        return self.layer.compute_output_spec(*args, **self._arguments(training, kwargs))

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
            "stddev": self.stddev,
            "relative_to": self.relative_to,
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
    ) -> "GaussianWeightNoise":
        """The inverse of `get_config`."""
        selectors: dict[str, Any] = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects)
            for name in ("variables", "exclude")
            if name in config
        }
        layer: GaussianWeightNoise = super().from_config({**config, **selectors}, custom_objects)
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
        try:
            targets = self._select(self.layer) if self.trainable else []
        except ValueError:  # What there was is frozen or quantized now.
            targets = []
        quantized = [v.path for v in _quantized_kernels(self.layer)]
        if not self._warned and (quantized or not targets):
            self._warned = True
            what = f"the quantized kernels {quantized}" if quantized else "anything: all is frozen"
            warnings.warn(
                f"The layer {self.name!r} does not perturb {what}. Weight noise is for trainable "
                "floating-point weights.",
                stacklevel=2,
            )
        return targets

    def _check_targets(self) -> None:
        """Raises if the wrapped layer, which is built, has nothing to perturb and never had."""
        try:
            self._select(self.layer, frozen=True)
        except ValueError as error:
            if not _quantized_kernels(self.layer):
                raise ValueError(
                    "`GaussianWeightNoise` has nothing to perturb in the layer "
                    f"{self.layer.name!r}. {error}"
                ) from error
        self._had_targets = True


_BIDIRECTIONAL = (
    "`keras.layers.Bidirectional` cannot make a backward copy of a `GaussianWeightNoise`. Wrap it from "
    "outside: `GaussianWeightNoise(keras.layers.Bidirectional(layer))`."
)


def _quantized_kernels(layer: Layer) -> list[Any]:
    return [
        variable
        for each in reachable.sublayers(layer)
        if each.quantization_mode is not None
        for variable in each.variables
        if len(variable.shape) >= 2 and not tf.as_dtype(variable.dtype).is_floating
    ]
