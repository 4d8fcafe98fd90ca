"""Tool calls out of text: every format, every way to cut the text, and what is no call."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from prelude.text.message import ToolCallDelta
from prelude.text.parsing.feed import Feed
from prelude.text.parsing.formats import FORMATS
from prelude.text.parsing.tools import ToolParser
from tests.parsing_samples import WRITERS, Call, calls_of, cut, parsed, parser

BOTH: list[Call] = [("get_weather", {"city": "Paris"}), ("add", {"a": 1, "b": [2, {"c": None}]})]
CASES = [pytest.param(*case, id=f"{case[0]}-{n}") for n, case in enumerate(WRITERS)]

Writer = Callable[[Sequence[Call]], str]


@pytest.mark.parametrize(("form", "write", "may_talk"), CASES)
def test_calls_are_found(form: str, write: Writer, may_talk: bool) -> None:
    message = parsed(form, [write(BOTH)])
    assert calls_of(message) == BOTH
    assert message.content == ""
    assert [call.id for call in message.tool_calls] == ["call_0", "call_1"]
    assert calls_of(parsed(form, [write([("now", {})])])) == [("now", {})]
    if may_talk:
        message = parsed(form, ["Let me look.\n\n" + write(BOTH)])
        assert (message.content, calls_of(message)) == ("Let me look.", BOTH)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)
NAMES = st.sampled_from(["get_weather", "add", "now"])
CALLS = st.lists(
    st.tuples(NAMES, st.dictionaries(st.sampled_from(["city", "a", "b", "x_1"]), VALUES)),
    min_size=1,
    max_size=3,
)
# strings of the formats themselves, cut anywhere, are the likeliest to confuse a parser
MARKS = [
    *(part for form in FORMATS.values() for part in (form.start, form.end, *form.marks) if part),
    *('{"name": "add", "arguments": {', "{", "}", "[", "]", '"', "\\", "<", ";", ",", ":", "add("),
    *("<function=add>", "<parameter=a>", "</parameter>", "</function>", "\n", " ", "'", "=", ")"),
    *('"name"', '"arguments"', "null", "1", "\\ud800", "[add(a=1)]", "add", "日本", "\ufffd"),
]
GARBAGE = st.lists(st.sampled_from(MARKS) | st.text(max_size=4), max_size=14).map("".join)
PLACES = st.lists(st.integers(0, 500), max_size=12)


@pytest.mark.parametrize(("form", "write", "may_talk"), CASES)
def test_what_was_written_is_read_however_it_is_cut(
    form: str, write: Writer, may_talk: bool
) -> None:
    @given(calls=CALLS, places=PLACES)
    def check(calls: list[Call], places: list[int]) -> None:
        if form == "qwen3_coder":
            calls = [(name, _plain(values)) for name, values in calls]
        text = "I will.\n" * may_talk + write(calls)
        whole = parsed(form, [text])
        assert calls_of(whole) == calls
        assert whole.content == "I will." * may_talk
        assert parsed(form, cut(text, places)) == whole
        assert parsed(form, list(text)) == whole

    check()


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """What tags can say: strings where the schema has strings, without the tag that ends them."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name == "city" or not isinstance(value, int) or isinstance(value, bool):
            value = f"x{name}" if name in ("city", "x_1") else [name]
        found[name] = str(value) if name in ("city", "x_1") else value
    return found


@pytest.mark.parametrize("form", FORMATS)
def test_garbage_is_read_however_it_is_cut_and_nothing_is_lost(form: str) -> None:
    @given(text=GARBAGE, places=PLACES)
    @example(text='<tool_call>{"name": "add", "arguments": {"a": "<tool_call>', places=[3, 20])
    @example(text="<tool_call>{} <tool_call>{}</tool_call></tool_call>", places=[1, 2, 3, 30])
    def check(text: str, places: list[int]) -> None:
        whole = parsed(form, [text])
        assert parsed(form, cut(text, places)) == whole
        assert parsed(form, list(text)) == whole
        if not whole.tool_calls:
            assert whole.content == text
        assert _in_order("".join(whole.content.split()), text)
        for call in whole.tool_calls:
            assert call.name
            call.arguments.encode()

    check()


def _in_order(part: str, text: str) -> bool:
    """Whether the characters of ``part`` stand in ``text`` in this order."""
    rest = iter(text)
    return all(char in rest for char in part)


