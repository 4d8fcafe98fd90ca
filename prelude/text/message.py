"""A chat answer as its parts, and as what each step adds to them: content, reasoning, tool calls.

Plain structs made once per token, so they are msgspec's, which are the cheapest to make.
"""

from collections.abc import Iterable
from typing import Literal

import msgspec

from prelude.text.logprobs import LogprobEntry
from prelude.types.request import FinishReason

ChatFinish = FinishReason | Literal["tool_calls"]


class ToolCallDelta(msgspec.Struct, frozen=True, gc=False):
    """A piece of call number ``index`` of a choice. ``id`` and ``name`` come with its first piece
    and only then; ``arguments`` is a piece of JSON text."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


class MessageDelta(msgspec.Struct, frozen=True):
    """What one step adds to choice ``index``. A choice's last delta has the ``finish_reason``;
    ``stop_reason`` is the stop string or token id, where one ended it."""

    index: int
    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    logprobs: tuple[LogprobEntry, ...] = ()
    finish_reason: ChatFinish | None = None
    stop_reason: int | str | None = None
    token_ids: tuple[int, ...] = ()


class ToolCall(msgspec.Struct, frozen=True):
    """A whole call; ``arguments`` is JSON text as the model wrote it."""

    id: str
    name: str
    arguments: str


class Message(msgspec.Struct, frozen=True):
    """One whole choice."""

    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[LogprobEntry, ...] = ()
    finish_reason: ChatFinish | None = None
    stop_reason: int | str | None = None
    token_ids: tuple[int, ...] = ()


def joined(deltas: Iterable[MessageDelta]) -> Message:
    """The message that all the deltas of one choice, in order, add up to."""
    content: list[str] = []
    reasoning: list[str] = []
    pieces: list[ToolCallDelta] = []
    logprobs: list[LogprobEntry] = []
    token_ids: list[int] = []
    last: MessageDelta | None = None
    for last in deltas:
        content.append(last.content)
        reasoning.append(last.reasoning)
        pieces += last.tool_calls
        logprobs += last.logprobs
        token_ids += last.token_ids
    return Message(
        content="".join(content),
        reasoning="".join(reasoning),
        tool_calls=_joined_calls(pieces),
        logprobs=tuple(logprobs),
        finish_reason=last.finish_reason if last else None,
        stop_reason=last.stop_reason if last else None,
        token_ids=tuple(token_ids),
    )


def _joined_calls(pieces: list[ToolCallDelta]) -> tuple[ToolCall, ...]:
    heads: list[tuple[str, str]] = []
    arguments: list[list[str]] = []
    for piece in pieces:
        if piece.id is not None and piece.name is not None:
            heads.append((piece.id, piece.name))
            arguments.append([])
        arguments[piece.index].append(piece.arguments)
    return tuple(
        ToolCall(call_id, name, "".join(texts))
        for (call_id, name), texts in zip(heads, arguments, strict=True)
    )
