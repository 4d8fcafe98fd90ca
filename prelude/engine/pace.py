"""When to plan the next step while one runs: so late that whoever arrives meanwhile gets in, and
early enough that the device does not wait for the plan.

A step's price says when it should end. From there two lengths are taken off that experience
teaches: how long planning takes, and how much earlier than their price steps end.
"""

_UP, _DOWN = 1.3, 0.97  # a bound that rises and falls so is exceeded by one value in ten
_LEAST_MS = 0.01


class Pace:
    """All times are the engine's clock; ``planning_ms`` and ``early_ms`` are upper bounds of what
    was seen, true nine times in ten."""

    def __init__(self) -> None:
        self.planning_ms = 0.2
        self.early_ms = _LEAST_MS
        self._end_s = 0.0

    def started(self, now_s: float, price_ms: float) -> None:
        """A step of this price has the device to itself from now on."""
        self._end_s = now_s + price_ms / 1e3

    def planned(self, planning_ms: float) -> None:
        """A step was planned and submitted in this time."""
        self.planning_ms = _follow(self.planning_ms, planning_ms)

    def ended(self, price_ms: float, actual_ms: float) -> None:
        """A step is over."""
        self.early_ms = _follow(self.early_ms, price_ms - actual_ms)

    def slack_ms(self, now_s: float) -> float:
        """How long the next step need not be planned; not positive when it is due."""
        return (self._end_s - now_s) * 1e3 - self.planning_ms - self.early_ms


def _follow(bound: float, value: float) -> float:
    """By factors, so that one outlier moves the bound no more than any other value above it."""
    return max(bound * (_UP if value > bound else _DOWN), _LEAST_MS)
