"""One answer on its way through a grammar, token by token.

Masks are computed without the interpreter lock, in the thread that asks.
"""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from prelude.types.constraint import MatchEnd

if TYPE_CHECKING:
    from llguidance import LLMatcher

# Everybody waits for masks: one answer's may take so long, and so much longer for each of them.
_ALLOWANCE_S, _MASK_S = 0.5, 0.002


@dataclass(frozen=True, slots=True)
class Marks:
    """A model's tokens that are no part of an answer: its ends, the beginning and the end of
    reasoning where it knows them, and what may stand between that and the answer."""

    eos_ids: tuple[int, ...] = ()
    start_id: int | None = None
    end_id: int | None = None
    gap_id: int | None = None


class TokenMatcher:
    """A ``Matcher``. While it ``is_reasoning`` everything but an end is allowed; with
    ``may_reason`` it may begin to, if that is what the model would say anyway: behind a mask even
    the unlikeliest token can be the likeliest of those left."""

    def __init__(
        self,
        matcher: "LLMatcher",
        marks: Marks,
        *,
        is_reasoning: bool = False,
        may_reason: bool = False,
        ignore_eos: bool = False,
    ) -> None:
        self.ended: MatchEnd | None = None
        self.error = ""
        self._matcher = matcher
        self._marks = marks
        self._is_reasoning = is_reasoning and marks.end_id is not None
        self.wish_id = marks.start_id if may_reason and marks.end_id is not None else None
        self._forbidden_ids = marks.eos_ids if ignore_eos else ()
        self._allowance_s = _ALLOWANCE_S

    def fill(self, mask: NDArray[np.int32]) -> None:
        if self.ended is not None or self._is_reasoning:
            mask.fill(-1)
            _forbid(mask, self._marks.eos_ids)
            return
        start_s = time.thread_time()
        self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        spent_s = time.thread_time() - start_s
        self._allowance_s = min(self._allowance_s + _MASK_S, _ALLOWANCE_S) - spent_s
        if self._allowance_s < 0.0 or self._matcher.is_error():
            self._fail()
            mask.fill(-1)
        if self._forbidden_ids:
            self._forbid_ends(mask)

    def accept(self, token_id: int) -> None:
        if self.ended is not None:
            return
        wish_id, self.wish_id = self.wish_id, None
        if self._is_reasoning:
            self._is_reasoning = token_id != self._marks.end_id
            self.wish_id = None if self._is_reasoning else self._marks.gap_id
        elif token_id == wish_id:
            self._is_reasoning = token_id == self._marks.start_id
        elif not self._matcher.consume_token(token_id) or self._matcher.is_error():
            self._fail()
        elif self._matcher.is_stopped():
            self.ended = "stop"

    def _forbid_ends(self, mask: NDArray[np.int32]) -> None:
        """Unless nothing else is left to say, as after an answer that is empty."""
        before = mask.copy()
        _forbid(mask, self._forbidden_ids)
        if not mask.any():
            mask[:] = before

    def _fail(self) -> None:
        self.ended = "error"
        lines = self._matcher.get_error().splitlines()
        reason = lines[0] if lines else "what may come next takes too long to find out"
        self.error = f"the answer was given up, for the grammar is too complex: {reason}"


def _forbid(mask: NDArray[np.int32], ids: tuple[int, ...]) -> None:
    words = mask.view(np.uint32)
    for token_id in ids:
        words[token_id // 32] &= np.uint32(~(1 << token_id % 32) & 0xFFFFFFFF)
