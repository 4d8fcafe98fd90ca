"""/v1/messages in Anthropic's words: content blocks, the events that tell of them, and the whole
message."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from prelude.server.errors import ApiError
from prelude.server.generation import Generation, Usage
from prelude.server.parts import Kind, Part, Parts, parts_of
from prelude.server.tally import Timings
from prelude.text.logprobs import LogprobEntry
from prelude.text.message import MessageDelta

_encode = msgspec.json.encode

# Type and field of the deltas of each kind of block.
_DELTAS: Mapping[Kind, tuple[bytes, bytes]] = {
    "text": (b"text_delta", b"text"),
    "reasoning": (b"thinking_delta", b"thinking"),
    "call": (b"input_json_delta", b"partial_json"),
}
_STOP_REASONS: Mapping[str | None, str] = {"length": "max_tokens", "tool_calls": "tool_use"}
_PING = b'event: ping\ndata: {"type":"ping"}\n\n'


class AnthropicReply:
    """``max_tokens`` is what the request allows; the answer ends earlier where the context does."""

    def __init__(
        self, message_id: str, model: str, generation: Generation, max_tokens: int
    ) -> None:
        self._head = {"id": message_id, "type": "message", "role": "assistant", "model": model}
        self._generation = generation
        self._max_tokens = max_tokens
        self._parts = Parts(self)
        self._delta_prefix = b""

    def opening(self) -> bytes:
        usage = usage_body(self._generation.usage())
        message: dict[str, Any] = {**self._head, "content": [], "usage": usage}
        message |= {"stop_reason": None, "stop_sequence": None}
        return _event("message_start", {"message": message}) + _PING

    def delta(self, delta: MessageDelta) -> bytes:
        return self._parts.feed(delta)

    def finish(self, delta: MessageDelta, timings: Timings | None) -> bytes:
        usage = usage_body(self._generation.usage())
        ended = {"delta": self._stop(delta), "usage": usage, "timings": timings}
        return self._parts.close() + _event("message_delta", ended) + _event("message_stop", {})

    def usage(self) -> bytes:
        return b""

    def failed(self, error: ApiError) -> bytes:
        return b"event: error\ndata: " + error.anthropic_body() + b"\n\n"

    def body(self, answers: Sequence[Sequence[MessageDelta]]) -> dict[str, Any]:
        (deltas,) = answers
        blocks = [_block(part) for part in parts_of(deltas)]
        usage = usage_body(self._generation.usage())
        return {**self._head, "content": blocks, **self._stop(deltas[-1]), "usage": usage}

    def opened(self, part: Part) -> bytes:
        kind, field = _DELTAS[part.kind]
        self._delta_prefix = (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,'
            b'"delta":{"type":"%b","%b":' % (part.index, kind, field)
        )
        begun = {"index": part.index, "content_block": _block(part)}
        return _event("content_block_start", begun)

    def piece(self, part: Part, text: str, logprobs: tuple[LogprobEntry, ...]) -> bytes:
        return b"%b%b}}\n\n" % (self._delta_prefix, _encode(text))

    def closed(self, part: Part) -> bytes:
        return _event("content_block_stop", {"index": part.index})

    def _stop(self, last: MessageDelta) -> dict[str, str | None]:
        if isinstance(last.stop_reason, str):
            return {"stop_reason": "stop_sequence", "stop_sequence": last.stop_reason}
        reason = _STOP_REASONS.get(last.finish_reason, "end_turn")
        if reason == "max_tokens" and self._generation.usage().completion_tokens < self._max_tokens:
            reason = "model_context_window_exceeded"
        return {"stop_reason": reason, "stop_sequence": None}


def usage_body(usage: Usage) -> dict[str, Any]:
    """Prompt tokens that were cached do not count as input, as Anthropic counts."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
    }


def _event(kind: str, fields: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), _encode({"type": kind, **fields}))


def _block(part: Part) -> dict[str, Any]:
    """As far as it has come: a stream's block begins empty."""
    match part.kind:
        case "text":
            return {"type": "text", "text": part.text, "citations": None}
        case "reasoning":
            return {"type": "thinking", "thinking": part.text, "signature": ""}
        case "call":
            return {
                "type": "tool_use",
                "id": part.call_id,
                "name": part.name,
                "input": _input(part.text),
            }


def _input(arguments: str) -> dict[str, Any]:
    """What a call's arguments are; nothing, where they were cut off before their end."""
    try:
        found = msgspec.json.decode(arguments or "{}")
    except (msgspec.DecodeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
