"""When to plan the next step while one runs: so late that whoever arrives meanwhile gets in, and
early enough that the device does not wait for the plan.

A step's price says when it should end. How long before that its successor is planned is learned
from what happens: planning takes its time, prices err, a sleeping engine wakes up late.
"""

_UP, _DOWN = 1.2, 0.99  # so the device waits after one step in twenty, and not for long
_FIRST_MS, _LEAST_MS = 0.5, 0.02


class Pace:
    """All times are the engine's clock. ``margin_ms`` is how long before its predicted end a step
    should have a successor planned."""

    def __init__(self) -> None:
        self.margin_ms = _FIRST_MS
        self._start_s = 0.0
        self._price_ms = 0.0
        self._submitted_s = 0.0

    def started(self, now_s: float, price_ms: float) -> None:
        """A step of this price has the device to itself from now on."""
        self._start_s, self._price_ms = now_s, price_ms

    def submitted(self, now_s: float) -> None:
        """The successor of the step that runs is planned."""
        self._submitted_s = now_s

    def ended(self, run_ms: float) -> None:
        """The step that ran took this long: was its successor there in time? One step moves the
        margin by a fixed factor, so a stall does no more harm than any other delay."""
        is_late = self._submitted_s > self._start_s + run_ms / 1e3
        margin_ms = self.margin_ms * (_UP if is_late else _DOWN)
        self.margin_ms = max(min(margin_ms, self._price_ms), _LEAST_MS)

    def slack_ms(self, now_s: float) -> float:
        """How long the next step need not be planned; not positive when it is due."""
        return (self._start_s - now_s) * 1e3 + self._price_ms - self.margin_ms
