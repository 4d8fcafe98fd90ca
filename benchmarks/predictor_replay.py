"""Traffic replayed in the time of tokens, so that a predictor learns when an engine would let it:
after the answer, and never from the answer it is asked about. And how good the predictions were."""

import heapq
import random
from bisect import insort
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from prelude.batcher.predictor import Predictor
from prelude.types.request import Request
from prelude.types.service import Prediction

Floats = NDArray[np.float64]

WIDTH = 32  # answers under way at once
TARGETS = (0.5, 0.9)


class Learner(Protocol):
    def predict(self, request: Request) -> Prediction | None: ...
    def survived(self, request: Request, num_tokens: int) -> None: ...
    def observe(self, request: Request, num_tokens: int, *, censored: bool) -> None: ...


@dataclass(slots=True)
class Quantiles:
    """The baselines: exact quantiles of all lengths seen so far under the same ``key``, and of
    everybody's while there are fewer than ``enough`` of them."""

    key: Callable[[Request], str]
    enough: int = 8
    seen: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    everybody: list[int] = field(default_factory=list)

    def predict(self, request: Request) -> Prediction | None:
        own = self.seen[self.key(request)]
        lengths = own if len(own) >= self.enough else self.everybody
        if not lengths:
            return None
        q50, q90 = (float(lengths[min(int(t * len(lengths)), len(lengths) - 1)]) for t in TARGETS)
        return Prediction(q50, q90, 0.0)

    def survived(self, request: Request, num_tokens: int) -> None:
        """They learn from ends alone."""

    def observe(self, request: Request, num_tokens: int, *, censored: bool) -> None:
        insort(self.seen[self.key(request)], num_tokens)
        insort(self.everybody, num_tokens)


class Blinkered:
    """A predictor that is shown less: what an input or a mechanism is worth."""

    def __init__(
        self, learner: Predictor, show: Callable[[Request], Request], *, partial: bool = True
    ) -> None:
        self._learner, self._show, self._partial = learner, show, partial

    def predict(self, request: Request) -> Prediction | None:
        return self._learner.predict(self._show(request))

    def survived(self, request: Request, num_tokens: int) -> None:
        if self._partial:
            self._learner.survived(self._show(request), num_tokens)

    def observe(self, request: Request, num_tokens: int, *, censored: bool) -> None:
        self._learner.observe(self._show(request), num_tokens, censored=censored)


def replay(
    learner: Learner,
    requests: Sequence[Request],
    lengths: Sequence[int],
    cuts: Sequence[int] | None = None,
) -> list[Prediction | None]:
    """What ``learner`` says to each request when it is let in: the next one as soon as fewer than
    ``WIDTH`` are under way. ``cuts`` are the tokens after which the client leaves."""
    found: list[Prediction | None] = []
    under_way: list[tuple[int, int, int]] = []  # (when, request, its tokens then)
    for at, request in enumerate(requests):
        now = 0
        while len(under_way) >= WIDTH:
            now = _next(learner, under_way, requests, lengths, cuts)
        found.append(learner.predict(request))
        heapq.heappush(under_way, (now + 1, at, 1))
    return found


def _next(
    learner: Learner,
    under_way: list[tuple[int, int, int]],
    requests: Sequence[Request],
    lengths: Sequence[int],
    cuts: Sequence[int] | None,
) -> int:
    """The next answer that ends, or has doubled, does so. Returns when."""
    now, at, done = heapq.heappop(under_way)
    length = lengths[at]
    last = length if cuts is None else min(length, cuts[at])
    if done == last:
        learner.observe(requests[at], done, censored=done < length)
    else:
        learner.survived(requests[at], done)
        more = min(done, last - done)
        heapq.heappush(under_way, (now + more, at, done + more))
    return now


def patience(count: int, mean: float, seed: int = 0) -> list[int]:
    """After how many tokens clients leave."""
    rng = random.Random(seed)
    return [max(1, round(rng.expovariate(1.0 / mean))) for _ in range(count)]


def pinball(quantiles: Floats, lengths: Floats, target: float) -> Floats:
    miss = lengths - quantiles
    return np.maximum(target * miss, (target - 1.0) * miss)


def ranks(values: Floats) -> Floats:
    """Average ranks, equal values sharing theirs."""
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2.0)[where], np.float64)


def spearman(a: Floats, b: Floats) -> float:
    if not a.std() or not b.std():
        return 0.0
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def kendall(a: Floats, b: Floats) -> float:
    """Tau-b, over all pairs."""
    agreed = free_a = free_b = 0
    for i in range(len(a) - 1):
        sign_a, sign_b = np.sign(a[i + 1 :] - a[i]), np.sign(b[i + 1 :] - b[i])
        agreed += int((sign_a * sign_b).sum())
        free_a += int(np.count_nonzero(sign_a))
        free_b += int(np.count_nonzero(sign_b))
    return agreed / float(np.sqrt(float(free_a) * free_b)) if free_a and free_b else 0.0


def columns(found: Sequence[Prediction | None], first: int) -> Floats:
    """[requests, (q50, q90, p_deep)] from ``first`` on, all of which must be predicted."""
    return np.array([list(prediction or ()) for prediction in found[first:]], np.float64)


def score(table: Floats, lengths: Floats) -> dict[str, Any]:
    """Losses in tokens and in logarithms; ``coverage`` is the share of answers no longer than
    predicted, ``below`` of those that were shorter: lengths are whole, so that a calibrated
    quantile lies between the two."""
    logs = np.log(np.maximum(lengths, 1.0))
    result: dict[str, Any] = {}
    for column, target in enumerate(TARGETS):
        quantiles = table[:, column]
        result[f"q{round(100 * target)}"] = {
            "pinball_tokens": _round(pinball(quantiles, lengths, target).mean()),
            "pinball_log": _round(pinball(np.log(np.maximum(quantiles, 1)), logs, target).mean()),
            "coverage": _round((lengths <= quantiles).mean()),
            "below": _round((lengths < quantiles).mean()),
        }
    result["kendall"] = _round(kendall(table[:, 0], lengths))
    result["spearman"] = _round(spearman(table[:, 0], lengths))
    return result


def _round(value: float) -> float:
    return round(float(value), 4)
