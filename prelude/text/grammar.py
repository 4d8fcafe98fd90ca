"""Grammars that answers are held to, by llguidance: compiled once, followed token by token.

Compiling and masks release the interpreter lock.
"""

import importlib.util
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from prelude.text.grammar_limits import parser_limits
from prelude.text.grammar_source import grammar_source
from prelude.text.grammar_trial import Trial
from prelude.text.grammar_worker import NO_ANSWER, Words
from prelude.types.constraint import Constraint, ConstraintError, MatchEnd

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

# Everybody waits for masks: one answer's may take so long, and so much longer for each of them.
_ALLOWANCE_S, _MASK_S = 0.5, 0.002

_KNOWN_KINDS = ("json", "choice")  # what is written here: no surprises


class GrammarCompiler:
    """For the tokenizer in ``path`` (tokenizer.json) and a model of ``vocab_size`` tokens.

    ``eos_ids`` are allowed where the grammar may end; ``answer_id`` is the token that ends
    reasoning, if there is one. A grammar may take ``limit_s`` to compile. Safe to use from several
    threads.
    """

    def __init__(
        self,
        path: Path,
        vocab_size: int,
        eos_ids: Sequence[int],
        *,
        answer_id: int | None = None,
        limit_s: float = 5.0,
    ) -> None:
        self._path = path
        self._vocab_size = vocab_size
        self._eos_ids = tuple(eos_ids)
        self._answer_id = answer_id
        self._limit_s = limit_s
        self._trial: Trial | None = None
        self._lock = threading.Lock()
        self._tokenizer: LLTokenizer | None = None

    def compile(self, constraint: Constraint) -> "Grammar":
        """Raises ``ConstraintError`` where nothing can be made of it."""
        if importlib.util.find_spec("llguidance") is None:
            raise ConstraintError(
                "needs llguidance, which is not installed: pip install llguidance"
            )
        try:
            return self._compile(constraint)
        except ConstraintError:
            raise
        except BaseException as error:  # panics of the library are not of class Exception
            raise ConstraintError(f"cannot be compiled: {error}") from error

    def _compile(self, constraint: Constraint) -> "Grammar":
        tokenizer, trial = self._load()
        is_known = constraint.kind in _KNOWN_KINDS
        source = grammar_source(constraint) if is_known else trial.source(constraint)
        return Grammar(_matcher(tokenizer, source), self._eos_ids, self._answer_id)

    def close(self) -> None:
        if self._trial is not None:
            self._trial.close()

    def _load(self) -> tuple["LLTokenizer", Trial]:
        """When they are first needed: a large vocabulary takes seconds."""
        from llguidance import LLTokenizer

        with self._lock:
            if self._tokenizer is None or self._trial is None:
                try:
                    text = self._path.read_text()
                    found = msgspec.json.decode(text, type=_TokenizerFile)
                    self._tokenizer = LLTokenizer(
                        text, n_vocab=self._vocab_size, eos_token=list(self._eos_ids) or None
                    )
                except (OSError, ValueError) as error:
                    raise ConstraintError(f"the model's tokenizer is of no use: {error}") from error
                special = {token.id: token.content for token in found.added_tokens}
                self._trial = Trial(Words(self._vocab_size, special), self._limit_s)
            return self._tokenizer, self._trial


class _Token(msgspec.Struct):
    id: int
    content: str


class _TokenizerFile(msgspec.Struct):
    added_tokens: list[_Token] = []


class Grammar:
    """Compiled, at its beginning; ``matcher`` gives everyone a copy of their own."""

    def __init__(
        self, matcher: "LLMatcher", eos_ids: tuple[int, ...], answer_id: int | None
    ) -> None:
        self._matcher = matcher
        self._eos_ids = eos_ids
        self._answer_id = answer_id

    def matcher(self, *, after_reasoning: bool = False, ignore_eos: bool = False) -> "TokenMatcher":
        """For one answer. ``ignore_eos``: it ends only when the grammar leaves nothing to say."""
        awaited = self._answer_id if after_reasoning else None
        forbidden = self._eos_ids if ignore_eos else ()
        return TokenMatcher(self._matcher.deep_copy(), self._eos_ids, awaited, forbidden)


class TokenMatcher:
    """A ``Matcher``. Everything but the end is free until the token ``awaited_id`` has come."""

    def __init__(
        self,
        matcher: "LLMatcher",
        eos_ids: tuple[int, ...] = (),
        awaited_id: int | None = None,
        forbidden_ids: tuple[int, ...] = (),
    ) -> None:
        self.ended: MatchEnd | None = None
        self.error = ""
        self._allowance_s = _ALLOWANCE_S
        self._matcher = matcher
        self._eos_ids = eos_ids
        self._awaited_id = awaited_id
        self._forbidden_ids = forbidden_ids

    def fill(self, mask: NDArray[np.int32]) -> None:
        if self.ended is not None or self._awaited_id is not None:
            mask.fill(-1)
            _forbid(mask, self._eos_ids)
            return
        start_s = time.thread_time()
        self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        self._allowance_s += _MASK_S - (time.thread_time() - start_s)
        if self._allowance_s < 0.0 or self._matcher.is_error():
            self._fail()
            mask.fill(-1)
        _forbid(mask, self._forbidden_ids)

    def accept(self, token_id: int) -> None:
        if self.ended is not None:
            return
        if self._awaited_id is not None:
            self._awaited_id = None if token_id == self._awaited_id else self._awaited_id
        elif not self._matcher.consume_token(token_id) or self._matcher.is_error():
            self._fail()
        elif self._matcher.is_stopped():
            self.ended = "stop"

    def _fail(self) -> None:
        self.ended = "error"
        reason = _first_line(self._matcher) or "what may come next takes too long to find out"
        self.error = f"the answer was given up, for the grammar is too complex: {reason}"


def _matcher(tokenizer: "LLTokenizer", source: str) -> "LLMatcher":
    """At its beginning, where at least one token can be said."""
    from llguidance import LLMatcher

    matcher = LLMatcher(tokenizer, source, log_level=0, limits=parser_limits())
    if not matcher.is_error():
        trial = matcher.deep_copy()
        mask = np.frombuffer(trial.compute_bitmask(), dtype=np.uint8)
        if not trial.is_error() and mask.any():
            return matcher
        raise ConstraintError(NO_ANSWER)
    raise ConstraintError(_first_line(matcher))


def _first_line(matcher: "LLMatcher") -> str:
    return next(iter(matcher.get_error().splitlines()), "")


def _forbid(mask: NDArray[np.int32], ids: tuple[int, ...]) -> None:
    words = mask.view(np.uint32)
    for token_id in ids:
        words[token_id // 32] &= np.uint32(~(1 << token_id % 32) & 0xFFFFFFFF)
