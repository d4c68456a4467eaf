"""Reads see noise: one call of a layer in which some of its variables read as other values.

Nothing is written to the variables. The call runs inside a `keras.StatelessScope`, which every read of
a `keras.Variable` goes through. Such a scope also holds back what the call assigns (BatchNormalization's
statistics, seeds, metrics) and hands it out at its end; ours writes it through at once instead, since
what a loop's body assigned is out of reach after the loop.

Some reads do not go through the scope, or outlive it. They are found, and are errors: see
`_noisy_reads`.
"""

import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_weightnoise import noises
from keras_weightnoise._checks import check_flag, check_model, is_number, shown
from keras_weightnoise._types import VARIABLE_TYPES, Tensor
from keras_weightnoise._weights import perturbation, selectors
from keras_weightnoise._weights.building import build
from keras_weightnoise._weights.reachable import Layer
from keras_weightnoise._weights.rules import Assigned, assign, get_rules, refuse_codes
from keras_weightnoise._weights.selection import Target
from keras_weightnoise._weights.selectors import Selector
from keras_weightnoise._weights.values import stored_values
from keras_weightnoise.layers._noisy_reads import NoisyReads, Value
from keras_weightnoise.noises import Noise


def noisy_call(
    layer_or_model: Layer,
    noise: Noise | noises.Magnitude | Mapping[Any, Any] | Sequence[Any],
    *args: Any,
    seed: int | Tensor,
    step: int | Tensor,
    variables: Selector | None = None,
    exclude: Selector | None = None,
    frozen: bool = False,
    **kwargs: Any,
) -> Any:
    """Calls a layer or model once with noise on its weights: `f(x; w + n(seed, step))`.

    For custom training loops. Every trainable float variable that the call reads is read as its noisy
    value; the variables themselves are never written, so that gradients of what is returned with
    respect to `trainable_variables` are the gradients at the noisy point, and an optimizer applies them
    to the clean weights. Everything else the call does (the `training` argument, masks, Dropout,
    BatchNormalization's statistics, losses added) is as in `layer_or_model(*args, **kwargs)`.

    The noise is a pure function of `(seed, step, variable)`, the same as `WeightNoiseCallback`'s:
    calls with the same `seed` and `step` see the same noise. Take the step from the optimizer:
    `step=optimizer.iterations` (of a `LossScaleOptimizer`, from its `inner_optimizer`: Keras 3.5 counts
    only there). A call under noise with `training=False` is noisy, too.

    In a function that `strategy.run` runs on several replicas, on one machine or several workers, all
    replicas see the same noise, as one device would. For noise of each replica's own, add the replica to
    the seed, and multiply so that no two runs share a draw (to the step it must not be added: schedules
    are evaluated there):

        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        seed = seed * strategy.num_replicas_in_sync + replica

    Args:
        layer_or_model: A `keras.Layer` or `keras.Model` whose variables exist.
        noise: One of `keras_weightnoise.noises`, or a standard deviation or schedule of it, which means
            `noises.Gaussian(stddev=noise)`. A schedule is evaluated at `step`. A scalar tensor or variable
            serves as a magnitude that adapts, such as that of `AdaptiveStddev`; to learn one, which takes its
            gradient, see `VariationalWeightNoise`. Or a mapping from
            selectors to such, or a list of pairs, as `WeightNoiseCallback` takes.
        *args: Positional arguments of the call.
        seed: Scalar integer (a Python int, tensor or variable), modulo 2^32.
        step: Scalar integer (a Python int, tensor or variable), modulo 2^32. A `tf.function` is traced anew
            for each Python int it is called with: give it a tensor or the optimizer's `iterations`.
        variables: Which variables: `"kernels"` (what multiplies what comes in, such as kernels and
            embeddings; never a bias, gamma or beta), a regular expression searched in `variable.path`, a
            variable, a layer, a layer class, a function of a variable that returns a bool, or a list of
            these. `None`: every trainable float variable. Defaults to `None`.
        exclude: Which of these not, in the same terms. Defaults to `None`.
        frozen: Whether frozen weights are noisy, too, such as the base weights under LoRA or the trunk in
            fine-tuning: on noisy hardware all weights are, trained or not. Defaults to `False`.
        **kwargs: Keyword arguments of the call.

    Returns:
        What the call returns.

    Raises:
        ValueError: If there are no trainable float variables, or a selector matches none; if a layer
            assigns one of them in its call (as `keras.layers.SpectralNormalization` does); if noise
            would not reach one, or would outlive the call: reads in a `tf.function` that the call runs,
            in `keras.remat`, or in anything that reads without Keras. The message names the layer and
            the variable.
        TypeError: If `noise`, `seed` or `step` is of another type.

    Example:

    >>> import keras, tensorflow as tf
    >>> from keras_weightnoise import noisy_call
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> optimizer = keras.optimizers.SGD(0.1)
    >>> x, y = tf.ones((8, 4)), tf.zeros((8, 1))
    >>> @tf.function
    ... def train_step(x, y):
    ...     with tf.GradientTape() as tape:
    ...         outputs = noisy_call(
    ...             model, 0.1, x, seed=1, step=optimizer.iterations, training=True
    ...         )
    ...         loss = tf.reduce_mean((outputs - y) ** 2)
    ...     gradients = tape.gradient(loss, model.trainable_variables)
    ...     optimizer.apply(gradients, model.trainable_variables)
    ...     return loss
    >>> losses = [float(train_step(x, y)) for _ in range(20)]
    >>> float(tf.reduce_mean(model(x) ** 2)) < 1.0
    True

    References:
        - [Graves, 2011](https://papers.nips.cc/paper/4329-practical-variational-inference-for-neural-networks)
    """
    check_model(layer_or_model, keras.Layer, "layer_or_model", noise=noise)
    if args and (is_number(args[0]) or isinstance(args[0], Noise)) and getattr(noise, "shape", ()):
        raise TypeError(
            "Invalid `noise`. Expected the noise before the inputs. "
            f"Received: noise={shown(noise)}, and {args[0]} behind it"
        )
    check_flag("frozen", frozen)
    rules = get_rules(noise)
    selectors.check_selectors(variables=variables, exclude=exclude)
    seed, step = _integer("seed", seed), _integer("step", step)
    build(layer_or_model, args, kwargs)
    assigned = assign(layer_or_model, rules, variables, exclude, frozen=frozen, codes=True)
    refuse_codes(assigned, "noisy_call")
    return call_under_noise(layer_or_model, assigned, args, kwargs, seed=seed, step=step)


