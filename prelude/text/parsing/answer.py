"""One choice's text deltas to message deltas: reasoning first, then content and tool calls."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from prelude.text.choice import TextDelta
from prelude.text.message import ChatFinish, MessageDelta
from prelude.text.parsing.reasoning import ReasoningParser
from prelude.text.parsing.tools import Run, ToolParser


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
    """Feed it every delta of one choice, in order; each becomes one or several, in the order of the
    text: where content follows a call, another begins. ``end_id`` is the token that ends reasoning,
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
        self._num_chars = 0

    def feed(self, delta: TextDelta) -> list[MessageDelta]:
        start, self._num_chars = self._num_chars, self._num_chars + len(delta.text)
        if len(delta.logprobs) < 2:
            return list(self._read(delta))
        return [found for one in _by_token(delta, start) for found in self._read(one)]

    def _read(self, delta: TextDelta) -> Iterator[MessageDelta]:
        reasoning, content = "", delta.text
        if self._reasoning is not None:
            reasoning, content = self._reason(self._reasoning, delta)
        *runs, (content, calls) = self._runs(content, delta.finish_reason is not None)
        logprobs, token_ids = delta.logprobs, delta.token_ids
        for run in runs:
            yield MessageDelta(
                delta.index, run[0], reasoning, run[1], logprobs, token_ids=token_ids
            )
            reasoning, logprobs, token_ids = "", (), ()
        yield MessageDelta(
            delta.index,
            content,
            reasoning,
            calls,
            logprobs,
            self._finish_reason(delta),
            delta.stop_reason,
            token_ids,
        )

    def _runs(self, content: str, is_last: bool) -> list[Run]:
        """At least one."""
        if self._tools is None:
            return [(content, ())]
        runs = self._tools.feed(content)
        if is_last:
            runs += self._tools.close()
        return runs or [("", ())]

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


def _by_token(delta: TextDelta, start: int) -> Iterator[TextDelta]:
    """The same, a token each, so that logprobs stand with the text that is theirs. ``start`` is
    where the delta's text begins in the choice's."""
    places = [max(entry.text_offset - start, 0) for entry in delta.logprobs[1:]]
    edges = list(pairwise([0, *places, len(delta.text)]))
    last = len(edges) - 1
    for n, ((begin, end), token_id) in enumerate(zip(edges, delta.token_ids, strict=True)):
        one = TextDelta(delta.index, delta.text[begin:end], (token_id,), (delta.logprobs[n],))
        if n == last:
            one = replace(one, finish_reason=delta.finish_reason, stop_reason=delta.stop_reason)
        yield one
