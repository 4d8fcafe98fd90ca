"""The ways in which models write tool calls, by the names that vLLM has for them, and which of
them a chat template speaks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from prelude.text.parsing.calls import Calls, NewId, long_id, short_id
from prelude.text.parsing.feed import Feed, Steps
from prelude.text.parsing.json_calls import json_call, json_calls
from prelude.text.parsing.mistral import mistral_calls
from prelude.text.parsing.pythonic import pythonic_calls
from prelude.text.parsing.xml_calls import xml_calls
from prelude.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """``start`` announces calls, ``end`` may close them; ``is_bare`` says that an answer may also
    begin with a call that nothing announces. ``body`` reads what is between, and is told whether
    it was announced. ``marks`` must be seen although they may be special tokens."""

    name: str
    body: Callable[[Feed, Calls, bool], Steps[bool]]
    start: str = ""
    end: str = ""
    is_bare: bool = False
    marks: tuple[str, ...] = ()
    new_id: NewId = long_id


def _json(feed: Feed, calls: Calls, is_marked: bool) -> Steps[bool]:
    return (yield from json_calls(feed, calls, is_marked=is_marked))


def _llama3(feed: Feed, calls: Calls, is_marked: bool) -> Steps[bool]:
    """Several calls have semicolons between them."""
    if not (yield from json_calls(feed, calls, is_marked=is_marked)):
        return False
    while (yield from feed.skip_space()) == ";":
        feed.take()
        if not (yield from json_call(feed, calls, is_marked=is_marked)):
            return False
    return True


def _mistral(feed: Feed, calls: Calls, is_marked: bool) -> Steps[bool]:
    return (yield from mistral_calls(feed, calls))


def _pythonic(feed: Feed, calls: Calls, is_marked: bool) -> Steps[bool]:
    return (yield from pythonic_calls(feed, calls, is_marked=is_marked))


def _xml(feed: Feed, calls: Calls, is_marked: bool) -> Steps[bool]:
    return (yield from xml_calls(feed, calls))


FORMATS: Mapping[str, ToolFormat] = {
    one.name: one
    for one in (
        ToolFormat(
            "hermes",
            _json,
            start="<tool_call>",
            end="</tool_call>",
            marks=("<tool_call>", "</tool_call>"),
        ),
        ToolFormat(
            "qwen3_coder",
            _xml,
            start="<tool_call>",
            end="</tool_call>",
            marks=("<tool_call>", "</tool_call>"),
        ),
        ToolFormat(
            "llama3_json",
            _llama3,
            start="<|python_tag|>",
            is_bare=True,
            marks=("<|python_tag|>",),
        ),
        ToolFormat(
            "mistral",
            _mistral,
            start="[TOOL_CALLS]",
            marks=("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"),
            new_id=short_id,
        ),
        ToolFormat(
            "llama4_pythonic",
            _pythonic,
            start="<|python_start|>",
            end="<|python_end|>",
            is_bare=True,
            marks=("<|python_start|>", "<|python_end|>"),
        ),
        ToolFormat("pythonic", _pythonic, is_bare=True),
        ToolFormat("json", _json, is_bare=True),
    )
}

# What a template that speaks a format has in it; the first that is found counts.
_SIGNS = (
    ("<function=", "qwen3_coder"),
    ("<tool_call>", "hermes"),
    ("[TOOL_CALLS]", "mistral"),
    ("<|python_start|>", "llama4_pythonic"),
    ("<|python_tag|>", "llama3_json"),
    ("Environment: ipython", "llama3_json"),
)


def spoken_format(tokenizer: Tokenizer) -> ToolFormat | None:
    """The format that the chat template speaks; None if it does not show tools to the model, or
    in a way that is not known here."""
    if not tokenizer.template_mentions("tools"):
        return None
    names = (name for sign, name in _SIGNS if tokenizer.template_mentions(sign))
    name = next(names, None)
    return None if name is None else FORMATS[name]