def call_under_noise(
    layer: Layer,
    assigned: Sequence[Assigned],
    args: Sequence[Any],
    kwargs: dict[str, Any],
    *,
    seed: Tensor,
    step: Tensor,
) -> Any:
    """Calls `layer(*args, **kwargs)` with each target read under noise: see `substituted_call`."""
    targets = [target for _, targets in assigned for target in targets]
    values = perturbation.perturb_assigned(
        assigned,
        stored_values([target.variable for target in targets]),
        seed=seed,
        step=step,
        magnitudes=[noise.magnitudes_at(step) for noise, _ in assigned],
    )
    return substituted_call(layer, targets, values, args, kwargs)


def substituted_call(
    layer: Layer,
    targets: Sequence[Target],
    values: Sequence[Value],
    args: Sequence[Any],
    kwargs: dict[str, Any],
) -> Any:
    """Calls `layer(*args, **kwargs)` with each target's variable reading as its value.

    Args:
        layer: A built layer or model.
        targets: Variables to substitute.
        values: A tensor for each, in the variable's shape and stored dtype; or what makes it when it is read.
        args: Positional arguments of the call.
        kwargs: Keyword arguments of the call.

    Returns:
        What the call returns.

    Raises:
        ValueError: If a target is assigned, or read in a way that substitution does not reach.
    """
    scope = NoisyReads(targets, values)
    # The tape sees a variable itself being read, by whatever route, where the scope does not.
    with tf.GradientTape() as tape, scope:
        outputs = layer(*args, **kwargs)
    scope.check(tape.watched_variables())
    _add_losses(layer, scope.losses)
    return outputs


def _add_losses(layer: Layer, losses: Sequence[Tensor]) -> None:
    for loss in losses:
        try:
            layer.add_loss(loss)
        except NotImplementedError:
            # Functional models refuse; their losses are those of their layers, whichever holds them.
            _add_losses(layer.layers[0], [loss])


def _integer(name: str, value: Any) -> Tensor:
    """A scalar integer as a tensor."""
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return tf.constant(int(value) % 2**32, tf.int64)
    if isinstance(value, VARIABLE_TYPES) or tf.is_tensor(value):
        tensor = tf.convert_to_tensor(value)
        if tensor.dtype.is_integer and tensor.shape.rank == 0:
            return tensor
    raise TypeError(
        f"Invalid `{name}`. Expected a scalar integer: an int, a tensor, or a variable. "
        f"Received: {name}={value} (of type {type(value).__name__})"
    )
