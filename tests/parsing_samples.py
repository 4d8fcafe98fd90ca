"""Tool calls as models of every format write them, and parsers run over text in pieces."""

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import count, pairwise
from typing import Any

from prelude.text.message import Message, MessageDelta, joined
from prelude.text.parsing.formats import FORMATS
from prelude.text.parsing.tools import ToolParser

Call = tuple[str, dict[str, Any]]

PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "x_1": {"type": "string"}, "a": {}, "b": {}},
}
TOOLS: Mapping[str, Mapping[str, Any]] = dict.fromkeys(("get_weather", "add", "now"), PARAMETERS)


def _object(call: Call, key: str = "arguments") -> str:
    return json.dumps({"name": call[0], key: call[1]}, ensure_ascii=False)


def _hermes(calls: Sequence[Call]) -> str:
    return "\n".join(f"<tool_call>\n{_object(call)}\n</tool_call>" for call in calls)


def _llama3(calls: Sequence[Call]) -> str:
    return "<|python_tag|>" + "; ".join(_object(call, "parameters") for call in calls)


def _llama3_bare(calls: Sequence[Call]) -> str:
    return _llama3(calls).removeprefix("<|python_tag|>")


def _mistral(calls: Sequence[Call]) -> str:
    return f"[TOOL_CALLS] [{', '.join(map(_object, calls))}]"


def _mistral_named(calls: Sequence[Call]) -> str:
    return "".join(f"[TOOL_CALLS]{name}{json.dumps(arguments)}" for name, arguments in calls)


def _mistral_tags(calls: Sequence[Call]) -> str:
    return "".join(
        f"[TOOL_CALLS]{name}[CALL_ID]abcdefgh1[ARGS]{json.dumps(arguments)}"
        for name, arguments in calls
    )


def _json(calls: Sequence[Call]) -> str:
    return _object(calls[0]) if len(calls) == 1 else f"[{', '.join(map(_object, calls))}]"


def _pythonic(calls: Sequence[Call]) -> str:
    def arguments(values: dict[str, Any]) -> str:
        return ", ".join(f"{key}={value!r}" for key, value in values.items())

    return f"[{', '.join(f'{name}({arguments(values)})' for name, values in calls)}]"


def _llama4(calls: Sequence[Call]) -> str:
    return f"<|python_start|>{_pythonic(calls)}<|python_end|>"


def _xml(calls: Sequence[Call]) -> str:
    def one(call: Call) -> str:
        values = "".join(
            f"<parameter={key}>\n{value if isinstance(value, str) else json.dumps(value)}\n"
            "</parameter>\n"
            for key, value in call[1].items()
        )
        return f"<tool_call>\n<function={call[0]}>\n{values}</function>\n</tool_call>"

    return "\n".join(map(one, calls))


# (format, how a model writes calls in it, whether content may stand before them)
WRITERS: Sequence[tuple[str, Callable[[Sequence[Call]], str], bool]] = (
    ("hermes", _hermes, True),
    ("qwen3_coder", _xml, True),
    ("llama3_json", _llama3, True),
    ("llama3_json", _llama3_bare, False),
    ("mistral", _mistral, True),
    ("mistral", _mistral_named, True),
    ("mistral", _mistral_tags, True),
    ("json", _json, False),
    ("pythonic", _pythonic, False),
    ("llama4_pythonic", _llama4, True),
)


def parser(form: str, **options: Any) -> ToolParser:
    """With ids that count."""
    numbers = count()
    return ToolParser(FORMATS[form], TOOLS, new_id=lambda: f"call_{next(numbers)}", **options)


def parsed(form: str, pieces: Sequence[str], **options: Any) -> Message:
    """The message that the stream of ``pieces`` adds up to."""
    one = parser(form, **options)
    fed = [one.feed(piece) for piece in pieces]
    return joined(
        MessageDelta(0, content, tool_calls=calls)
        for runs in [*fed, one.close()]
        for content, calls in runs
    )


def calls_of(message: Message) -> list[Call]:
    return [(call.name, json.loads(call.arguments)) for call in message.tool_calls]


def cut(text: str, places: Sequence[int]) -> list[str]:
    """``text`` in pieces, cut at ``places`` (of any order, beyond its end, or twice)."""
    edges = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[start:end] for start, end in pairwise(edges)]
