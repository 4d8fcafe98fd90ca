"""What answers that have ended teach the predictor, once there is time for it: somebody else may be
waiting for the step that follows.
"""

from collections import deque

from prelude.batcher.predictor import Predictor
from prelude.types.request import FinishReason, Request
from prelude.types.service import Prediction

_MANY = 32  # that may wait however busy the engine is
_AT_ONCE = 2  # in idle time, some tens of microseconds each: somebody may come
_A_STEP = 8  # while it is young
_YOUNG = 64  # answers that are all learned from, and at once
_ONE_IN = 8  # of the later ones, while the engine is busy


class Lessons:
    """Of one engine; without a predictor nothing is foreseen, and nothing learned."""

    def __init__(self, predictor: Predictor | None) -> None:
        self.predictor = predictor
        self._ended: deque[tuple[Request, int, bool]] = deque()

    def predict(self, request: Request, *, in_a_hurry: bool = False) -> Prediction | None:
        """See ``Predictor``; nothing where no tokens are asked for."""
        if not self.predictor or request.embeds:
            return None
        return self.predictor.predict(request, in_a_hurry=in_a_hurry)

    def survived(self, request: Request, num_tokens: int) -> None:
        """See ``Predictor``: that is rare, and no answer must end before it."""
        if self.predictor:
            self.predictor.survived(request, num_tokens)

    def ended(self, request: Request, num_tokens: int, reason: FinishReason) -> None:
        """An answer did; ``learn`` looks at it."""
        if self.predictor and not request.embeds:
            self._ended.append((request, num_tokens, reason not in ("stop", "length")))

    def after_step(self) -> None:
        """Who is never idle has to learn all the same: from the first answers at once, for nothing
        is known before; then from every eighth, for they say much the same."""
        ended, predictor = self._ended, self.predictor
        if predictor is not None and predictor.num_observed < _YOUNG:
            self.learn(_A_STEP)
            return
        if len(ended) < _MANY or predictor is None:
            return
        for number in range(len(ended)):
            request, num_tokens, censored = ended.popleft()
            in_full = number % _ONE_IN == 0
            predictor.observe(request, num_tokens, censored=censored, in_full=in_full)

    def learn(self, at_once: int = _AT_ONCE) -> bool:
        """From a few of them; False if there are none."""
        ended, predictor = self._ended, self.predictor
        if not ended or predictor is None:
            return False
        for _ in range(min(len(ended), at_once)):
            request, num_tokens, censored = ended.popleft()
            predictor.observe(request, num_tokens, censored=censored)
        return True

    def finish(self) -> None:
        """From all of them."""
        while self.learn():
            pass
