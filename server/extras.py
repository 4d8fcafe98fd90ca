"""What vLLM's clients may ask for beside the answer: token ids, logprobs of the prompt, an id of
their own, and usage in every chunk."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.requests import Request

from prelude.logs import about
from prelude.server.errors import invalid
from prelude.server.generation import Generation
from prelude.server.protocol import GenerationFields, RequestFields
from prelude.text.logprobs import TokenScore, logprob_entry
from prelude.text.tokenizer import Tokenizer
from prelude.types.request import TokenLogprobs

_encode = msgspec.json.encode
_GOOD_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_LAST = b"}\n\n"


def check_extras(request: Request, fields: GenerationFields) -> None:
    """Raises ``ApiError`` for what cannot be had together, and as ``take_id``."""
    if fields.prompt_logprobs is not None and fields.stream:
        raise invalid("prompt_logprobs", "come with whole answers only; leave out stream")
    take_id(request, fields)


def take_id(request: Request, fields: RequestFields) -> None:
    """From the body, where it has one. Raises ``ApiError`` for what is no id."""
    if fields.request_id is None:
        return
    if not _GOOD_ID.fullmatch(fields.request_id):
        raise invalid("request_id", "must be up to 128 letters, digits, or any of . _ : -")
    request.state.request_id = fields.request_id
    if (now := about.get()) is not None:
        now.request_id = fields.request_id


@dataclass(frozen=True, slots=True)
class Extras:
    """Of one request. ``ids`` says that token ids are returned; tokens in logprobs read
    ``token_id:7`` where ``as_ids`` is set. ``usage_tail`` ends a chunk: None where each one has the
    usage so far."""

    tokenizer: Tokenizer
    generation: Generation
    ids: bool
    as_ids: bool
    num_prompt_logprobs: int | None
    usage_tail: bytes | None

    @classmethod
    def of(cls, fields: GenerationFields, tokenizer: Tokenizer, made: Generation) -> "Extras":
        options = fields.stream_options
        tail: bytes | None = b"}]" + _LAST
        if options is not None and options.continuous_usage_stats:
            tail = None
        elif options is not None and options.include_usage:
            tail = b'}],"usage":null' + _LAST
        return cls(
            tokenizer,
            made,
            bool(fields.return_token_ids),
            bool(fields.return_tokens_as_token_ids),
            fields.prompt_logprobs,
            tail,
        )

    def suffix(self) -> bytes:
        """The end of a chunk, from that of its choice."""
        if self.usage_tail is not None:
            return self.usage_tail
        return b'}],"usage":' + _encode(self.generation.usage().body()) + _LAST

    def opening_end(self) -> bytes:
        """The end of a chat stream's first chunk, behind its last member."""
        return self.prompt_tail(0) + _LAST

    def prompt_tail(self, index: int) -> bytes:
        """The member that has the prompt's ids, behind another one."""
        if not self.ids:
            return b""
        return b',"prompt_token_ids":' + _encode(self.generation.prompt_ids(index))

    def ids_tail(self, token_ids: Sequence[int]) -> bytes:
        """The member of a streamed choice that has these, behind another one; nothing where nobody
        asked or there are none."""
        return b',"token_ids":' + _encode(token_ids) if self.ids and token_ids else b""

    def of_prompt(self, index: int) -> dict[str, Any]:
        """Of the prompt that choice ``index`` answers."""
        found: dict[str, Any] = {}
        if self.ids:
            found["prompt_token_ids"] = self.generation.prompt_ids(index)
        if self.num_prompt_logprobs is not None:
            rows = self.generation.prompt_logprobs(index) or []
            found["prompt_logprobs"] = [self._of_position(row) for row in rows]
        return found

    def of_choice(self, token_ids: Sequence[int]) -> dict[str, Any]:
        return {"token_ids": list(token_ids)} if self.ids else {}

    def score(self, score: TokenScore) -> dict[str, Any]:
        """A token as chat completions have it."""
        token = f"token_id:{score.token_id}" if self.as_ids else score.token
        return {"token": token, "logprob": score.logprob, "bytes": list(score.token_bytes)}

    def _of_position(self, row: TokenLogprobs | None) -> dict[str, Any] | None:
        """By token id: the most likely tokens at a position, and the one that stands there, whose
        rank is known only if it is one of them."""
        if row is None:
            return None
        entry = logprob_entry(self.tokenizer, row, 0)
        best = entry.top[: self.num_prompt_logprobs]
        found = {str(one.token_id): _scored(one, rank) for rank, one in enumerate(best, 1)}
        found.setdefault(str(row.token_id), _scored(entry.score, None))
        return found


def _scored(score: TokenScore, rank: int | None) -> dict[str, Any]:
    return {"logprob": score.logprob, "rank": rank, "decoded_token": score.token}
