"""What one chat answer is made of: whether it reasons, which tools it may call, how it is read."""

from dataclasses import dataclass
from typing import Self

import msgspec

from prelude.server.dialect import Dialect
from prelude.server.protocol import ChatRequest
from prelude.server.structured import reasoned
from prelude.server.tools import ToolUse, tool_use
from prelude.text.parsing.answer import AnswerParser
from prelude.text.parsing.reasoning import END, START
from prelude.types.request import SamplingParams


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """``is_open`` says whether the answer begins within reasoning; None: it has none."""

    dialect: Dialect
    prompt_ids: list[int]
    tools: ToolUse | None
    is_open: bool | None
    is_silent: bool

    @classmethod
    def of(cls, body: ChatRequest, dialect: Dialect, prompt_ids: list[int], reasons: bool) -> Self:
        """Where the client wants no reasoning and the template has opened it, the prompt closes it
        again. Raises ``ApiError`` for what is wrong with the tools."""
        if body.continue_final_message:
            is_open = _is_open(body) if dialect.reasons else None
        else:
            is_open = dialect.reasoning_state(prompt_ids)
            if is_open and not reasons:
                is_open, prompt_ids = None, dialect.closed(prompt_ids)
        return cls(dialect, prompt_ids, tool_use(body), is_open, body.include_reasoning is False)

    @property
    def shown_ids(self) -> frozenset[int]:
        return self.dialect.shown_ids(self.tools, self.is_open)

    def constrained(self, params: SamplingParams) -> SamplingParams:
        """With the grammar of the tools. What else the answer was to look like does not count
        where a tool must be called, and comes first where one may be."""
        tools = self.tools
        if tools is not None and (tools.must_call or params.constraint is None):
            constraint = self.dialect.constraint(tools)
            params = msgspec.structs.replace(params, constraint=constraint)
        return reasoned(params, self.is_open)

    def parsers(self, num: int) -> list[AnswerParser]:
        """One a choice; none where all is content."""
        if self.tools is None and self.is_open is None:
            return []
        return [self.dialect.parser(self.tools, self.is_open, self.is_silent) for _ in range(num)]


def _is_open(body: ChatRequest) -> bool | None:
    """Of the last message, which the answer goes on with."""
    text = body.messages[-1].get("content") if body.messages else None
    is_open = isinstance(text, str) and text.rfind(START) > text.rfind(END)
    return True if is_open else None
