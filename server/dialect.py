"""How the model that is served writes tool calls and reasoning, found out once."""

import logging
from dataclasses import dataclass
from typing import Self

from prelude.conf.schema import ReasoningField, ReasoningParserName, ServerConfig, ToolParserName
from prelude.server.tools import ToolUse
from prelude.text.parsing.answer import AnswerParser
from prelude.text.parsing.force import enforceable, forced_calls, strict_calls
from prelude.text.parsing.formats import FORMATS, ToolFormat, spoken_format
from prelude.text.parsing.reasoning import END, START, ReasoningParser
from prelude.text.parsing.tools import ToolParser
from prelude.text.tokenizer import Tokenizer
from prelude.types.constraint import Constraint

logger = logging.getLogger(__name__)

_FIELDS = {
    ReasoningField.reasoning_content: ("reasoning_content",),
    ReasoningField.reasoning: ("reasoning",),
    ReasoningField.both: ("reasoning_content", "reasoning"),
}
_TAIL_TOKENS = 16  # of a prompt: enough for a mark that is not a single token


@dataclass(frozen=True)
class Dialect:
    """``reasons`` says that answers may have reasoning, ``always_reasons`` that they begin with it
    even where neither prompt nor answer has the mark; ``reasoning_fields`` are its names for
    clients."""

    tokenizer: Tokenizer
    tools: ToolFormat
    reasons: bool
    always_reasons: bool
    reasoning_fields: tuple[str, ...]

    @classmethod
    def of(cls, tokenizer: Tokenizer, config: ServerConfig) -> Self:
        wanted = config.reasoning_parser
        knows = tokenizer.template_mentions(END) or tokenizer.added_id(END) is not None
        return cls(
            tokenizer,
            _tool_format(tokenizer, config.tool_parser),
            reasons=knows if wanted is ReasoningParserName.auto else wanted != "none",
            always_reasons=wanted is ReasoningParserName.deepseek_r1,
            reasoning_fields=_FIELDS[config.reasoning_field],
        )

    def parser(self, tools: ToolUse | None, is_open: bool | None, is_silent: bool) -> AnswerParser:
        """For one choice. ``is_open`` is as ``reasoning_state`` says."""
        form = self._form(tools)
        return AnswerParser(
            None if is_open is None else ReasoningParser(is_open),
            None if tools is None else _tool_parser(form, tools),
            end_id=self.tokenizer.added_id(END),
            is_silent=is_silent,
        )

    def reasoning_state(self, prompt_ids: list[int]) -> bool | None:
        """Whether the answer begins within reasoning; None where there is none to come."""
        tail = self._tail(prompt_ids)
        if not self.reasons or tail.endswith(END):
            return None
        return self.always_reasons or tail.endswith(START)

    def closed(self, prompt_ids: list[int]) -> list[int]:
        """The prompt with its reasoning at an end, for an answer that is to have none."""
        start = "" if self._tail(prompt_ids).endswith(START) else START
        return prompt_ids + self.tokenizer.encode(f"{start}\n{END}\n\n", add_special_tokens=False)

    def _tail(self, prompt_ids: list[int]) -> str:
        ids = prompt_ids[-_TAIL_TOKENS:]
        return self.tokenizer.decode(ids, skip_special_tokens=False).rstrip()

    def shown_ids(self, tools: ToolUse | None, is_open: bool | None) -> frozenset[int]:
        """Special tokens that the parsers must see, although clients do not."""
        marks = [] if is_open is None else [START, END]
        marks += [] if tools is None else self._form(tools).marks
        return frozenset(i for mark in marks if (i := self.tokenizer.added_id(mark)) is not None)

    def constraint(self, tools: ToolUse) -> Constraint | None:
        """The grammar of the calls, where there must be one or their schemas are strict."""
        form, token_id = self._form(tools), self.tokenizer.added_id
        text: str | None = None
        if tools.must_call:
            text = forced_calls(
                form, tools.schemas, token_id, limit=tools.limit, is_strict=tools.is_strict
            )
        elif tools.is_strict:
            text = strict_calls(form, tools.schemas, token_id)
        if text is None:
            return None
        return Constraint("lark", text, field="tools")

    def _form(self, tools: ToolUse | None) -> ToolFormat:
        return enforceable(self.tools) if tools is not None and tools.must_call else self.tools


def _tool_parser(form: ToolFormat, tools: ToolUse) -> ToolParser:
    return ToolParser(form, tools.schemas, limit=tools.limit, is_all_calls=tools.must_call)


def _tool_format(tokenizer: Tokenizer, name: ToolParserName) -> ToolFormat:
    if name is not ToolParserName.auto:
        return FORMATS[name.value]
    found = spoken_format(tokenizer)
    if found is None and tokenizer.template_mentions("tools"):
        logger.warning(
            "the chat template writes tool calls in a format that is not known here; they are read "
            "as hermes. Set server.tool_parser if they come as content."
        )
    return found or FORMATS["hermes"]
