"""One choice's text deltas to message deltas: reasoning first, then content and tool calls."""

from collections.abc import Sequence

from prelude.text.choice import TextDelta
from prelude.text.message import ChatFinish, MessageDelta, ToolCallDelta
from prelude.text.parsing.reasoning import ReasoningParser
from prelude.text.parsing.tools import ToolParser


def plain_delta(delta: TextDelta) -> MessageDelta:
    """All of it is content."""
    return MessageDelta(
        delta.index,
        delta.text,
        logprobs=delta.logprobs,
        finish_reason=delta.finish_reason,
        stop_reason=delta.stop_reason,
        token_ids=delta.token_ids,
    )


class AnswerParser:
    """Feed it every delta of one choice, in order. ``end_id`` is the token that ends reasoning,
    where it is one; ``num_reasoning_tokens`` counts up to and with it. ``is_silent`` keeps the
    reasoning back."""

    def __init__(
        self,
        reasoning: ReasoningParser | None,
        tools: ToolParser | None,
        *,
        end_id: int | None = None,
        is_silent: bool = False,
    ) -> None:
        self.num_reasoning_tokens = 0
        self._reasoning = reasoning
        self._tools = tools
        self._end_id = end_id
        self._has_end = False
        self._is_silent = is_silent

    def feed(self, delta: TextDelta) -> MessageDelta:
        reasoning, content = "", delta.text
        if self._reasoning is not None:
            reasoning, content = self._reason(self._reasoning, delta)
        calls: tuple[ToolCallDelta, ...] = ()
        if self._tools is not None:
            content, calls = self._tools.feed(content)
            if delta.finish_reason is not None:
                rest, late_calls = self._tools.close()
                content, calls = content + rest, calls + late_calls
        return MessageDelta(
            delta.index,
            content,
            reasoning,
            calls,
            delta.logprobs,
            self._finish_reason(delta),
            delta.stop_reason,
            delta.token_ids,
        )

    def _reason(self, parser: ReasoningParser, delta: TextDelta) -> tuple[str, str]:
        if parser.is_over:
            return "", delta.text
        reasoning, content = parser.feed(delta.text)
        if delta.finish_reason is not None:
            late = parser.close()
            reasoning, content = reasoning + late[0], content + late[1]
        self._count(parser, delta.token_ids)
        return "" if self._is_silent else reasoning, content

    def _count(self, parser: ReasoningParser, token_ids: Sequence[int]) -> None:
        if self._has_end:
            return
        if parser.has_reasoned and self._end_id in token_ids:
            self._has_end = True
            self.num_reasoning_tokens += token_ids.index(self._end_id) + 1
        elif parser.is_over and not parser.has_reasoned:
            self.num_reasoning_tokens = 0
        else:
            self.num_reasoning_tokens += len(token_ids)

    def _finish_reason(self, delta: TextDelta) -> ChatFinish | None:
        """Calls that were cut off by a limit or a stop string end as the engine says."""
        tools = self._tools
        if delta.finish_reason == "stop" and tools is not None and tools.num_calls:
            return "tool_calls" if tools.is_whole else "stop"
        return delta.finish_reason
