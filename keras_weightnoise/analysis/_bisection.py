"""The search of `noise_tolerance`."""


class Bisection:
    """A bisection of [0, `high`]: which magnitude to try next, and which is the largest borne.

    Args:
        drop: The cost borne.
        high: The largest magnitude, tried first.
        bisections: How often the range is halved.
        within: How close to `drop` is close enough.

    Attributes:
        costs: The costs of the magnitudes tried.
    """

    def __init__(self, drop: float, high: float, bisections: int, within: float) -> None:
        self.drop = drop
        self.high = high
        self.costs: dict[float, float] = {}
        self._bisections = bisections
        self._within = within

    @property
    def settings(self) -> dict[str, float]:
        """What the search depends on, beside `drop`."""
        return {
            "high": float(self.high),
            "bisections": self._bisections,
            "within": float(self._within),
        }

    @property
    def tried(self) -> str:
        """The arguments that say which magnitudes are tried."""
        return f"high={self.high}, bisections={self._bisections}"

    @property
    def largest(self) -> float:
        """The largest magnitude borne so far."""
        return self._state()[0]

    def next(self) -> float | None:
        """The magnitude to try next, if any."""
        return self._state()[1] if len(self.costs) <= self._bisections else None

    def _state(self) -> tuple[float, float | None]:
        low, high = 0.0, float(self.high)
        magnitude = high
        while magnitude in self.costs:
            if abs(self.costs[magnitude] - self.drop) <= self._within:
                return magnitude, None
            # Not a number is not borne.
            if self.costs[magnitude] <= self.drop:
                low = magnitude
            else:
                high = magnitude
            if low == high:
                return low, None
            magnitude = (low + high) / 2.0
        return low, magnitude
