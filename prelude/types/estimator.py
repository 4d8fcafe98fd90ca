"""Keeps a price list true: every step's real time corrects what the step was made of.

A Kalman filter over the logarithms of the list's numbers. Each number is believed to be right but
for a factor of its own and, within a curve, a common one, so that what has not been seen follows
its neighbours; beliefs fade back to that, so that the list can change at any time. One more number
is the state of the machine, which comes and goes within some ten steps: a neighbour, a clock that
drops, anything that slows all launches alike. Residuals are kept as quantiles by kind of launch.
Of launches in a row that cost what they should, one in four moves the filter.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from math import exp, log
from typing import NamedTuple

import numpy as np

from prelude.types.plan import Launch, LaunchKind
from prelude.types.prices import MODES, PriceTable, Sums, sums_of

_OWN, _COMMON = 0.3, 0.3  # standard deviations of the logarithm, of a table that was measured
_UNKNOWN = 3.0  # times as much, of one that other programs left behind
_FADE, _FADE_LAUNCHES = 0.984, 16  # of what was learned, after so many launches
_MACHINE, _MACHINE_FADE = 0.1, 0.9
_DULL = 4  # of so many launches in a row that cost what they should, one is learned from
_MAX_DULL = 0.1  # off by more than that, no launch cost what it should
_CLIP = 3.0  # times the usual error: a launch further off was disturbed
_FIRST_ERROR = 0.3
_MIN_ERROR, _MAX_ERROR = 0.005, 1.4
_ERROR_STEP = 0.05
_QUANTILE_STEP = 0.1

_Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


class Quantiles(NamedTuple):
    """Real time over price: half of all launches took less than ``p50`` times their price, nine
    in ten less than ``p90`` times."""

    p50: float = 1.0
    p90: float = 1.0
    num: int = 0

    def moved(self, ratio: float, error: float) -> "Quantiles":
        """After one more launch: by steps of the usual ``error``, that settle."""
        step = error * max(_QUANTILE_STEP, 1.0 / (self.num + 1))
        return Quantiles(
            self.p50 + step * (0.5 if ratio > self.p50 else -0.5),
            self.p90 + step * (0.9 if ratio > self.p90 else -0.1),
            self.num + 1,
        )


class PriceEstimator:
    """``table`` is the list as corrected so far. One observation costs constant time.

    ``error`` is the running median of the relative error of a launch's price. ``padded`` says that
    the device runs all of a launch's bucket.
    """

    def __init__(self, table: PriceTable, *, padded: bool = False) -> None:
        self._padded = padded
        self.restart(table)

    def restart(self, table: PriceTable, *, known: bool = True) -> None:
        """Other programs run from now on. ``known`` is False where ``table`` is not theirs."""
        self.table = replace(table, scale=1.0)
        self.error = _FIRST_ERROR
        self._quantiles = dict[LaunchKind, Quantiles]()
        curves = (table.body, *table.heads)
        self._first = np.cumsum([0, *(len(curve.ms) for curve in curves)]).tolist()
        self._ms = np.array([*(ms for c in curves for ms in c.ms), *_attention(table)])
        self._prior = _covariance(self._first, len(self._ms)) * (1.0 if known else _UNKNOWN**2)
        self._belief = self._prior.copy()
        self._launches = self._dull = 0
        self._shares = np.zeros(len(self._ms) + 1)

    def quantiles(self, kind: LaunchKind) -> Quantiles:
        return self._quantiles.get(kind, Quantiles())

    def observe(self, launch: Launch, actual_ms: float) -> None:
        """The launch, priced when it was planned, took ``actual_ms``."""
        if launch.price_ms <= 0.0 or actual_ms <= 0.0:
            return
        key, sums = launch.key, sums_of(launch.rows, launch.key.mode)
        if self._padded:
            sums = sums.padded(key)
        quantiles = self.quantiles(key.kind).moved(actual_ms / launch.price_ms, self.error)
        self._quantiles[key.kind] = quantiles
        residual = log(actual_ms / self.table.step_ms(sums))
        is_dull = abs(residual) <= min(self.error, _MAX_DULL)
        self._dull = self._dull + 1 if is_dull else 0
        if self._dull % _DULL == 0:
            self._correct(sums, residual)
        moved = self.error * exp(_ERROR_STEP if abs(residual) > self.error else -_ERROR_STEP)
        self.error = min(max(moved, _MIN_ERROR), _MAX_ERROR)

    def _correct(self, sums: Sums, residual: float) -> None:
        """One step of the filter; the last state is the machine's."""
        belief, shares, limit = self._belief, self._shares, _CLIP * self.error
        self._launches += 1
        if self._launches % _FADE_LAUNCHES == 0:
            belief *= _FADE
            belief += (1.0 - _FADE) * self._prior
        belief[-1] *= _MACHINE_FADE
        belief[:, -1] *= _MACHINE_FADE
        belief[-1, -1] += (1.0 - _MACHINE_FADE**2) * _MACHINE**2
        shares[:] = 0.0
        for at, ms in self._parts(sums):
            shares[at] = ms
        shares /= shares.sum()
        shares[-1] = 1.0
        toward = belief @ shares
        gain = toward / (shares @ toward + self.error**2)
        belief -= gain[:, None] * toward
        move = gain * min(max(residual, -limit), limit)
        self._ms *= np.exp(move[:-1])
        scale = exp(_MACHINE_FADE * log(self.table.scale) + move[-1])
        self.table = self._table(scale)

    def _parts(self, sums: Sums) -> Iterator[tuple[int, float]]:
        """Every number that has to do with the launch, and the milliseconds it stands for."""
        mode, ms = MODES.index(sums.mode), self._ms
        for at, part in self.table.body.parts(sums.tokens):
            yield at, part * ms[at]
        first = self._first[1 + mode]
        for at, part in self.table.heads[mode].parts(sums.sampled):
            yield first + at, part * ms[first + at]
        yield len(ms) - 2, sums.ctx * ms[-2]
        yield len(ms) - 1, sums.pairs * ms[-1]

    def _table(self, scale: float) -> PriceTable:
        table, first, ms = self.table, self._first, self._ms.tolist()
        body, greedy, filtered, full = (
            curve.with_ms(ms[first[i] : first[i + 1]])
            for i, curve in enumerate((table.body, *table.heads))
        )
        return PriceTable(body, ms[-2], ms[-1], (greedy, filtered, full), scale)


def _attention(table: PriceTable) -> tuple[float, float]:
    return table.ms_per_ctx_token, table.ms_per_pair


def _covariance(first: list[int], count: int) -> _Floats:
    """Of the numbers' logarithms, and of the machine's state: nothing is known of that."""
    covariance = np.zeros((count + 1, count + 1))
    for low, high in pairwise(first):
        covariance[low:high, low:high] = _COMMON**2
    covariance[range(count), range(count)] += _OWN**2
    return covariance
