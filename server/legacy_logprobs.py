"""Logprobs in the shape of /v1/completions: parallel lists, alternatives keyed by token text."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from prelude.text.detokenizer import make_detokenizer
from prelude.text.logprobs import LogprobEntry, TokenScore, prompt_entries, score_token
from prelude.text.tokenizer import Tokenizer
from prelude.types.request import TokenLogprobs


class Row(NamedTuple):
    """One token. ``logprob`` and ``top`` are None where nothing precedes it."""

    token: str
    logprob: float | None
    top: dict[str, float] | None
    text_offset: int


def legacy_logprobs(rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "tokens": [row.token for row in rows],
        "token_logprobs": [row.logprob for row in rows],
        "top_logprobs": [row.top for row in rows],
        "text_offset": [row.text_offset for row in rows],
    }


def output_row(entry: LogprobEntry, base: int, as_ids: bool = False) -> Row:
    """``base`` is the number of characters before the output: those of an echoed prompt. Tokens
    read ``token_id:7`` if ``as_ids``."""
    label = _id_label if as_ids else _label
    top = {label(score): score.logprob for score in entry.top}
    top.setdefault(label(entry.score), entry.score.logprob)
    return Row(label(entry.score), entry.score.logprob, top, base + entry.text_offset)


def prompt_rows(
    tokenizer: Tokenizer,
    prompt_ids: Sequence[int],
    found: Sequence[TokenLogprobs | None],
    as_ids: bool = False,
    *,
    skip_special_tokens: bool = True,
) -> list[Row]:
    """The first token has no logprob. Offsets are those of the decoded text. Raises
    ``ValueError`` if ``found`` is of another prompt."""
    rows = []
    offset = 0
    detokenizer = make_detokenizer(tokenizer, skip_special_tokens=skip_special_tokens)
    for token_id, entry in zip(
        prompt_ids, prompt_entries(tokenizer, prompt_ids, found), strict=True
    ):
        score = score_token(tokenizer, token_id, 0.0)
        bare = Row(_id_label(score) if as_ids else _label(score), None, None, offset)
        row = bare if entry is None else output_row(entry, 0, as_ids)
        rows.append(row._replace(text_offset=offset))
        offset += len(detokenizer.feed((token_id,)))
    return rows


def _id_label(score: TokenScore) -> str:
    return f"token_id:{score.token_id}"


def _label(score: TokenScore) -> str:
    """Parts of characters would all read U+FFFD and collide, so they are written as bytes."""
    try:
        return score.token_bytes.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in score.token_bytes)
