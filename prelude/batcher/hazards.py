"""How long answers get, learned while they come: a discrete hazard model.

For every bin of lengths there is a logarithm of the odds that an answer which got there ends there.
It is the sum of what the recent history says (ends over answers at risk, of the client, shrunk to
those of everybody, as Kaplan and Meier count them) and of what the request's features add, learned
online by logistic regression with Adagrad's steps. An answer that was cut off, or is still under
way, is evidence that it did not end in the bins it has passed, and of nothing beyond.
"""

import numpy as np
from numpy.typing import NDArray

from prelude.batcher.features import NUM_CLIENTS, NUM_ROWS, Features
from prelude.batcher.lengths import EDGES, NUM_BINS, bin_of

Floats = NDArray[np.float32]

_FIRST_MEDIAN, _FIRST_SHAPE = 32.0, 1.3  # of the log-logistic law believed in before any answer
_PRIOR, _SHRINK = 4.0, 2.0  # answers that the first belief, and everybody's history, count for
_FADE = np.array([0.995, 0.95], np.float32)  # of history, an answer: everybody's, a client's
_STEP = 0.15
_FIRST_SQUARE, _MAX_SQUARE = 0.03, 100.0  # the latter keeps steps from vanishing
_RARE = 1e-4


class HazardModel:
    """``weights`` and sums of their squared gradients float32 [NUM_ROWS, NUM_BINS]; ``ends`` and
    ``risks``, the faded counts of answers, [NUM_CLIENTS, NUM_BINS], everybody's in row 0."""

    def __init__(self) -> None:
        self.weights = np.zeros((NUM_ROWS, NUM_BINS), np.float32)
        self.squares = np.full((NUM_ROWS, NUM_BINS), _FIRST_SQUARE, np.float32)
        self.ends = np.zeros((NUM_CLIENTS, NUM_BINS), np.float32)
        self.risks = np.zeros((NUM_CLIENTS, NUM_BINS), np.float32)
        self.risks[0] = _PRIOR
        self.ends[0] = np.float32(_PRIOR) * _first_hazards()

        self._histories: dict[int, Floats] = {}

    def restore(self, weights: Floats, squares: Floats, ends: Floats, risks: Floats) -> None:
        """Go on from what another has learned."""
        self.weights, self.squares, self.ends, self.risks = weights, squares, ends, risks
        self._histories.clear()

    def cdf(self, of: Features) -> Floats:
        """P(length <= last of the bin), [NUM_BINS]."""
        return _cdf(self._history(of.client) + self.weights.take(of.rows, axis=0).sum(axis=0))

    def client_cdf(self, client: int) -> Floats:
        """The same by the client's history alone."""
        return _cdf(self._history(client).copy())

    def learn(self, of: Features, num_tokens: int, *, censored: bool, since: int = 0) -> None:
        """An answer ended with ``num_tokens``; a ``censored`` one did not end with them. What its
        first ``since`` tokens say has been learned before."""
        first = bin_of(since + 1)
        after = bin_of(num_tokens + 1) if censored else bin_of(num_tokens) + 1
        if after <= first:
            return
        all_weights, all_squares = self.weights[:, first:after], self.squares[:, first:after]
        weights, squares = all_weights[of.rows], all_squares[of.rows]
        odds = self._history(of.client)[first:after] + weights.sum(axis=0)
        odds *= 0.5
        slopes = _logistic(odds)
        if not censored:
            slopes[-1] -= 1.0
        squares += slopes * slopes
        np.minimum(squares, _MAX_SQUARE, out=squares)
        all_squares[of.rows] = squares
        slopes *= _STEP
        weights -= np.divide(slopes, np.sqrt(squares, out=squares), out=squares)
        all_weights[of.rows] = weights
        for row, fade in zip((0, of.client), _FADE, strict=True):
            risks, ends = self.risks[row, first:after], self.ends[row, first:after]
            risks *= fade
            risks += 1.0
            ends *= fade
            if not censored:
                ends[-1] += 1.0
        self._histories.clear()

    def _history(self, client: int) -> Floats:
        """What the client's history says, as the logarithm of the odds, [NUM_BINS]: the same for
        all that it asks until something is learned."""
        found = self._histories.get(client)
        if found is None:
            everybody = self.ends[0] / self.risks[0]
            history = (self.ends[client] + _SHRINK * everybody) / (self.risks[client] + _SHRINK)
            history = np.minimum(np.maximum(history, _RARE), 1.0 - _RARE)
            found = self._histories[client] = np.log(history / (1.0 - history))
        return found


def _cdf(odds: Floats) -> Floats:
    """Of the logarithms of the odds to end in each bin, in their place."""
    odds *= -0.5
    survival = _logistic(odds).cumprod()
    cdf: Floats = np.subtract(1.0, survival, out=survival)
    return cdf


def _logistic(half: Floats) -> Floats:
    """Of twice ``half``, in its place."""
    np.tanh(half, out=half)
    half *= 0.5
    half += 0.5
    return half


def _first_hazards() -> Floats:
    ends = np.array(EDGES[1:], np.float64) - 0.5
    survival = 1.0 / (1.0 + (ends / _FIRST_MEDIAN) ** _FIRST_SHAPE)
    before = np.concatenate(([1.0], survival[:-1]))
    return (1.0 - survival / before).astype(np.float32)
