"""An answer as a list of parts, in the order they came: reasoning, text, calls. The APIs that have
one block or item for each are written over this."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from prelude.text.logprobs import LogprobEntry
from prelude.text.message import MessageDelta

Kind = Literal["reasoning", "text", "call"]


@dataclass(slots=True)
class Part:
    """``text`` is that of reasoning or answer, or a call's arguments as JSON text."""

    index: int
    kind: Kind
    call_id: str = ""
    name: str = ""
    pieces: list[str] = field(default_factory=list)
    logprobs: list[LogprobEntry] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class PartWriter(Protocol):
    """What a stream says of parts; whole SSE events."""

    def opened(self, part: Part) -> bytes: ...
    def piece(self, part: Part, text: str, logprobs: tuple[LogprobEntry, ...]) -> bytes: ...
    def closed(self, part: Part) -> bytes: ...


class Parts:
    """``feed`` it every delta of one choice, then ``close``; both return what ``writer`` says.

    Logprobs are told with texts only. Those of tokens that print nothing yet wait for what the text
    becomes: they go with text that follows, or end the text before them, and with them goes
    nothing that marks reasoning or a call.
    """

    def __init__(self, writer: PartWriter) -> None:
        self.found: list[Part] = []
        self._writer = writer
        self._open: Part | None = None
        self._silent: tuple[LogprobEntry, ...] = ()

    def feed(self, delta: MessageDelta) -> bytes:
        out = b""
        self._silent += delta.logprobs
        if delta.reasoning:
            out += self._add("reasoning", delta.reasoning)
        if delta.content:
            is_text = self._open is None or self._open.kind == "text"
            logprobs = self._silent if is_text else delta.logprobs
            out += self._add("text", delta.content, logprobs)
        if delta.reasoning or delta.content or delta.tool_calls:
            self._silent = ()
        for call in delta.tool_calls:
            if call.id is not None:
                out += self._begin("call", call.id, call.name or "")
            if call.arguments:
                out += self._add("call", call.arguments)
        return out

    def close(self) -> bytes:
        """An answer without any part has an empty text."""
        out = b"" if self.found else self._begin("text")
        if self._silent and self._open is not None and self._open.kind == "text":
            out += self._add("text", "", self._silent)
        return out + self._end()

    def _add(self, kind: Kind, text: str, logprobs: tuple[LogprobEntry, ...] = ()) -> bytes:
        out = b""
        if self._open is None or self._open.kind != kind:
            assert kind != "call", "arguments of a call that has not begun or has ended"
            out = self._begin(kind)
        assert self._open is not None
        self._open.pieces.append(text)
        self._open.logprobs += logprobs
        return out + self._writer.piece(self._open, text, logprobs)

    def _begin(self, kind: Kind, call_id: str = "", name: str = "") -> bytes:
        out = self._end()
        self._open = Part(len(self.found), kind, call_id, name)
        self.found.append(self._open)
        return out + self._writer.opened(self._open)

    def _end(self) -> bytes:
        part, self._open = self._open, None
        return b"" if part is None else self._writer.closed(part)


class _Silent:
    def opened(self, part: Part) -> bytes:
        return b""

    def piece(self, part: Part, text: str, logprobs: tuple[LogprobEntry, ...]) -> bytes:
        return b""

    def closed(self, part: Part) -> bytes:
        return b""


def parts_of(deltas: Iterable[MessageDelta]) -> list[Part]:
    """The parts of a whole answer: the same that its stream has."""
    parts = Parts(_Silent())
    for delta in deltas:
        parts.feed(delta)
    parts.close()
    return parts.found
