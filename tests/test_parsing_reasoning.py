"""Reasoning out of text, and whole answers with everything in them, however they are cut."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelude.text.choice import TextDelta
from prelude.text.message import Message, joined
from prelude.text.parsing.answer import AnswerParser, plain_delta
from prelude.text.parsing.reasoning import ReasoningParser
from tests.parsing_samples import cut, parser

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'


def split(pieces: list[str], is_open: bool = False) -> tuple[str, str]:
    one = ReasoningParser(is_open)
    found = [*map(one.feed, pieces), one.close()]
    return "".join(part for part, _ in found), "".join(part for _, part in found)


@pytest.mark.parametrize(
    ("text", "is_open", "reasoning", "rest"),
    [
        ("<think>\nHm.\n</think>\n\nYes.\n", False, "Hm.", "Yes.\n"),
        ("\n<think>Hm.</think>Yes.", False, "Hm.", "Yes."),
        ("Hm.\n</think>\n\nYes.", True, "Hm.", "Yes."),
        ("<think>\nHm.\n</think>\n\nYes.", True, "Hm.", "Yes."),
        ("\n\n</think>\n\nYes.", True, "", "Yes."),
        ("<think>\n\n</think>\n\nYes.", False, "", "Yes."),
        (" Yes. <think>no</think>", False, "", " Yes. <think>no</think>"),
        ("<thin", False, "", "<thin"),
        ("<thin", True, "<thin", ""),
        ("<think>Hm. </thi", False, "Hm. </thi", ""),
        ("", True, "", ""),
        ("  ", False, "", "  "),
        ("<think>a</think>b</think><think>c", False, "a", "b</think><think>c"),
    ],
)
def test_splits(text: str, is_open: bool, reasoning: str, rest: str) -> None:
    assert split([text], is_open) == (reasoning, rest)
    assert split(list(text), is_open) == (reasoning, rest)


def test_reasoning_is_passed_on_as_it_comes() -> None:
    one = ReasoningParser(is_open=False)
    assert one.feed("<think>\nLet me ") == ("Let me", "")
    assert one.feed("see </") == (" see", "")
    assert one.feed("b>") == (" </b>", "")
    assert one.feed("\n</think>") == ("", "")
    assert not one.is_over  # whitespace may follow
    assert one.feed("\n\nYes") == ("", "Yes")
    assert one.is_over
    assert one.feed(" <think>") == ("", " <think>")


def answer(pieces: list[str], reason: str = "stop", is_open: bool = False) -> Message:
    one = AnswerParser(ReasoningParser(is_open), parser("hermes"), end_id=7)
    deltas = [TextDelta(0, piece, token_ids=(1,)) for piece in pieces]
    deltas.append(TextDelta(0, token_ids=(1,), finish_reason=reason))  # type: ignore[arg-type]
    found = joined(part for delta in deltas for part in one.feed(delta))
    return msgspec.structs.replace(found, token_ids=())


PARTS = st.sampled_from(
    ["<think>", "</think>", "\n", " ", "Well, ", CALL, CALL[:30], "<tool_call>", "<", '{"a": 1}']
)


@given(
    text=st.lists(PARTS | st.text(max_size=3), max_size=10).map("".join),
    places=st.lists(st.integers(0, 300), max_size=10),
    is_open=st.booleans(),
    reason=st.sampled_from(["stop", "length"]),
)
def test_an_answer_is_the_same_however_it_is_cut(
    text: str, places: list[int], is_open: bool, reason: str
) -> None:
    whole = answer([text], reason, is_open)
    assert answer(cut(text, places), reason, is_open) == whole
    assert answer(list(text), reason, is_open) == whole


def test_reasoning_content_and_calls_in_one_answer() -> None:
    message = answer([f"<think>\nAdd.\n</think>\n\nSure.\n{CALL}"])
    assert (message.reasoning, message.content) == ("Add.", "Sure.")
    assert [call.arguments for call in message.tool_calls] == ['{"a": 1}']
    assert message.finish_reason == "tool_calls"
    assert answer([f"<think>{CALL}"]).reasoning == CALL
    assert answer([f"<think>{CALL}"]).finish_reason == "stop"


def test_the_finish_reason_says_whether_the_calls_are_whole() -> None:
    assert answer([CALL], "length").finish_reason == "length"
    assert answer([CALL[:-20]]).finish_reason == "stop"
    assert answer([CALL + CALL[:-20]]).finish_reason == "stop"
    assert answer(["Hi"]).finish_reason == "stop"


def num_reasoning(deltas: list[tuple[str, tuple[int, ...]]], is_open: bool = False) -> int:
    one = AnswerParser(ReasoningParser(is_open), None, end_id=7)
    for text, ids in deltas:
        one.feed(TextDelta(0, text, token_ids=ids))
    one.feed(TextDelta(0, finish_reason="stop"))
    return one.num_reasoning_tokens


def test_reasoning_tokens_count_up_to_the_end_mark() -> None:
    thought = [("<think>", (6,)), ("Hm", (1,)), ("</think>", (7,)), ("Yes", (2, 3))]
    assert num_reasoning(thought) == 3
    assert num_reasoning([("<think>Hm</think>Yes", (6, 1, 7, 2, 3))]) == 3
    assert num_reasoning([("Yes", (2, 3)), ("No", (4,))]) == 0
    assert num_reasoning([(" ", (2,)), ("No", (4,))]) == 0
    assert num_reasoning([("Hm", (1,)), ("m", (1, 1))], is_open=True) == 3


def test_plain_answers_pass_through() -> None:
    delta = TextDelta(2, "Hi", (1,), (), "stop", "x")
    found = plain_delta(delta)
    assert (found.index, found.content, found.finish_reason, found.stop_reason) == (
        2,
        "Hi",
        "stop",
        "x",
    )
