"""A token bucket: so many a minute, evenly, and a minute's worth at once after a quiet minute."""


class Bucket:
    """Full at first. ``take`` may overdraw it, for what is used is known only afterwards; the debt
    then has to be waited for. Times are seconds of one monotonic clock."""

    def __init__(self, per_min: float, now_s: float) -> None:
        self.per_min = per_min
        self._level = per_min
        self._as_of_s = now_s

    def level(self, now_s: float) -> float:
        """What may be taken now; negative while in debt."""
        self._refill(now_s)
        return self._level

    def take(self, amount: float, now_s: float) -> None:
        self._refill(now_s)
        self._level -= amount

    def give(self, amount: float, now_s: float) -> None:
        """Return what was taken and not used. Never more than a full bucket."""
        self._refill(now_s)
        self._level = min(self._level + amount, self.per_min)

    def wait_s(self, amount: float, now_s: float) -> float:
        """Until ``amount``, at most a full bucket, may be taken."""
        missing = min(amount, self.per_min) - self.level(now_s)
        return max(missing, 0.0) * 60.0 / self.per_min

    def reset_s(self, now_s: float) -> float:
        """Until it is full."""
        return self.wait_s(self.per_min, now_s)

    def resize(self, per_min: float, now_s: float) -> None:
        """Another limit from now on; what has been taken stays taken."""
        self._refill(now_s)
        self._level += per_min - self.per_min
        self.per_min = per_min

    def _refill(self, now_s: float) -> None:
        passed_s = max(now_s - self._as_of_s, 0.0)
        self._level = min(self._level + passed_s * self.per_min / 60.0, self.per_min)
        self._as_of_s = max(now_s, self._as_of_s)
