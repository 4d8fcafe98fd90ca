"""Chat completions in OpenAI's words: chunks of a stream, and the whole answer."""

from collections.abc import Sequence
from typing import Any

import msgspec

from prelude.server.generation import Generation
from prelude.server.reply import Envelope
from prelude.server.tally import Timings
from prelude.text.logprobs import LogprobEntry, TokenScore
from prelude.text.message import Message, MessageDelta, joined

_encode = msgspec.json.encode


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

    def delta(self, delta: MessageDelta) -> bytes:
        if not (delta.content or delta.logprobs):
            return b""
        tail = b'"finish_reason":null'
        if delta.logprobs:
            tail = b'"logprobs":' + _encode(_logprobs(delta.logprobs)) + b"," + tail
        return self._chunk(delta.index, b'{"content":' + _encode(delta.content) + b"}", tail)

    def finish(self, delta: MessageDelta, timings: Timings | None) -> bytes:
        tail = b'"finish_reason":' + _encode(delta.finish_reason)
        if delta.stop_reason is not None:
            tail += b',"stop_reason":' + _encode(delta.stop_reason)
        chunk = self._chunk(delta.index, b"{}", tail)
        if timings is None or self._include_usage:
            return chunk
        return chunk.removesuffix(b"}\n\n") + b',"timings":' + _encode(timings) + b"}\n\n"

    def usage(self) -> bytes:
        return self._envelope.usage_chunk(self._generation) if self._include_usage else b""

    def body(self, answers: Sequence[Sequence[MessageDelta]]) -> dict[str, Any]:
        choices = [_choice(index, joined(deltas)) for index, deltas in enumerate(answers)]
        return {**self._envelope.head(self._envelope.body_object), "choices": choices}

    def _chunk(self, index: int, delta: bytes, tail: bytes) -> bytes:
        return b'%b%d,"delta":%b,%b%b' % (self._prefix, index, delta, tail, self._suffix)


def _choice(index: int, message: Message) -> dict[str, Any]:
    return {
        "index": index,
        "message": {"role": "assistant", "content": message.content},
        "logprobs": _logprobs(message.logprobs) if message.logprobs else None,
        "finish_reason": message.finish_reason,
        "stop_reason": message.stop_reason,
    }


def _logprobs(entries: tuple[LogprobEntry, ...]) -> dict[str, Any]:
    content = [
        {**_score(entry.score), "top_logprobs": [_score(score) for score in entry.top]}
        for entry in entries
    ]
    return {"content": content, "refusal": None}


def _score(score: TokenScore) -> dict[str, Any]:
    return {"token": score.token, "logprob": score.logprob, "bytes": list(score.token_bytes)}
