"""`Prior`, the base class of the priors."""

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from keras_weightnoise._types import Tensor


@dataclasses.dataclass(frozen=True)
class Prior(abc.ABC):
    """Base class of the priors.

    A subclass is a frozen dataclass, registered with Keras, that says what the divergence is, and with which
    numbers its own parameters begin if it learns some.
    """

    @property
    def initial_parameters(self) -> dict[str, float]:
        """The parameters that are trained with the weights, a scalar each, by name."""
        return {}

    @abc.abstractmethod
    def kl_divergence(
        self,
        mean: Tensor,
        stddev: Tensor,
        parameters: Sequence[Tensor],
        draw: Callable[[], Tensor],
    ) -> Tensor:
        """KL(N(mean, stddev^2) || prior), in nats, summed over the weights of one variable.

        Args:
            mean: The means of the weights, `float32` or `float64`.
            stddev: Their standard deviations, in that shape and dtype.
            parameters: The values of its trained parameters.
            draw: Returns independent numbers n ~ N(0, 1) in that shape and dtype, others for each call.
        """

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Prior":
        """The inverse of `get_config`."""
        return cls(**config)
