"""Answers in the blocks and items of other APIs: what a stream tells is what the whole says."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from prelude.server.anthropic_reply import AnthropicReply
from prelude.server.errors import ApiError
from prelude.server.generation import Usage
from prelude.server.parts import Part, parts_of
from prelude.server.responses_reply import ResponsesReply
from prelude.text.choice import TextDelta
from prelude.text.logprobs import LogprobEntry, TokenScore
from prelude.text.message import ChatFinish, MessageDelta, ToolCallDelta
from prelude.text.parsing.answer import AnswerParser
from prelude.text.parsing.formats import FORMATS
from prelude.text.parsing.reasoning import ReasoningParser
from prelude.text.parsing.tools import ToolParser
from tests.parsing_samples import TOOLS, cut


@dataclass
class Spent:
    """What a reply asks a generation for."""

    def usage(self) -> Usage:
        return Usage(prompt_tokens=7, completion_tokens=5, cached_tokens=3, reasoning_tokens=2)


pieces = st.text(min_size=1, max_size=4)
calls = st.lists(pieces, max_size=3)


@st.composite
def answers(draw: st.DrawFn) -> list[MessageDelta]:
    """Deltas of one choice as parsers make them: several parts in one, calls one after another."""
    found: list[MessageDelta] = []
    num_calls = 0
    for _ in range(draw(st.integers(0, 6))):
        reasoning = draw(pieces | st.just(""))
        content = draw(pieces | st.just(""))
        deltas = []
        for arguments in draw(st.lists(calls, max_size=2)):
            deltas.append(ToolCallDelta(num_calls, f"call_{num_calls}", "f"))
            deltas += [ToolCallDelta(num_calls, arguments=piece) for piece in arguments]
            num_calls += 1
        found.append(MessageDelta(0, content, reasoning, tuple(deltas)))
    reasons: list[ChatFinish] = ["stop", "length", "tool_calls"]
    reason = draw(st.sampled_from(reasons))
    return [*found, MessageDelta(0, finish_reason=reason)]


def events(reply: ResponsesReply | AnthropicReply, deltas: Sequence[MessageDelta]) -> list[Any]:
    data = reply.opening() + b"".join(map(reply.delta, deltas))
    data += reply.finish(deltas[-1], {}) + reply.usage()
    found = []
    for block in data.decode().removesuffix("\n\n").split("\n\n"):
        name, _, line = block.partition("\ndata: ")
        found.append(msgspec.json.decode(line))
        assert name == f"event: {found[-1]['type']}"
    return found


def said(parts: Sequence[Part]) -> dict[str, str]:
    kinds = ("reasoning", "text", "call")
    return {kind: "".join(part.text for part in parts if part.kind == kind) for kind in kinds}


@given(answers())
def test_parts_lose_nothing(deltas: list[MessageDelta]) -> None:
    assert said(parts_of(deltas)) == {
        "reasoning": "".join(delta.reasoning for delta in deltas),
        "text": "".join(delta.content for delta in deltas),
        "call": "".join(call.arguments for delta in deltas for call in delta.tool_calls),
    }


def responses_reply() -> ResponsesReply:
    return ResponsesReply({"id": "resp_1", "error": None}, "1", Spent())  # type: ignore[arg-type]


@given(answers())
def test_a_response_is_what_its_events_add_up_to(deltas: list[MessageDelta]) -> None:
    found = events(responses_reply(), deltas)
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    texts: dict[str, str] = {}
    items: list[Any] = []
    for event in found:
        kind = event["type"]
        if kind == "response.output_item.added":
            assert event["output_index"] == len(items)
            items.append(event["item"])
            texts[event["item"]["id"]] = ""
        elif kind.endswith(".delta"):
            assert event["item_id"] == items[-1]["id"]
            texts[event["item_id"]] += event["delta"]
        elif kind.endswith(".done") and kind != "response.output_item.done":
            told = event.get("part", event)
            assert told.get("text", event.get("arguments")) == texts[event["item_id"]]
        elif kind == "response.output_item.done":
            assert event["item"]["id"] == items[event["output_index"]]["id"]
            items[event["output_index"]] = event["item"]
    last = found[-1]["response"]
    last.pop("timings")
    assert last["output"] == items
    assert last == responses_reply().body([deltas])
    status = "incomplete" if deltas[-1].finish_reason == "length" else "completed"
    assert found[-1]["type"] == f"response.{status}"
    assert {item["status"] for item in items[:-1]} <= {"completed"}
    assert items[-1]["status"] == status


def anthropic_reply() -> AnthropicReply:
    return AnthropicReply("msg_1", "m", Spent(), max_tokens=5)  # type: ignore[arg-type]


FIELDS = {"text": "text", "thinking": "thinking", "tool_use": "partial_json"}


@given(answers())
def test_a_message_is_what_its_events_add_up_to(deltas: list[MessageDelta]) -> None:
    found = events(anthropic_reply(), deltas)
    assert [event["type"] for event in found[:2]] == ["message_start", "ping"]
    assert [event["type"] for event in found[-2:]] == ["message_delta", "message_stop"]
    blocks: list[Any] = []
    texts: list[str] = []
    for event in found[2:-2]:
        if event["type"] == "content_block_start":
            assert event["index"] == len(blocks)
            blocks.append(event["content_block"])
            texts.append("")
        elif event["type"] == "content_block_delta":
            texts[event["index"]] += event["delta"][FIELDS[blocks[-1]["type"]]]
        else:
            assert event == {"type": "content_block_stop", "index": len(blocks) - 1}
    whole = anthropic_reply().body([deltas])
    for block, text, expected in zip(blocks, texts, whole["content"], strict=True):
        if block["type"] == "tool_use":
            assert block["input"] == {}
        else:
            block[block["type"]] = text
            assert block == expected
    delta = found[-2]["delta"]
    assert {name: whole[name] for name in delta} == delta
    assert found[-2]["usage"] == whole["usage"]


def test_an_answer_of_nothing_is_an_empty_text() -> None:
    ended = [MessageDelta(0, finish_reason="stop")]
    (item,) = responses_reply().body([ended])["output"]
    assert item["content"][0]["text"] == ""
    assert anthropic_reply().body([ended])["content"] == [
        {"type": "text", "text": "", "citations": None}
    ]


def test_arguments_that_were_cut_off_are_no_input() -> None:
    call = ToolCallDelta(0, "call_0", "f", '{"city": "Pa')
    deltas = [MessageDelta(0, tool_calls=(call,)), MessageDelta(0, finish_reason="length")]
    body = anthropic_reply().body([deltas])
    assert (body["content"][0]["input"], body["stop_reason"]) == ({}, "max_tokens")
    (item,) = responses_reply().body([deltas])["output"]
    assert (item["arguments"], item["status"]) == ('{"city": "Pa', "incomplete")


def test_a_failed_response_has_what_came_before() -> None:
    reply = responses_reply()
    reply.opening()
    reply.delta(MessageDelta(0, "Hel"))
    failed, error = reply.failed(ApiError(503, "gone", code="engine_dead")).split(b"\n\n")[:2]
    response = msgspec.json.decode(failed.split(b"data: ")[1])["response"]
    assert (response["status"], response["error"]["code"]) == ("failed", "server_error")
    assert response["output"][0]["content"][0]["text"] == "Hel"
    told = msgspec.json.decode(error.split(b"data: ")[1])
    assert (told["type"], told["code"], told["error"]["message"]) == (
        "error",
        "engine_dead",
        "gone",
    )


CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
SPOKEN = st.sampled_from(["<think>", "Hm.", "</think>", "\n", " ", "Well, ", "<", CALL, CALL[:40]])


def read(pieces: Sequence[str], *, is_open: bool = False, scored: bool = True) -> list[Part]:
    """The parts of an answer that came in these pieces, with a character a token."""
    numbers = count()
    tools = ToolParser(FORMATS["hermes"], TOOLS, new_id=lambda: f"call_{next(numbers)}")
    parser = AnswerParser(ReasoningParser(is_open), tools)
    deltas: list[MessageDelta] = []
    num_chars = 0
    for piece in pieces:
        scores = tuple(
            LogprobEntry(TokenScore(ord(char), char, char.encode(), -1.0), (), num_chars + n)
            for n, char in enumerate(piece)
        )
        ids = tuple(map(ord, piece))
        deltas += parser.feed(TextDelta(0, piece, ids, scores if scored else ()))
        num_chars += len(piece)
    return parts_of([*deltas, *parser.feed(TextDelta(0, finish_reason="stop"))])


@given(
    text=st.lists(SPOKEN | st.text(max_size=3), max_size=8).map("".join),
    places=st.lists(st.integers(0, 300), max_size=8),
    is_open=st.booleans(),
    scored=st.booleans(),
)
def test_parts_are_the_same_however_the_answer_is_cut(
    text: str, places: list[int], is_open: bool, scored: bool
) -> None:
    one_by_one = told(read(list(text), is_open=is_open, scored=scored))
    assert told(read([text], is_open=is_open, scored=scored)) == one_by_one
    assert told(read(cut(text, places), is_open=is_open, scored=scored)) == one_by_one


def told(parts: Sequence[Part]) -> list[tuple[str, str, str, str]]:
    tokens = ["".join(one.score.token for one in part.logprobs) for part in parts]
    return [
        (part.kind, part.name, part.text, scored)
        for part, scored in zip(parts, tokens, strict=True)
    ]


def test_logprobs_are_those_of_the_texts() -> None:
    parts = read([f"<think>\nHm.</think>\n\nSo: {CALL} and <b {CALL}"])
    assert told(parts) == [
        ("reasoning", "", "Hm.", ""),
        ("text", "", "So:", "So:"),
        ("call", "add", '{"a": 1}', ""),
        ("text", "", "and <b", "and <b"),
        ("call", "add", '{"a": 1}', ""),
    ]
