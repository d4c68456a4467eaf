"""`GaussianWeightNoise`: a layer whose kernels are noisy in training."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_weightnoise import noises
from keras_weightnoise._checks import check_amount, check_flag, check_order, is_schedule
from keras_weightnoise._types import Tensor
from keras_weightnoise._weights.reachable import Layer
from keras_weightnoise._weights.rules import check_for_training
from keras_weightnoise._weights.selection import Target
from keras_weightnoise._weights.selectors import Selector
from keras_weightnoise._weights.values import stored_values, widen
from keras_weightnoise.layers import _estimators as estimators
from keras_weightnoise.layers._estimators import Estimator
from keras_weightnoise.layers._weight_noise_wrapper import WeightNoiseWrapper
from keras_weightnoise.layers.noisy_call import call_under_noise
from keras_weightnoise.noises import Noise, Scale
from keras_weightnoise.noises._scales import scale


@keras.saving.register_keras_serializable(package="keras_weightnoise")
class GaussianWeightNoise(WeightNoiseWrapper):
    """Wraps a layer so that its kernels are noisy in training: `w' = w + stddev * scale(w) * n`.

    Use it where some layers of a model are to be trained under weight noise, and not others, or each
    with its own strength; `WeightNoiseCallback` is for whole models. n ~ N(0, 1) is drawn anew for each
    call with `training=True`, once for the whole call: a recurrent layer sees one draw for all of a
    sequence. Gradients are taken at the noisy weights and land on the clean ones, which are never
    written. With `training=False` the wrapper is the wrapped layer, bit for bit: saved, exported and
    evaluated models are clean.

    What is perturbed: every trainable float kernel in the wrapped layer and in the layers inside it, at any
    depth, or what `variables` selects. Kernels are the weights that multiply what comes in: recurrent,
    depthwise and pointwise ones, embeddings, LoRA's factors, and in layers of your own the weights of rank 2
    and above that are not named bias, gamma, beta, scale or alpha. Biases are none, of whatever rank, nor
    are the parameters of normalization layers and of PReLU. Never perturbed are BatchNormalization's
    statistics, the integer kernels of quantized layers, and, unless `frozen=True`, frozen weights: after
    `enable_lora` the noise is on the trainable factors. Where nothing is left to perturb (the layer was
    frozen or quantized after it was built), calls are those of the plain layer, with one warning.

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
            directions goes into `keras.layers.Bidirectional` first, a cell into `keras.layers.RNN`, and that
            in here.
        stddev: Float >= 0, in units of the weights where `relative_to` is `None`, else of that scale.
            Defaults to `None`: `0.1`, or with a `noise` none.
        relative_to: The scale: `None`, `"std"`, `"rms"`, `"max"`, `"range"`, `"channel_max"`,
            `"filter_norm"` or `"weight"`. See `noises.Gaussian`. Defaults to `None`.
        noise: One of `keras_weightnoise.noises` in place of Gaussian noise of `stddev` and `relative_to`,
            such as `noises.PCM()`. With the estimator `"shared"` alone. What is persistent in it lasts as
            long as `seed` is the same: each layer is a chip of its own. Defaults to `None`.
        estimator: `"shared"`, `"flipout"` or `"local_reparameterization"`. Defaults to `"shared"`.
        variables: Which variables of the wrapped layer: `"kernels"` (what multiplies what comes in, such as
            kernels and embeddings; never a bias, gamma or beta), a regular expression searched in
            `variable.path`, a variable, a layer, a layer class, a function of a variable that returns a
            bool, or a list of these. `None`: every trainable float variable. With a variable, a layer or
            a class the wrapper cannot be saved or cloned. Defaults to `"kernels"`.
        exclude: Which of these not, in the same terms. Defaults to `None`.
        frozen: Whether frozen weights are noisy, too, in a frozen layer or under LoRA, as on hardware all
            are. Defaults to `False`.
        seed: Int in [0, 2^32), or `None` for one drawn from what `keras.utils.set_random_seed` seeds.
            Defaults to `None`.
        **kwargs: Keyword arguments of `keras.Layer`, such as `name`. `dtype` is by default the wrapped
            layer's.

    Call arguments:
        Those of the wrapped layer, and `training`.

    Raises:
        ValueError: If `layer` is no layer; if `variables` and `exclude` leave nothing of it (as soon as
            its variables exist), or are given together with another estimator than `"shared"`; if
            `stddev` is negative or not finite; if `noise` is given together with `stddev`, `relative_to` or
            another estimator than `"shared"`; if `relative_to` or `estimator` is not one of these; if
            `estimator` does not apply to the layer or to its inputs. In a call: if a layer assigns its
            kernel itself (as `keras.layers.SpectralNormalization` does), or reads it where noise would
            not reach it or would outlive the call (in a `tf.function` of its own, in `keras.remat`);
            the message names it.
        TypeError: If `stddev` is not a number (a schedule has no step inside of a layer, in `noise`
            neither), `noise` no noise, or `seed` no integer.

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
        stddev: float | None = None,
        *,
        relative_to: Scale | None = None,
        noise: Noise | None = None,
        estimator: Estimator = "shared",
        variables: Selector | None = "kernels",
        exclude: Selector | None = None,
        frozen: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        check_order(layer, keras.Layer, "layer", stddev=stddev)
        if stddev is not None:
            _check_stddev(stddev)
            stddev = float(stddev)
        check_flag("frozen", frozen)
        if noise is None:
            stddev = 0.1 if stddev is None else stddev
            noises.Gaussian(stddev, relative_to)  # Checks both.
        else:
            noise = _checked(noise)
            if (stddev, relative_to, estimator) != (None, None, "shared"):
                raise ValueError(
                    "Invalid `noise`. Expected no `stddev`, `relative_to` or `estimator` beside it: a noise "
                    "has a magnitude of its own, and the other estimators are for Gaussian noise. "
                    f"Received: noise={noise}, stddev={stddev}, relative_to={relative_to!r}, "
                    f"estimator={estimator!r}"
                )
        super().__init__(
            layer, estimator=estimator, variables=variables, exclude=exclude, seed=seed, **kwargs
        )
        self.stddev: Any = stddev  # `None` beside a noise.
        self.relative_to = relative_to
        self.noise = noise
        self.perturbs_frozen = frozen
        self.check_targets_if_built()

    def is_noisy(self, training: bool | None) -> bool:
        """In training, unless the noise is of size 0."""
        return bool(training) and (self.noise is not None or bool(self.stddev))

    def noisy_call(
        self,
        targets: Sequence[Target],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        *,
        seed: Tensor,
        step: Tensor,
    ) -> Any:
        """Calls the wrapped layer under noise: see the base class."""
        if self.estimator == "shared":
            # Made anew, as `stddev` may be set.
            noise = self.noise or noises.Gaussian(self.stddev, self.relative_to)
            assigned = [(noise, list(targets))]
            return call_under_noise(self.layer, assigned, args, kwargs, seed=seed, step=step)
        target = estimators.only_kernel(self.estimator, self.layer, targets)
        (kernel,) = stored_values([target.variable])
        size = self.stddev * scale(widen(kernel), self.relative_to, target.axes)
        return estimators.call(
            self.estimator, self.layer, target, size, args, kwargs, seed=seed, step=step
        )

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, serialized."""
        return {
            **super().get_config(),
            "stddev": self.stddev,
            "relative_to": self.relative_to,
            "noise": keras.saving.serialize_keras_object(self.noise),
            "frozen": self.perturbs_frozen,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> WeightNoiseWrapper:
        """The inverse of `get_config`."""
        if config.get("noise") is not None:
            config = {**config, "stddev": None}  # Earlier files have a number, which was ignored.
        return super().from_config(config, custom_objects)


def _check_stddev(stddev: Any) -> None:
    """Raises unless it is a number >= 0: a noise or a variable, as others take, goes into `noise`."""
    _refuse_schedule("stddev", stddev)
    if isinstance(stddev, Noise):
        raise TypeError(
            "Invalid `stddev`. Expected a number, or the noise by its name, `noise=...`. "
            f"Received: stddev={stddev}"
        )
    check_amount("stddev", stddev)


def _checked(noise: Any) -> Noise:
    """The noise, or an error if it is none that a layer can have."""
    noise = noises.get(noise)
    check_for_training(noise)
    for magnitude in noise.magnitudes:
        _refuse_schedule("noise", magnitude, of=noise)
    return noise  # type: ignore[no-any-return]


def _refuse_schedule(name: str, magnitude: Any, of: Any = None) -> None:
    """Raises if a magnitude is a schedule."""
    if is_schedule(magnitude):
        raise TypeError(
            f"Invalid `{name}`. Expected a number: a layer knows no optimizer step to evaluate a "
            "schedule at. Use `WeightNoiseCallback` for noise that changes during training. "
            f"Received: {name}={magnitude if of is None else of}"
        )
