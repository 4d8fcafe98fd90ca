"""Chat completions in OpenAI's words: chunks of a stream, and the whole answer."""

from collections.abc import Sequence
from typing import Any

import msgspec

from prelude.server.extras import Extras
from prelude.server.generation import Generation
from prelude.server.reply import Envelope
from prelude.server.tally import Timings
from prelude.text.logprobs import LogprobEntry
from prelude.text.message import Message, MessageDelta, ToolCallDelta, joined

_encode = msgspec.json.encode


class ChatReply:
    """Reasoning goes under every one of ``reasoning_fields``."""

    def __init__(
        self,
        envelope: Envelope,
        generation: Generation,
        include_usage: bool,
        extras: Extras,
        reasoning_fields: Sequence[str],
    ) -> None:
        self._envelope = envelope
        self._generation = generation
        self._include_usage = include_usage
        self._extras = extras
        self._reasoning_fields = reasoning_fields
        self._prefix = envelope.chunk_prefix()

    def opening(self) -> bytes:
        role = b'{"role":"assistant","content":""}'
        tail, end = b'"finish_reason":null', self._extras.opening_end()
        return b"".join(
            self._chunk(index, role, tail).removesuffix(b"}\n\n") + end
            for index in range(len(self._generation.choices))
        )

    def delta(self, delta: MessageDelta) -> bytes:
        ids = self._extras.ids_tail(delta.token_ids)
        if not (delta.content or delta.logprobs or ids or delta.reasoning or delta.tool_calls):
            return b""
        tail = b'"finish_reason":null' + ids
        if delta.logprobs:
            logprobs = self._logprobs(delta.logprobs)
            tail = b'"logprobs":' + _encode(logprobs) + b"," + tail
        if delta.reasoning or delta.tool_calls:
            return self._parts(delta, tail)
        return self._chunk(delta.index, b'{"content":' + _encode(delta.content) + b"}", tail)

    def _parts(self, delta: MessageDelta, tail: bytes) -> bytes:
        """A chunk for each: there are clients that look at one part of a chunk only."""
        parts: list[dict[str, Any]] = []
        if delta.reasoning:
            parts.append(self._reasoning(delta.reasoning))
        if delta.content:
            parts.append({"content": delta.content})
        if delta.tool_calls:
            parts.append({"tool_calls": [_call_delta(call) for call in delta.tool_calls]})
        *first, last = map(_encode, parts)
        chunks = [self._chunk(delta.index, part, b'"finish_reason":null') for part in first]
        return b"".join([*chunks, self._chunk(delta.index, last, tail)])

    def finish(self, delta: MessageDelta, timings: Timings | None) -> bytes:
        tail = b'"finish_reason":' + _encode(delta.finish_reason)
        if delta.stop_reason is not None:
            tail += b',"stop_reason":' + _encode(delta.stop_reason)
        chunk = self._chunk(delta.index, b"{}", tail)
        return self._envelope.ended(chunk, None if self._include_usage else timings)

    def usage(self) -> bytes:
        return self._envelope.usage_chunk(self._generation) if self._include_usage else b""

    def body(self, answers: Sequence[Sequence[MessageDelta]]) -> dict[str, Any]:
        choices = [self._choice(index, joined(deltas)) for index, deltas in enumerate(answers)]
        return {**self._envelope.body_head(), "choices": choices, **self._extras.of_prompt(0)}

    def _chunk(self, index: int, delta: bytes, tail: bytes) -> bytes:
        suffix = self._extras.suffix()
        return b'%b%d,"delta":%b,%b%b' % (self._prefix, index, delta, tail, suffix)

    def _choice(self, index: int, message: Message) -> dict[str, Any]:
        return {
            "index": index,
            "message": self._message(message),
            "logprobs": self._logprobs(message.logprobs) if message.logprobs else None,
            "finish_reason": message.finish_reason,
            "stop_reason": message.stop_reason,
            **self._extras.of_choice(message.token_ids),
        }

    def _message(self, message: Message) -> dict[str, Any]:
        found: dict[str, Any] = {"role": "assistant", "content": message.content}
        if message.reasoning:
            found |= self._reasoning(message.reasoning)
        if message.tool_calls:
            found["content"] = message.content or None
            found["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in message.tool_calls
            ]
        return found

    def _reasoning(self, text: str) -> dict[str, Any]:
        return dict.fromkeys(self._reasoning_fields, text)

    def _logprobs(self, entries: tuple[LogprobEntry, ...]) -> dict[str, Any]:
        score = self._extras.score
        content = [
            {**score(entry.score), "top_logprobs": [score(other) for other in entry.top]}
            for entry in entries
        ]
        return {"content": content, "refusal": None}


def _call_delta(call: ToolCallDelta) -> dict[str, Any]:
    if call.id is None:
        return {"index": call.index, "function": {"arguments": call.arguments}}
    function = {"name": call.name, "arguments": call.arguments}
    return {"index": call.index, "id": call.id, "type": "function", "function": function}
