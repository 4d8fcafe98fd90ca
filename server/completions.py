"""POST /v1/completions."""

import time
from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from prelude.server.answer_bound import bounded
from prelude.server.echo import Echo
from prelude.server.extras import Extras, check_extras
from prelude.server.generation import Generation
from prelude.server.hints import hints_of
from prelude.server.legacy_logprobs import Row, legacy_logprobs, output_row
from prelude.server.prompts import check_fits, encode_prompts, truncated
from prelude.server.protocol import CompletionRequest
from prelude.server.reply import Envelope, respond, wants_usage
from prelude.server.sampling import sampling_params
from prelude.server.services import read_body, services_of
from prelude.server.tally import Timings
from prelude.text.choice import TextDelta
from prelude.text.logprobs import LogprobEntry

_encode = msgspec.json.encode


async def completions(request: Request) -> Response:
    arrival_s = time.monotonic()
    services = services_of(request)
    body = await services.fields.read(await read_body(request), CompletionRequest)
    services.check_model(body.model)
    context = request.state.principal.context(services.engine().max_len)
    include_usage = wants_usage(body)
    check_extras(request, body)
    hints = hints_of(body, request.headers, services.config.batcher.policy)
    limit = services.config.batcher.max_waiting // max(body.n or 1, 1)
    prompts = await encode_prompts(services.tokenizer, body, limit, context)
    prompts = [_truncated(text, ids, body, context) for text, ids in prompts]
    params = [
        sampling_params(body, services.defaults, check_fits(len(ids), context, "prompt"))
        for _, ids in prompts
    ]
    services.metrics.prepare_seconds.inc(time.monotonic() - arrival_s)
    prompt_only = body.max_tokens == 0
    generation = Generation(
        services,
        [ids for _, ids in prompts],
        params,
        ticket=request.state.ticket,
        arrival_s=arrival_s,
        continues=True,
        cache_salt=body.cache_salt or "",
        hints=bounded(hints, params[0]),
        prompt_only=prompt_only,
    )
    envelope = Envelope.make(request, services, "cmpl", "text_completion", "text_completion")
    extras = Extras.of(body, services.tokenizer, generation)
    echo = None
    if body.echo:
        echo = Echo(services.tokenizer, prompts, generation, params[0], extras.as_ids)
    reply = CompletionReply(envelope, generation, include_usage, extras, echo, prompt_only)
    return await respond(request, services, generation, reply, bool(body.stream))


def _truncated(
    text: str | None, ids: list[int], body: CompletionRequest, context: int
) -> tuple[str | None, list[int]]:
    """A prompt and its text, which is not known once something is cut off."""
    kept = truncated(ids, body, context)
    return (text if len(kept) == len(ids) else None), kept


class CompletionReply:
    """``prompt_only`` (``echo`` with ``max_tokens`` 0) keeps the one generated token to itself."""

    def __init__(
        self,
        envelope: Envelope,
        generation: Generation,
        include_usage: bool,
        extras: Extras,
        echo: Echo | None,
        prompt_only: bool,
    ) -> None:
        self._envelope = envelope
        self._generation = generation
        self._include_usage = include_usage
        self._echo = echo
        self._prompt_only = prompt_only
        self._prefix = envelope.chunk_prefix()
        self._extras = extras
        self._started: set[int] = set()

    def opening(self) -> bytes:
        return b""

    def delta(self, delta: TextDelta) -> bytes:
        ids = self._extras.ids_tail(delta.token_ids)
        if self._prompt_only or not (delta.text or delta.logprobs or ids):
            return b""
        rows = self._rows(delta.index, delta.logprobs)
        chunk = self._chunk(delta.index, delta.text, rows, b"null" + ids)
        return self._first_chunk(delta.index) + chunk

    def finish(self, delta: TextDelta, timings: Timings | None) -> bytes:
        reason = "length" if self._prompt_only else delta.finish_reason
        tail = _encode(reason)
        if delta.stop_reason is not None and not self._prompt_only:
            tail += b',"stop_reason":' + _encode(delta.stop_reason)
        chunk = self._first_chunk(delta.index) + self._chunk(delta.index, "", [], tail)
        return self._envelope.ended(chunk, None if self._include_usage else timings)

    def usage(self) -> bytes:
        return self._envelope.usage_chunk(self._generation) if self._include_usage else b""

    def body(self, answers: Sequence[Sequence[TextDelta]]) -> dict[str, Any]:
        choices = [self._choice(index, deltas) for index, deltas in enumerate(answers)]
        return {**self._envelope.body_head(), "choices": choices}

    def _choice(self, index: int, deltas: Sequence[TextDelta]) -> dict[str, Any]:
        if self._prompt_only:
            deltas = [TextDelta(index, finish_reason="length")]
        texts, rows = [delta.text for delta in deltas], []
        if self._echo is not None:
            texts, rows = [self._echo.text(index), *texts], self._echo.rows(index)
        rows = [*rows, *(row for delta in deltas for row in self._rows(index, delta.logprobs))]
        return {
            "index": index,
            "text": "".join(texts),
            "logprobs": legacy_logprobs(rows) if rows else None,
            "finish_reason": deltas[-1].finish_reason,
            "stop_reason": deltas[-1].stop_reason,
            **self._extras.of_choice([token for delta in deltas for token in delta.token_ids]),
            **self._extras.of_prompt(index),
        }

    def _rows(self, index: int, entries: Sequence[LogprobEntry]) -> list[Row]:
        base = 0 if self._echo is None else len(self._echo.text(index))
        return [output_row(entry, base, self._extras.as_ids) for entry in entries]

    def _first_chunk(self, index: int) -> bytes:
        """What is said of the prompt, once, before a choice's own first chunk."""
        if index in self._started:
            return b""
        self._started.add(index)
        tail = b"null" + self._extras.prompt_tail(index)
        if self._echo is None:
            return self._chunk(index, "", [], tail) if self._extras.ids else b""
        return self._chunk(index, self._echo.text(index), self._echo.rows(index), tail)

    def _chunk(self, index: int, text: str, rows: list[Row], reason: bytes) -> bytes:
        logprobs = b'"logprobs":' + _encode(legacy_logprobs(rows)) + b"," if rows else b""
        return b'%b%d,"text":%b,%b"finish_reason":%b%b' % (
            self._prefix,
            index,
            _encode(text),
            logprobs,
            reason,
            self._extras.suffix(),
        )