def test_pieces_of_a_call_come_as_they_are_read() -> None:
    one = parser("hermes")
    assert one.feed('Hi <tool_call>{"name": "add", ') == [("Hi", ())]
    assert one.feed('"arguments": {"a": ') == [
        ("", (ToolCallDelta(0, "call_0", "add", '{"a": '),)),
    ]
    assert one.feed("12") == [("", (ToolCallDelta(0, arguments="12"),))]
    assert one.feed('}}</tool_call>\n<tool_call>{"name":"now","arguments":{') == [
        ("", (ToolCallDelta(0, arguments="}"), ToolCallDelta(1, "call_1", "now", "{"))),
    ]
    assert not one.is_whole
    assert one.feed("}}</tool_call>") == [("", (ToolCallDelta(1, arguments="}"),))]
    assert one.is_whole
    assert one.feed(" Done. ") == [("Done.", ())]
    assert one.close() == [(" ", ())]


def test_content_between_calls_stands_between_them() -> None:
    call = '<tool_call>{"name": "now", "arguments": {}}</tool_call>'
    first, second = (ToolCallDelta(n, f"call_{n}", "now", "{}") for n in range(2))
    assert parser("hermes").feed(f"A{call} B {call} C") == [
        ("A", (first,)),
        ("B", (second,)),
        ("C", ()),
    ]


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("hermes", "x < y and <tool"),
        ("hermes", "<tool_call>\nnot json\n</tool_call>"),
        ("hermes", '<tool_call>{"arguments": {"a": 1}}</tool_call>'),
        ("hermes", '<tool_call>{"name": 5, "arguments": {}}</tool_call>'),
        ("hermes", '<tool_call>{"name": "add", "arguments": [1]}</tool_call>'),
        ("hermes", '<tool_call>{"name": "\\ud800", "arguments": {}}</tool_call>'),
        ("hermes", "<tool_call>[]</tool_call> \n"),
        ("hermes", '<tool_call>{"name": "add"'),
        ("llama3_json", '{"name": "Bob", "parameters": {"age": 3}}'),
        ("llama3_json", '{"name": "add", "age": 3}'),
        ("llama3_json", '<|python_tag|>brave_search.call(query="x")'),
        ("json", '{"answer": 42}'),
        ("json", '[{"name": "Bob"}]'),
        ("json", "[1, 2]"),
        ("json", "  plain"),
        ("mistral", "[TOOL_CALLS]"),
        ("mistral", "[TOOL_CALLS] []"),
        ("mistral", "[TOOL_CALLS]add[OTHER]{}"),
        ("mistral", "[TOOL_CALLS]add(1)"),
        ("pythonic", "[unknown(a=1)]"),
        ("pythonic", "[add(1)]"),
        ("pythonic", "[add(a=b)]"),
        ("pythonic", "[add(a=1), 2]"),
        ("pythonic", "[add(a=1"),
        ("pythonic", "[add(a='\\ud800')]"),
        ("qwen3_coder", "<tool_call>\n<function=>\n</function>\n</tool_call>"),
        ("qwen3_coder", "<tool_call>\n{}"),
    ],
)
def test_what_is_no_call_is_content(form: str, text: str) -> None:
    message = parsed(form, [text])
    assert (message.content, message.tool_calls) == (text, ())
    assert parsed(form, list(text)) == message


