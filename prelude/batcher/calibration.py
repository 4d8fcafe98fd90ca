"""What a model's distributions are off by, learned from answers that came: which of its levels
covers a share of them, and how sure it may be that an answer gets long.
"""

from collections.abc import Sequence
from math import exp, log

from prelude.batcher.lengths import at_most

TARGETS = (0.5, 0.9)

_RATE = 0.005  # of adaptive conformal inference
_LEVELS = (0.02, 0.995)  # as far as it may go
_ODDS_RATE = 0.03
_SLOPES, _OFFSETS = (0.25, 4.0), (-4.0, 4.0)
_RARE = 1e-4


class Calibration:
    """``levels`` are those to ask the model for in order to get the quantiles of ``TARGETS``;
    the logarithm of the odds of more than ``quantum`` tokens is stretched and shifted by
    ``odds``."""

    def __init__(self, quantum: int) -> None:
        self.quantum = quantum
        self.levels = list(TARGETS)
        self.odds = [1.0, 0.0]

    def p_deep(self, cdf: Sequence[float]) -> float:
        """P(more than ``quantum`` tokens)."""
        return self._chance(_log_odds(1.0 - at_most(cdf, self.quantum)))

    def learn(self, cdf: Sequence[float], num_tokens: int, *, censored: bool) -> None:
        """The answer of which the model thought ``cdf`` ended with ``num_tokens``, or was cut off
        there: that counts by its chances from then on."""
        upto = at_most(cdf, num_tokens)
        below = upto if censored else at_most(cdf, num_tokens - 1)
        mass = max((1.0 if censored else upto) - below, 1e-9)
        self._move_levels(below, mass)
        deep = 1.0 - at_most(cdf, self.quantum)
        outcome = float(num_tokens > self.quantum)
        if censored and not outcome:
            outcome = min(deep / mass, 1.0)
        self._move_odds(_log_odds(deep), outcome)

    def restore(self, levels: Sequence[float], odds: Sequence[float]) -> None:
        self.levels = [_between(level, _LEVELS) for level in levels]
        self.odds = [_between(odds[0], _SLOPES), _between(odds[1], _OFFSETS)]

    def _move_levels(self, below: float, mass: float) -> None:
        """Adaptive conformal inference (Gibbs and Candes, 2021): up by a little after a miss, down
        by less after a hit. A length that fills part of the distribution, as all do, hits in
        part."""
        for i, target in enumerate(TARGETS):
            hit = _between((self.levels[i] - below) / mass, (0.0, 1.0))
            self.levels[i] = _between(self.levels[i] + _RATE * (target - hit), _LEVELS)

    def _move_odds(self, at: float, outcome: float) -> None:
        """Platt's scaling, online: a step of logistic regression."""
        error = outcome - self._chance(at)
        self.odds[0] = _between(self.odds[0] + _ODDS_RATE * error * at, _SLOPES)
        self.odds[1] = _between(self.odds[1] + _ODDS_RATE * error, _OFFSETS)

    def _chance(self, at: float) -> float:
        return 1.0 / (1.0 + exp(-(self.odds[0] * at + self.odds[1])))


def _log_odds(chance: float) -> float:
    chance = _between(chance, (_RARE, 1.0 - _RARE))
    return log(chance / (1.0 - chance))


def _between(value: float, limits: tuple[float, float]) -> float:
    return min(max(value, limits[0]), limits[1])
