"""Grammars that answers are held to, by llguidance: compiled once, for everyone who wants them.

Compiling releases the interpreter lock.
"""

import importlib.util
import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from prelude.text.grammar_limits import parser_limits
from prelude.text.grammar_matcher import Marks, TokenMatcher
from prelude.text.grammar_source import grammar_source
from prelude.text.grammar_trial import Trial
from prelude.text.grammar_worker import NO_ANSWER, Words
from prelude.types.constraint import Constraint, ConstraintError

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

logger = logging.getLogger(__name__)

_KNOWN_KINDS = ("json", "choice")  # what is written here: no surprises
_START, _END = "<think>", "</think>"
_GAPS = ("\n\n", "\n")  # what models write between reasoning and answer


class _Token(msgspec.Struct):
    id: int
    content: str


class _TokenizerFile(msgspec.Struct):
    """What is read of tokenizer.json here; the vocabulary is skipped, which takes no time."""

    added_tokens: list[_Token] = []


class _Tools:
    """What compiling needs, made when it is first needed: a large vocabulary takes seconds."""

    def __init__(
        self, path: Path, vocab_size: int, eos_ids: tuple[int, ...], limit_s: float
    ) -> None:
        from llguidance import LLTokenizer

        try:
            text = path.read_text()
            added = msgspec.json.decode(text, type=_TokenizerFile).added_tokens
            self.tokenizer = LLTokenizer(text, n_vocab=vocab_size, eos_token=list(eos_ids) or None)
        except (OSError, ValueError) as error:
            raise ConstraintError(f"the model's tokenizer is of no use: {error}") from error
        special = {token.id: token.content for token in added}
        self.trial = Trial(Words(vocab_size, special), limit_s)
        ids = {token.content: token.id for token in added}
        gaps = [self.tokenizer.tokenize_str(text) for text in _GAPS]
        self.marks = Marks(
            eos_ids,
            ids.get(_START),
            ids.get(_END),
            next((tokens[0] for tokens in gaps if len(tokens) == 1), None),
        )


class GrammarCompiler:
    """For the tokenizer in ``path`` (tokenizer.json) and a model of ``vocab_size`` tokens.

    ``eos_ids`` are allowed where the grammar may end. A grammar may take ``limit_s`` to compile.
    Safe to use from several threads.
    """

    def __init__(
        self, path: Path, vocab_size: int, eos_ids: Sequence[int], *, limit_s: float = 5.0
    ) -> None:
        self._path = path
        self._vocab_size = vocab_size
        self._eos_ids = tuple(eos_ids)
        self._limit_s = limit_s
        self._lock = threading.Lock()
        self._tools: _Tools | None = None
        self._is_closed = False

    def compile(self, constraint: Constraint) -> "Grammar":
        """Raises ``ConstraintError`` where nothing can be made of it."""
        if importlib.util.find_spec("llguidance") is None:
            raise ConstraintError("needs a package that is not here: pip install llguidance")
        try:
            return self._compile(constraint)
        except ConstraintError:
            raise
        except BaseException as error:  # panics of the library are not of class Exception
            raise ConstraintError(f"cannot be compiled: {error}") from error

    def warm_when(self, quiet: threading.Event) -> None:
        """Once that is set, make in another thread what everybody needs. The interpreter stands
        still meanwhile, for a second with a vocabulary of 147,000 tokens."""
        threading.Thread(target=self._warm, args=(quiet,), name="prelude-warm", daemon=True).start()

    def close(self) -> None:
        """What is being compiled is given up. Idempotent."""
        self._is_closed = True
        if self._tools is not None:
            self._tools.trial.close()

    def _warm(self, quiet: threading.Event) -> None:
        quiet.wait()
        if importlib.util.find_spec("llguidance") is None:
            return
        try:
            self._ready()
        except BaseException as error:  # as in compile, which says so to whom it concerns
            logger.debug("the grammars' tokenizer was not made ready: %s", error)

    def _ready(self) -> _Tools:
        with self._lock:
            tools = self._tools = self._tools or _Tools(
                self._path, self._vocab_size, self._eos_ids, self._limit_s
            )
        if self._is_closed:  # maybe too late to know of this one
            tools.trial.close()
        return tools

    def _compile(self, constraint: Constraint) -> "Grammar":
        tools = self._ready()
        is_known = constraint.kind in _KNOWN_KINDS
        source = grammar_source(constraint) if is_known else tools.trial.source(constraint)
        return Grammar(_matcher(tools.tokenizer, source), tools.marks)


class Grammar:
    """Compiled, at its beginning; ``matcher`` gives everyone a copy of their own."""

    def __init__(self, matcher: "LLMatcher", marks: Marks) -> None:
        self._matcher = matcher
        self._marks = marks

    def matcher(self, constraint: Constraint, *, ignore_eos: bool = False) -> TokenMatcher:
        """For one answer. ``ignore_eos``: it ends only when the grammar leaves nothing to say."""
        return TokenMatcher(
            self._matcher.deep_copy(),
            self._marks,
            is_reasoning=constraint.after_reasoning,
            may_reason=constraint.may_reason,
            ignore_eos=ignore_eos,
        )


def _matcher(tokenizer: "LLTokenizer", source: str) -> "LLMatcher":
    """At its beginning, where at least one token can be said."""
    from llguidance import LLMatcher

    matcher = LLMatcher(tokenizer, source, log_level=0, limits=parser_limits())
    if matcher.is_error():
        raise ConstraintError(next(iter(matcher.get_error().splitlines()), "cannot be compiled"))
    trial = matcher.deep_copy()
    mask = np.frombuffer(trial.compute_bitmask(), dtype=np.uint8)
    if trial.is_error() or not mask.any():
        raise ConstraintError(NO_ANSWER)
    return matcher