@pytest.mark.parametrize(
    ("form", "text", "calls", "content"),
    [
        # other orders and words of the same
        ("hermes", '<tool_call>{"arguments":{"a":1},"name":"add"}</tool_call>', [("add", 1)], ""),
        ("hermes", '<tool_call>{"name":"add","arguments":"{\\"a\\": 1}"}', [("add", 1)], ""),
        (
            "hermes",
            '<tool_call>{"type":"function","function":{"name":"add","arguments":{"a":1}}}'
            "</tool_call>",
            [("add", 1)],
            "",
        ),
        ("json", '{"type": "function", "name": "add", "parameters": {"a": 1}}', [("add", 1)], ""),
        ("json", '{"function": "add", "parameters": {"a": 1}}', [("add", 1)], ""),
        # brackets forgotten, marks forgotten, words after the call
        ("hermes", '<tool_call>{"name":"add","arguments":{"a":1}</tool_call>', [("add", 1)], ""),
        ("hermes", '<tool_call>{"name":"add","arguments":{"a":1}} So', [("add", 1)], "So"),
        (
            "hermes",
            '<tool_call><tool_call>{"name":"add","arguments":{"a":1}}</tool_call>',
            [("add", 1)],
            "<tool_call>",
        ),
        (
            "hermes",
            '<tool_call>oops</tool_call>\n<tool_call>{"name":"add","arguments":{"a":1}}',
            [("add", 1)],
            "<tool_call>oops</tool_call>",
        ),
        ("mistral", '[TOOL_CALLS][{"name":"add","arguments":{"a":1}}, x', [("add", 1)], ", x"),
        ("llama3_json", '{"name":"add","parameters":{"a":1}}; or', [("add", 1)], "; or"),
        ("pythonic", "[add(a=1)] there", [("add", 1)], "there"),
        (
            "qwen3_coder",
            "<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n</tool_call>",
            [("add", 1)],
            "",
        ),
    ],
)
def test_calls_that_are_written_differently(
    form: str, text: str, calls: list[tuple[str, int]], content: str
) -> None:
    message = parsed(form, [text])
    assert calls_of(message) == [(name, {"a": a}) for name, a in calls]
    assert message.content == content
    assert parsed(form, list(text)) == message


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ('<tool_call>{"name":"now"}</tool_call>', "{}"),
        ('<tool_call>{"name":"now","arguments":null}</tool_call>', "{}"),
        ('<tool_call>{"name":"now","arguments":""}</tool_call>', "{}"),
        ('<tool_call>{"name":"now","arguments":{"a": tru', '{"a": tru'),
        ('<tool_call>{"name":"now","arguments":{"a": {"b": 1}</tool_call>', '{"a": {"b": 1}'),
    ],
)
def test_arguments_that_are_missing_or_broken(text: str, arguments: str) -> None:
    (call,) = parsed("hermes", [text]).tool_calls
    assert call.arguments == arguments
    assert parsed("hermes", list(text)).tool_calls == (call,)


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"type": "string"}, "12", "12"),
        ({"type": "integer"}, "12", 12),
        ({"type": "integer"}, "twelve", "twelve"),
        ({"type": "number"}, "NaN", "NaN"),
        ({"type": "boolean"}, "True", True),
        ({"type": ["string", "null"]}, "12", "12"),
        ({"type": ["string", "null"]}, "None", None),
        ({"type": ["string", "number"]}, "12", 12),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "[1]", "[1]"),
        ({"anyOf": [{"type": "string"}, {"type": "array"}]}, "[1]", [1]),
        ({"anyOf": [{"type": "string"}, {"$ref": "#"}]}, "[1]", [1]),
        ({"type": [{}, 1]}, "12", 12),
        ({"enum": ["a", 1]}, "1", 1),
        (True, "1.5", 1.5),
    ],
)
def test_xml_values_are_what_their_schema_allows(schema: Any, text: str, value: Any) -> None:
    one = ToolParser(FORMATS["qwen3_coder"], {"f": {"properties": {"x": schema}}})
    call = f"<tool_call>\n<function=f>\n<parameter=x>\n{text}\n</parameter>\n</function>"
    ((_, calls),) = one.feed(call)
    found = json.loads("".join(piece.arguments for piece in calls), parse_constant=pytest.fail)
    assert found == {"x": value}


def test_unknown_names_count_where_a_mark_announced_the_call() -> None:
    text = '<tool_call>{"name": "other", "arguments": {}}</tool_call>'
    assert calls_of(parsed("hermes", [text])) == [("other", {})]


def test_calls_beyond_the_limit_are_left_out() -> None:
    for form, write, _ in WRITERS:
        assert calls_of(parsed(form, [write(BOTH)], limit=1)) == BOTH[:1]


@pytest.mark.parametrize(("form", "write", "may_talk"), CASES)
def test_where_all_is_calls_what_is_cut_off_is_no_content(
    form: str, write: Writer, may_talk: bool
) -> None:
    text = write(BOTH)
    for end in range(len(text) + 1):
        message = parsed(form, [text[:end]], is_all_calls=True)
        assert message.content == ""
    assert calls_of(message) == BOTH


def test_ids_are_as_templates_want_them() -> None:
    assert len(FORMATS["mistral"].new_id()) == 9
    assert FORMATS["mistral"].new_id().isalnum()
    assert FORMATS["hermes"].new_id().startswith("call_")
    assert FORMATS["hermes"].new_id() != FORMATS["hermes"].new_id()


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "seed",
    ['{"name": "add", "arguments": {"a": "', "<tool_call>", "[TOOL_CALLS]", "[add(", "{", " "],
)
def test_every_character_is_read_once(
    form: str, seed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_read = 0
    push = Feed.push

    def counting(self: Feed, text: str) -> None:
        nonlocal num_read
        push(self, text)
        num_read += len(self._text)

    monkeypatch.setattr(Feed, "push", counting)
    text = seed * 1000
    parsed(form, cut(text, range(0, len(text), 4)))
    assert num_read <= 2 * len(text)
