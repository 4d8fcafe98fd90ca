"""The length of an answer, guessed when its request comes: learned online from this server's own
traffic, warm-started from a file, and never in the way of a request: what goes wrong here is
counted and said once, and means that there is no prediction.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from prelude.batcher.arrays import Arrays, read_arrays, write_arrays
from prelude.batcher.calibration import TARGETS, Calibration
from prelude.batcher.features import Features, client_row, features
from prelude.batcher.hazards import Floats, HazardModel
from prelude.batcher.lengths import quantile
from prelude.types.request import Request
from prelude.types.service import Prediction

logger = logging.getLogger(__name__)

PREDICTOR_VERSION = 1
MIN_OBSERVED = 32  # answers, before the first prediction
_MEMORY = 1000  # answers that the report is about
_MAX_GUESSES = 8192  # requests under way
_FIRST_PARTIAL = 64
_SURELY_SHORT = 0.05  # that an answer gets deep
_MAX_CLIENTS = 1024  # of whom it is remembered, for so many lessons
_BRIEFS_LAST = 64


class PredictorReport(NamedTuple):
    """How the last thousand answers that ended by themselves had been foreseen when they came:
    pinball loss in tokens, and share that got no longer than predicted, of the median and of the
    90th percentile. ``num_censored`` of the observations were of answers cut off."""

    pinball_50: float = 0.0
    pinball_90: float = 0.0
    coverage_50: float = 0.0
    coverage_90: float = 0.0
    num_predicted: int = 0
    num_observed: int = 0
    num_censored: int = 0
    num_failures: int = 0


@dataclass(slots=True)
class _Counts:
    predicted: int = 0
    observed: int = 0
    censored: int = 0
    failures: int = 0


@dataclass(slots=True)
class _Guess:
    """What was known of a request when it came: judged by that alone, whatever is learned later.
    What its first ``since`` tokens say has been learned."""

    of: Features
    cdf: Floats
    prediction: Prediction
    since: int = 0


class Predictor:
    """``quantum`` is the number of output tokens beyond which an answer is deep. Without
    ``contract`` a request's limit of tokens is neither looked at nor learned from. A call takes
    some tens of microseconds; memory is bounded, whoever asks. Requests under way are told apart
    by their ``uid``."""

    def __init__(self, quantum: int, *, contract: bool = True) -> None:
        self._contract = contract
        self._model = HazardModel()
        self._calibration = Calibration(quantum)
        self._guesses: dict[int, _Guess] = {}
        self._briefs: dict[str, Prediction | None] = {}
        self._num_learned = 0  # answers, since the start
        self._losses, self._coverage = [0.0, 0.0], [0.0, 0.0]  # of the report
        self._num_rated = 0
        self._counts = _Counts()

    def predict(self, request: Request, *, in_a_hurry: bool = False) -> Prediction | None:
        """Output tokens in all; None where nothing is known yet, or something went wrong.
        ``in_a_hurry`` a request of a client whose answers are short is not looked at closely."""
        limit = request.params.max_tokens
        if limit is not None and self._is_fixed(request):
            return Prediction(limit, limit, float(limit > self._calibration.quantum))
        try:
            if in_a_hurry and self._counts.observed < MIN_OBSERVED:
                return None
            if in_a_hurry and (brief := self._brief(request)) is not None:
                self._counts.predicted += 1
                return brief
            guess = self._guess(request)
        except Exception as error:
            self._failed("predict", error)
            return None
        self._guesses[request.uid] = guess
        if len(self._guesses) > _MAX_GUESSES:
            del self._guesses[next(iter(self._guesses))]
        if self._counts.observed < MIN_OBSERVED:
            return None
        self._counts.predicted += 1
        return guess.prediction

    def observe(
        self, request: Request, num_tokens: int, *, censored: bool, in_full: bool = True
    ) -> None:
        """An answer ended with ``num_tokens``; a ``censored`` one was cut off there. All but what
        is cheap is learned from those ``in_full`` alone."""
        guess = self._guesses.pop(request.uid, None)
        if num_tokens < 1 or self._is_fixed(request):
            return
        self._counts.observed += 1
        self._counts.censored += censored
        try:
            if guess and not censored:
                self._rate(guess.prediction, num_tokens)
            censored = censored or self._is_full(request, num_tokens)
            if guess:
                self._calibration.learn(guess.cdf.tolist(), num_tokens, censored=censored)
            if not in_full:
                return
            of = guess.of if guess else features(request, contract=self._contract)
            since = guess.since if guess else 0
            self._model.learn(of, num_tokens, censored=censored, since=since)
            self._num_learned += 1
            if self._num_learned % _BRIEFS_LAST == 0:
                self._briefs.clear()
        except Exception as error:
            self._failed("observe", error)

    @property
    def num_observed(self) -> int:
        """Answers that ended, of this engine or of an earlier one."""
        return self._counts.observed

    def survived(self, request: Request, num_tokens: int) -> None:
        """An answer has ``num_tokens`` and goes on. Learned from at every doubling: those that
        are long are known to be before they end. Costs next to nothing in between. Choices of
        one request (``n``) are learned from when they end."""
        if num_tokens < _FIRST_PARTIAL or num_tokens & (num_tokens - 1):
            return
        guess = self._guesses.get(request.uid)
        if guess is None or request.params.n > 1 or self._is_fixed(request):
            return
        try:
            self._model.learn(guess.of, num_tokens, censored=True, since=guess.since)
            guess.since = num_tokens
        except Exception as error:
            self._failed("survived", error)

    def save(self, path: Path) -> None:
        """Write what was learned, all or nothing. Raises ``OSError``."""
        write_arrays(path, PREDICTOR_VERSION, self._arrays())

    def load(self, path: Path) -> bool:
        """Go on from what an earlier predictor has learned; False, and a warning, where the file
        cannot be used. No file is no warning."""
        try:
            found = read_arrays(path, PREDICTOR_VERSION, self._arrays())
        except FileNotFoundError:
            return False
        except (OSError, ValueError) as error:
            logger.warning("%s is ignored: %s", path, error)
            return False
        self._model.restore(*(found[name] for name in ("weights", "squares", "ends", "risks")))
        self._calibration.restore(found["levels"].tolist(), found["odds"].tolist())
        self._counts.observed = int(found["observed"][0])
        return True

    def report(self) -> PredictorReport:
        counts = self._counts
        return PredictorReport(
            self._losses[0],
            self._losses[1],
            self._coverage[0],
            self._coverage[1],
            counts.predicted,
            counts.observed,
            counts.censored,
            counts.failures,
        )

    def _arrays(self) -> Arrays:
        model = self._model
        return {
            "weights": model.weights,
            "squares": model.squares,
            "ends": model.ends,
            "risks": model.risks,
            "levels": np.array(self._calibration.levels),
            "odds": np.array(self._calibration.odds),
            "observed": np.array([self._counts.observed], np.int64),
        }

    def _failed(self, what: str, error: Exception) -> None:
        if not self._counts.failures:
            logger.warning("predictor: %s failed, requests go on without: %r", what, error)
        self._counts.failures += 1

    def _guess(self, request: Request) -> _Guess:
        of = features(request, contract=self._contract)
        cdf = self._model.cdf(of)
        return _Guess(of, cdf, self._limited(self._prediction(cdf.tolist()), request))

    def _brief(self, request: Request) -> Prediction | None:
        """What its client's history says alone; None if not that it is short."""
        client = request.hints.client
        if client not in self._briefs:
            if len(self._briefs) >= _MAX_CLIENTS:
                self._briefs.clear()
            self._briefs[client] = self._of_client(client_row(client))
        brief = self._briefs[client]
        return self._limited(brief, request) if brief else None

    def _of_client(self, row: int) -> Prediction | None:
        found = self._prediction(self._model.client_cdf(row).tolist())
        return found if found.p_deep < _SURELY_SHORT else None

    def _prediction(self, cdf: list[float]) -> Prediction:
        if not 0.0 <= cdf[-1] <= 1.0:
            raise ArithmeticError("the model's distribution is none")
        q50, q90 = (quantile(cdf, level) for level in self._calibration.levels)
        return Prediction(q50, max(q50, q90), self._calibration.p_deep(cdf))

    def _limited(self, found: Prediction, request: Request) -> Prediction:
        limit = request.params.max_tokens
        if not self._contract or limit is None:
            return found
        p_deep = found.p_deep if limit > self._calibration.quantum else 0.0
        return Prediction(min(found.q50, limit), min(found.q90, limit), p_deep)

    def _rate(self, prediction: Prediction, num_tokens: int) -> None:
        if self._counts.observed <= MIN_OBSERVED:
            return
        self._num_rated += 1
        weight = 1.0 / min(self._num_rated, _MEMORY)
        for i, target in enumerate(TARGETS):
            miss = num_tokens - prediction[i]
            loss = max(target * miss, (target - 1.0) * miss)
            self._losses[i] += weight * (loss - self._losses[i])
            self._coverage[i] += weight * ((miss <= 0.0) - self._coverage[i])

    def _is_fixed(self, request: Request) -> bool:
        """The contract alone says how long the answer gets, and there is nothing to learn."""
        params = request.params
        open_end = params.stop or params.stop_token_ids or params.max_tokens is None
        return self._contract and params.ignore_eos and not open_end

    def _is_full(self, request: Request, num_tokens: int) -> bool:
        """It ended because it had to: the next one of its kind may have another limit."""
        limit = request.params.max_tokens
        return self._contract and limit is not None and num_tokens >= limit
