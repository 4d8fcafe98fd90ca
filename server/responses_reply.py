"""/v1/responses in OpenAI's words: items, the events that tell of them, and the whole response."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from prelude.server.errors import ApiError
from prelude.server.generation import Generation, Usage
from prelude.server.parts import Kind, Part, Parts, parts_of
from prelude.server.tally import Timings
from prelude.text.logprobs import LogprobEntry, TokenScore
from prelude.text.message import MessageDelta

_encode = msgspec.json.encode

_ID_PREFIXES: Mapping[Kind, str] = {"reasoning": "rs", "text": "msg", "call": "fc"}
_DELTAS: Mapping[Kind, str] = {
    "reasoning": "response.reasoning_text.delta",
    "text": "response.output_text.delta",
    "call": "response.function_call_arguments.delta",
}


class ResponsesReply:
    """``head`` is the response as it will be, without what is only known at its end."""

    def __init__(self, head: dict[str, Any], suffix: str, generation: Generation) -> None:
        self._head = head
        self._suffix = suffix
        self._generation = generation
        self._parts = Parts(self)
        self._num_events = 0
        self._delta_prefix = b""
        self._status = "completed"  # of the part that is being closed

    def opening(self) -> bytes:
        begun = {**self._head, "status": "in_progress", "output": [], "usage": None}
        return b"".join(
            self._event(f"response.{name}", {"response": begun})
            for name in ("created", "in_progress")
        )

    def delta(self, delta: MessageDelta) -> bytes:
        return self._parts.feed(delta)

    def finish(self, delta: MessageDelta, timings: Timings | None) -> bytes:
        status = self._status = _status(delta)
        closing = self._parts.close()
        response = {**self._ended(self._parts.found, status), "timings": timings}
        return closing + self._event(f"response.{status}", {"response": response})

    def usage(self) -> bytes:
        return b""

    def failed(self, error: ApiError) -> bytes:
        """The end of a stream that cannot go on: a failed response for those who follow events, an
        error for SDKs that raise one."""
        what = {"code": _error_code(error), "message": error.message}
        output = [self._item(part, "incomplete") for part in self._parts.found]
        response = {**self._head, "status": "failed", "error": what, "output": output}
        detail = msgspec.json.decode(error.body())["error"]
        told = {"code": error.code, "message": error.message, "param": error.param}
        return self._event("response.failed", {"response": response}) + self._event(
            "error", {**told, "error": detail}
        )

    def body(self, answers: Sequence[Sequence[MessageDelta]]) -> dict[str, Any]:
        (deltas,) = answers
        return self._ended(parts_of(deltas), _status(deltas[-1]))

    def opened(self, part: Part) -> bytes:
        where = {"output_index": part.index, "item": self._item(part, "in_progress")}
        event = self._event("response.output_item.added", where)
        if part.kind != "call":
            inner = {**self._where(part), "part": _content(part)}
            event += self._event("response.content_part.added", inner)
        self._delta_prefix = self._prefix(part)
        return event

    def piece(self, part: Part, text: str, logprobs: tuple[LogprobEntry, ...]) -> bytes:
        number = self._num_events
        self._num_events += 1
        tail = b',"logprobs":[]' if part.kind == "text" else b""
        if logprobs:
            tail = b',"logprobs":' + _encode(_logprobs(logprobs))
        return b'%b%b,"sequence_number":%d%b}\n\n' % (
            self._delta_prefix,
            _encode(text),
            number,
            tail,
        )

    def closed(self, part: Part) -> bytes:
        is_last = part is self._parts.found[-1]
        item = self._item(part, self._status if is_last else "completed")
        return self._told_whole(part) + self._event(
            "response.output_item.done", {"output_index": part.index, "item": item}
        )

    def _told_whole(self, part: Part) -> bytes:
        where = self._where(part)
        if part.kind == "call":
            whole = {**where, "name": part.name, "arguments": part.text}
            return self._event("response.function_call_arguments.done", whole)
        name, text = "reasoning_text", {**where, "text": part.text}
        if part.kind == "text":
            name, text = "output_text", {**text, "logprobs": _logprobs(part.logprobs)}
        return self._event(f"response.{name}.done", text) + self._event(
            "response.content_part.done", {**where, "part": _content(part)}
        )

    def _prefix(self, part: Part) -> bytes:
        """The bytes of each of the part's deltas up to its text."""
        kind = _DELTAS[part.kind]
        head = _encode({"type": kind, **self._where(part)})
        return b'event: %b\ndata: %b,"delta":' % (kind.encode(), head[:-1])

    def _where(self, part: Part) -> dict[str, Any]:
        where = {"item_id": self._id(part), "output_index": part.index}
        return where if part.kind == "call" else {**where, "content_index": 0}

    def _event(self, kind: str, fields: dict[str, Any]) -> bytes:
        data = {"type": kind, "sequence_number": self._num_events, **fields}
        self._num_events += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), _encode(data))

    def _id(self, part: Part) -> str:
        return f"{_ID_PREFIXES[part.kind]}_{self._suffix}_{part.index}"

    def _item(self, part: Part, status: str) -> dict[str, Any]:
        """As far as it has come; of one in progress only the frame is told."""
        is_begun = status == "in_progress"
        content = [] if is_begun else [_content(part)]
        item: dict[str, Any] = {"id": self._id(part), "status": status}
        match part.kind:
            case "call":
                arguments = "" if is_begun else part.text
                call = {"call_id": part.call_id, "name": part.name, "arguments": arguments}
                return {**item, "type": "function_call", **call}
            case "text":
                return {**item, "type": "message", "role": "assistant", "content": content}
            case "reasoning":
                return {**item, "type": "reasoning", "summary": [], "content": content}

    def _ended(self, parts: list[Part], status: str) -> dict[str, Any]:
        items = [self._item(part, "completed") for part in parts]
        items[-1]["status"] = status
        reason = None if status == "completed" else {"reason": "max_output_tokens"}
        return {
            **self._head,
            "status": status,
            "incomplete_details": reason,
            "output": items,
            "usage": usage_body(self._generation.usage()),
        }


def usage_body(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _status(last: MessageDelta) -> str:
    return "incomplete" if last.finish_reason == "length" else "completed"


def _error_code(error: ApiError) -> str:
    return "rate_limit_exceeded" if error.status == 429 else "server_error"


def _content(part: Part) -> dict[str, Any]:
    if part.kind == "reasoning":
        return {"type": "reasoning_text", "text": part.text}
    logprobs = _logprobs(part.logprobs)
    return {"type": "output_text", "text": part.text, "annotations": [], "logprobs": logprobs}


def _logprobs(entries: Sequence[LogprobEntry]) -> list[dict[str, Any]]:
    return [
        {**_score(entry.score), "top_logprobs": [_score(score) for score in entry.top]}
        for entry in entries
    ]


def _score(score: TokenScore) -> dict[str, Any]:
    return {"token": score.token, "logprob": score.logprob, "bytes": list(score.token_bytes)}
