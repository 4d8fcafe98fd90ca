"""The process in which a constraint is compiled for the first time: a line in, a line out.

Some schemas and expressions take exponential time or memory, and no library's limits catch all of
them. Here that ends this process and nothing else: it limits its own memory, and its time line by
line, in case nobody is left to kill it.
"""

import math
import os
import resource
import sys
from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from prelude.text.grammar_limits import parser_limits
from prelude.text.grammar_source import grammar_source
from prelude.types.constraint import Constraint, ConstraintError

if TYPE_CHECKING:
    from llguidance import LLTokenizer

NO_ANSWER = "there is no answer that meets it, or it is too complex"

_MEMORY_BYTES = 2 * 2**30


class Words(msgspec.Struct, frozen=True):
    """The first line: of the model's vocabulary, its size and the tokens that grammars may name."""

    vocab_size: int
    special: dict[int, str]


class Job(msgspec.Struct, frozen=True):
    """``limit_s`` seconds of processor time are too many."""

    constraint: Constraint
    limit_s: float


class Verdict(msgspec.Struct, frozen=True):
    """The grammar's ``source``, or what is wrong with it."""

    source: str = ""
    error: str = ""


class _Bytes:
    """A tokenizer of single bytes beside the special tokens, as llguidance wants to see one: what
    takes long with it does so with any, and it is made in no time."""

    def __init__(self, words: Words) -> None:
        free = (i for i in range(words.vocab_size) if i not in words.special)
        self._ids = list(islice(free, 256))
        self.tokens = [b""] * words.vocab_size
        for byte, token_id in enumerate(self._ids):
            self.tokens[token_id] = bytes([byte])
        for token_id, text in words.special.items():
            self.tokens[token_id] = text.encode()
        self.special_token_ids = list(words.special)
        self.eos_token_id = min(words.special, default=words.vocab_size - 1)
        self.bos_token_id = None

    def __call__(self, text: bytes) -> list[int]:
        return [self._ids[byte] for byte in text]


def judge(constraint: Constraint, tokenizer: "LLTokenizer") -> Verdict:
    """Compile it and ask what may come first."""
    from llguidance import LLMatcher

    try:
        source = grammar_source(constraint)
    except ConstraintError as error:
        return Verdict(error=str(error))
    matcher = LLMatcher(tokenizer, source, log_level=0, limits=parser_limits())
    if matcher.is_error():
        return Verdict(error=matcher.get_error().removesuffix("\n<non-verbose/>").strip())
    matcher.compute_bitmask()
    return Verdict(error=NO_ANSWER) if matcher.is_error() else Verdict(source)


def main() -> None:
    from llguidance import LLTokenizer, TokenizerWrapper

    os.nice(10)  # answers come before questions
    lines = sys.stdin.buffer
    words = msgspec.json.decode(lines.readline(), type=Words)
    tokenizer = LLTokenizer(TokenizerWrapper(_Bytes(words)))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    for line in lines:
        job = msgspec.json.decode(line, type=Job)
        used = resource.getrusage(resource.RUSAGE_SELF)  # the limit is of both, from its start
        end_s = math.ceil(used.ru_utime + used.ru_stime + job.limit_s) + 2
        resource.setrlimit(resource.RLIMIT_CPU, (end_s, hard))
        verdict = judge(job.constraint, tokenizer)
        sys.stdout.buffer.write(msgspec.json.encode(verdict) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
