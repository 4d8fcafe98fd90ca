"""One request as the client saw it: when its chunks came, what they carried, how it ended."""

from typing import Any

import msgspec

from prelude.bench.sse import SseParser

ERROR_BYTES = 2000


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: Any = None


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None

    @property
    def has_content(self) -> bool:
        delta = self.delta
        if delta is None:
            return bool(self.text)
        return bool(delta.content or delta.reasoning_content or delta.reasoning or delta.tool_calls)


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


_DECODER = msgspec.json.Decoder(_Chunk)


class Exchange:
    """The sink of one response. Times are the clock's, in seconds; ``failure`` names why it is
    not a completed answer (``http_429``, ``stream_error``, ``bad_stream``, ``truncated``, or what
    the sender sets: ``connect``, ``disconnected``, ``timeout``, ``cut_off``).
    """

    def __init__(self, *, stream: bool) -> None:
        self.stream = stream
        self.status = 0
        self.sent_s = 0.0
        self.end_s: float | None = None
        self.chunk_s: list[float] = []
        self.first_content_s: float | None = None
        self.content_chunks = 0
        self.finish_reason: str | None = None
        self.usage: _Usage | None = None
        self.failure: str | None = None
        self.detail = ""
        self._parser = SseParser()
        self._done = False
        self.body = bytearray()

    def on_head(self, now: float, status: int) -> None:
        self.status = status

    def on_body(self, now: float, data: bytes) -> None:
        if not self.stream or self.status != 200:
            self.body += data
            self.end_s = now
            return
        for event in self._parser.feed(data):
            self._on_event(now, event)

    def fail(self, failure: str, detail: str = "") -> None:
        """Record the first reason; what follows from it does not replace it."""
        if self.failure is None:
            self.failure, self.detail = failure, detail[:ERROR_BYTES]

    def finish(self) -> None:
        """The response has ended as HTTP goes: was it a complete answer?"""
        if self.status != 200:
            body = bytes(self.body[:ERROR_BYTES]).decode(errors="replace")
            self.fail(f"http_{self.status}", body)
        elif not self.stream:
            self._read_whole()
        elif not self.chunk_s:
            self.fail("bad_stream", "no chunk with choices")
        elif not self._done:
            self.fail("truncated", "the stream ended without [DONE]")

    @property
    def output_tokens(self) -> int:
        """From the usage chunk; a server that sends none is counted by chunks with content."""
        if self.usage is not None and self.usage.completion_tokens is not None:
            return self.usage.completion_tokens
        return self.content_chunks

    @property
    def cached_tokens(self) -> int:
        details = self.usage.prompt_tokens_details if self.usage is not None else None
        return (details.cached_tokens or 0) if details is not None else 0

    def _on_event(self, now: float, data: bytes) -> None:
        if data == b"[DONE]":
            self._done = True
            return
        try:
            chunk = _DECODER.decode(data)
        except msgspec.MsgspecError as error:
            self.fail("bad_stream", f"{error}: {data[:200]!r}")
            return
        if chunk.error is not None:
            self.fail("stream_error", str(chunk.error))
        if chunk.usage is not None:
            self.usage = chunk.usage
        if chunk.choices:
            self._on_choices(now, chunk.choices)

    def _on_choices(self, now: float, choices: list[_Choice]) -> None:
        self.chunk_s.append(now)
        self.end_s = now
        for choice in choices:
            if choice.has_content:
                self.content_chunks += 1
                if self.first_content_s is None:
                    self.first_content_s = now
            if choice.finish_reason is not None:
                self.finish_reason = choice.finish_reason

    def _read_whole(self) -> None:
        try:
            answer = _DECODER.decode(bytes(self.body))
        except msgspec.MsgspecError as error:
            return self.fail("bad_body", str(error))
        if not answer.choices:
            return self.fail("bad_body", "no choices")
        self.usage = answer.usage
        self.finish_reason = answer.choices[0].finish_reason
