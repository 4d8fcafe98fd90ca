"""POST /v1/chat/completions."""

import time
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from prelude.server.generation import Generation
from prelude.server.hints import hints_of
from prelude.server.prompts import check_fits, encode_chat
from prelude.server.protocol import ChatRequest
from prelude.server.reply import Answer, Envelope, respond, wants_usage
from prelude.server.sampling import sampling_params
from prelude.server.services import read_body, services_of
from prelude.server.tally import Timings
from prelude.text.choice import TextDelta
from prelude.text.logprobs import LogprobEntry, TokenScore

_encode = msgspec.json.encode


async def chat_completions(request: Request) -> Response:
    arrival_s = time.monotonic()
    services = services_of(request)
    body = services.fields.decode(await read_body(request), ChatRequest)
    services.check_model(body.model)
    engine = services.engine()
    include_usage = wants_usage(body)
    hints = hints_of(body, request.headers, services.config.batcher.policy)
    prompt_ids = await encode_chat(services.tokenizer, body)
    room = check_fits(len(prompt_ids), engine.max_len, "messages")
    params = sampling_params(body, services.defaults, room)
    services.metrics.prepare_seconds.inc(time.monotonic() - arrival_s)
    generation = Generation(
        services,
        [prompt_ids],
        [params],
        arrival_s=arrival_s,
        continues=bool(body.continue_final_message),
        cache_salt=body.cache_salt or "",
        hints=hints,
    )
    envelope = Envelope.make(
        request, services, "chatcmpl", "chat.completion.chunk", "chat.completion"
    )
    reply = ChatReply(envelope, generation, include_usage)
    return await respond(request, services, generation, reply, bool(body.stream))


class ChatReply:
    def __init__(self, envelope: Envelope, generation: Generation, include_usage: bool) -> None:
        self._envelope = envelope
        self._generation = generation
        self._include_usage = include_usage
        self._prefix = envelope.chunk_prefix()
        self._suffix = b'}],"usage":null}\n\n' if include_usage else b"}]}\n\n"

    def opening(self) -> bytes:
        role = b'{"role":"assistant","content":""}'
        return b"".join(
            self._chunk(index, role, b'"finish_reason":null')
            for index in range(len(self._generation.choices))
        )

    def delta(self, delta: TextDelta) -> bytes:
        tail = b'"finish_reason":null'
        if delta.logprobs:
            tail = b'"logprobs":' + _encode(_logprobs(delta.logprobs)) + b"," + tail
        return self._chunk(delta.index, b'{"content":' + _encode(delta.text) + b"}", tail)

    def finish(self, delta: TextDelta, timings: Timings | None) -> bytes:
        tail = b'"finish_reason":' + _encode(delta.finish_reason)
        if delta.stop_reason is not None:
            tail += b',"stop_reason":' + _encode(delta.stop_reason)
        chunk = self._chunk(delta.index, b"{}", tail)
        if timings is None or self._include_usage:
            return chunk
        return chunk.removesuffix(b"}\n\n") + b',"timings":' + _encode(timings) + b"}\n\n"

    def usage(self) -> bytes:
        return self._envelope.usage_chunk(self._generation) if self._include_usage else b""

    def body(self, answers: list[Answer]) -> dict[str, Any]:
        choices = [_choice(index, answer) for index, answer in enumerate(answers)]
        return {**self._envelope.head(self._envelope.body_object), "choices": choices}

    def _chunk(self, index: int, delta: bytes, tail: bytes) -> bytes:
        return b'%b%d,"delta":%b,%b%b' % (self._prefix, index, delta, tail, self._suffix)


def _choice(index: int, answer: Answer) -> dict[str, Any]:
    return {
        "index": index,
        "message": {"role": "assistant", "content": answer.text},
        "logprobs": _logprobs(tuple(answer.logprobs)) if answer.logprobs else None,
        "finish_reason": answer.finish_reason,
        "stop_reason": answer.stop_reason,
    }


def _logprobs(entries: tuple[LogprobEntry, ...]) -> dict[str, Any]:
    content = [
        {**_score(entry.score), "top_logprobs": [_score(score) for score in entry.top]}
        for entry in entries
    ]
    return {"content": content, "refusal": None}


def _score(score: TokenScore) -> dict[str, Any]:
    return {"token": score.token, "logprob": score.logprob, "bytes": list(score.token_bytes)}
