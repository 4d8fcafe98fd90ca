"""From tokens to messages: what the stream adds up to is what the whole answer is, however steps
group the tokens and slow readers join them, with stop strings, tools and reasoning."""

from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from prelude.text.choice import ChoiceText
from prelude.text.message import Message, joined
from prelude.text.parsing.answer import AnswerParser
from prelude.text.parsing.formats import FORMATS
from prelude.text.parsing.reasoning import ReasoningParser
from prelude.text.parsing.tools import ToolParser
from prelude.types.request import FinishReason, SamplingParams, TokenEvent
from tests.parsing_samples import TOOLS, cut
from tests.text_samples import byte_level

PARTS = [
    "<think>",
    "\nHm, 日本.\n",
    "</think>",
    "\n\n",
    "Sure: ",
    '<tool_call>\n{"name": "add", "arguments": {"a": "🦉"}}\n</tool_call>',
    "<function=add>\n<parameter=city>\nParis\n</parameter>\n</function>",
    '<|python_tag|>{"name": "now", "parameters": {}}',
    '{"name": "now", "arguments": {}}',
    '[TOOL_CALLS]add[ARGS]{"a": [1, 2]}',
    "[now(a='x')]",
    "<tool_call>",
    '"}}',
]
TEXT = st.lists(st.sampled_from(PARTS) | st.text(max_size=4), max_size=6).map("".join)
STOPS = st.lists(
    st.sampled_from(["\n\n", "</tool_call>", '"', "}}", "日本", "Sure", "<", "nope"]), max_size=3
).map(tuple)


def message(
    ids: list[list[int]], reason: FinishReason, params: SamplingParams, form: str, is_open: bool
) -> Message:
    tokenizer = byte_level()
    numbers = count()
    choice = ChoiceText(tokenizer, params)
    parser = AnswerParser(
        ReasoningParser(is_open),
        ToolParser(FORMATS[form], TOOLS, new_id=lambda: f"call_{next(numbers)}"),
        end_id=tokenizer.added_id("</think>"),
    )
    deltas = []
    for n, group in enumerate(ids):
        end = reason if n == len(ids) - 1 else None
        deltas += parser.feed(choice.feed(TokenEvent(0, 0, group, finish_reason=end)))
        if choice.ended:
            break
    assert deltas[-1].finish_reason is not None
    return joined(deltas)


@given(
    text=TEXT,
    stops=STOPS,
    includes=st.booleans(),
    form=st.sampled_from(sorted(FORMATS)),
    is_open=st.booleans(),
    reason=st.sampled_from(["stop", "length"]),
    places=st.lists(st.integers(0, 200), max_size=8),
)
def test_the_stream_adds_up_to_the_whole_answer(
    text: str,
    stops: tuple[str, ...],
    includes: bool,
    form: str,
    is_open: bool,
    reason: FinishReason,
    places: list[int],
) -> None:
    ids = byte_level().encode(text, add_special_tokens=False)
    ids.append(byte_level().eos_ids[0])
    params = SamplingParams(
        stop=stops, include_stop_str_in_output=includes, skip_special_tokens=True
    )
    whole = message([ids], reason, params, form, is_open)
    one_by_one = message([[i] for i in ids], reason, params, form, is_open)
    grouped = [list(map(ord, group)) for group in cut("".join(map(chr, ids)), places)]
    assert one_by_one == whole
    assert message(grouped, reason, params, form, is_open) == whole
