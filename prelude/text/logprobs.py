"""Logprobs in the words of a client: token strings and bytes instead of ids."""

from collections.abc import Sequence
from dataclasses import dataclass

from prelude.text.tokenizer import Tokenizer
from prelude.types.request import TokenLogprobs

# JSON has no infinity; a token that was masked out is as good as this.
LOWEST_LOGPROB = -9999.0


@dataclass(frozen=True, slots=True)
class TokenScore:
    """One token, its natural-log probability and its bytes (perhaps part of a character)."""

    token_id: int
    token: str
    token_bytes: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class LogprobEntry:
    """One position: the token there, the most likely ones, best first, and the number of
    characters of this text before it."""

    score: TokenScore
    top: tuple[TokenScore, ...]
    text_offset: int


def score_token(tokenizer: Tokenizer, token_id: int, logprob: float) -> TokenScore:
    data = tokenizer.vocabulary.known_bytes(token_id)
    text = data.decode("utf-8", "replace")
    return TokenScore(token_id, text, data, max(logprob, LOWEST_LOGPROB))


def logprob_entry(tokenizer: Tokenizer, found: TokenLogprobs, text_offset: int) -> LogprobEntry:
    top = zip(found.top_ids, found.top_logprobs, strict=True)
    return LogprobEntry(
        score=score_token(tokenizer, found.token_id, found.logprob),
        top=tuple(score_token(tokenizer, token_id, logprob) for token_id, logprob in top),
        text_offset=text_offset,
    )


def prompt_entries(
    tokenizer: Tokenizer, prompt_ids: Sequence[int], found: Sequence[TokenLogprobs | None]
) -> list[LogprobEntry | None]:
    """One entry a prompt token; None where nothing precedes it (the first)."""
    entries: list[LogprobEntry | None] = []
    offset = 0
    for token_id, logprobs in zip(prompt_ids, found, strict=True):
        entries.append(None if logprobs is None else logprob_entry(tokenizer, logprobs, offset))
        offset += len(score_token(tokenizer, token_id, 0.0).token)
    return entries
