"""One choice from events to text: stops, ends, logprobs, whatever the grouping of tokens."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prelude.text.choice import ChoiceText, TextDelta
from prelude.text.logprobs import LOWEST_LOGPROB, prompt_entries
from prelude.text.tokenizer import Tokenizer
from prelude.types.request import SamplingParams, TokenEvent, TokenLogprobs
from tests.text_samples import byte_level, metaspace


def events(
    ids: list[int], *, step: int = 1, logprobs: bool = False, **last: Any
) -> list[TokenEvent]:
    """Events of ``step`` tokens; ``last`` are the fields of the final one."""
    last = {"finish_reason": "length", **last}
    groups = [ids[n : n + step] for n in range(0, len(ids), step)] or [[]]
    made = []
    for n, group in enumerate(groups):
        scores = [TokenLogprobs(i, -0.5, [i, 1], [-0.5, -1.5]) for i in group]
        end = last if n == len(groups) - 1 else {}
        made.append(TokenEvent(1, 0, group, logprobs=scores if logprobs else None, **end))
    return made


def run(
    tokenizer: Tokenizer, made: list[TokenEvent], prompt_ids: tuple[int, ...] = (), **params: Any
) -> tuple[str, list[TextDelta], ChoiceText]:
    choice = ChoiceText(tokenizer, SamplingParams(**params), prompt_ids)
    deltas = [choice.feed(event) for event in made]
    return "".join(delta.text for delta in deltas), deltas, choice


@settings(max_examples=60)
@given(text=st.text(max_size=30), step=st.integers(1, 5))
def test_text_does_not_depend_on_grouping(text: str, step: int) -> None:
    for tokenizer in (byte_level(), metaspace()):
        ids = tokenizer.encode(text, add_special_tokens=False)
        got, deltas, choice = run(tokenizer, events(ids, step=step))
        assert got == tokenizer.decode(ids)
        assert [i for delta in deltas for i in delta.token_ids] == ids
        assert choice.num_tokens == len(ids)
        assert deltas[-1].finish_reason == choice.finish_reason == "length"
        assert all(delta.finish_reason is None for delta in deltas[:-1])


@settings(max_examples=60)
@given(step=st.integers(1, 6), stop=st.sampled_from(["fox", "ow", "n f", "zzz", " "]))
def test_stop_string_ends_the_choice(step: int, stop: str) -> None:
    tokenizer, text = byte_level(), "the quick brown fox jumps"
    ids = tokenizer.encode(text)
    got, deltas, choice = run(tokenizer, events(ids, step=step), stop=(stop,))
    if stop not in text:
        assert (got, choice.finish_reason) == (text, "length")
        return
    assert got == text[: text.index(stop)]
    end = next(delta for delta in deltas if delta.finish_reason)
    assert (end.finish_reason, end.stop_reason) == ("stop", stop)
    # the fewest tokens whose text holds the stop string
    assert stop in tokenizer.decode(ids[: end.truncate_at])
    assert end.truncate_at is not None
    assert stop not in tokenizer.decode(ids[: end.truncate_at - 1])
    assert choice.num_tokens == end.truncate_at


def test_events_after_the_end_are_ignored() -> None:
    tokenizer = byte_level()
    made = events(tokenizer.encode("one\n\ntwo three"))
    got, deltas, choice = run(tokenizer, made, stop=("\n\n",))
    assert got == "one"
    assert sum(delta.finish_reason is not None for delta in deltas) == 1
    assert deltas[-1] == TextDelta(0)
    assert choice.ended


def test_included_stop_string() -> None:
    tokenizer = byte_level()
    made = events(tokenizer.encode("one. two"))
    got, _, _ = run(tokenizer, made, stop=(".",), include_stop_str_in_output=True)
    assert got == "one."


def test_min_tokens_delays_stop_strings() -> None:
    tokenizer = byte_level()
    ids = tokenizer.encode("a.b.c.d")
    first_dots = [n + 1 for n, i in enumerate(ids) if b"." in tokenizer.token_bytes(i)]
    got, deltas, _ = run(tokenizer, events(ids), stop=(".",), min_tokens=first_dots[0])
    assert got == "a.b"
    assert [d.truncate_at for d in deltas if d.truncate_at] == [first_dots[1]]


def test_held_text_comes_out_at_the_end() -> None:
    tokenizer = byte_level()
    got, deltas, _ = run(tokenizer, events(tokenizer.encode("end ##")), stop=("###",))
    assert got == "end ##"
    assert deltas[-1].finish_reason == "length"
    assert deltas[-1].truncate_at is None


@pytest.mark.parametrize("include", [False, True])
def test_the_ending_token_is_not_text(include: bool) -> None:
    tokenizer = byte_level()
    ids = tokenizer.encode("hi</think>")
    made = events(ids, finish_reason="stop", stop_reason=ids[-1])
    got, deltas, choice = run(tokenizer, made, include_stop_str_in_output=include)
    assert got == ("hi</think>" if include else "hi")
    assert choice.num_tokens == len(ids)
    assert deltas[-1].stop_reason == ids[-1]


def test_end_of_text_is_not_text_even_when_special_tokens_are() -> None:
    tokenizer = byte_level()
    ids = tokenizer.encode("hi<|im_end|>")
    got, _, _ = run(tokenizer, events(ids, finish_reason="stop"), skip_special_tokens=False)
    assert got == "hi"
    got, _, _ = run(tokenizer, events(ids), skip_special_tokens=False)
    assert got == "hi<|im_end|>"


def test_an_end_without_tokens() -> None:
    tokenizer = byte_level()
    ids = tokenizer.encode("x🦉")[:-1]
    made = [*events(ids)[:-1], TokenEvent(1, 0, [ids[-1]]), TokenEvent(1, 0, [], "abort")]
    got, deltas, _ = run(tokenizer, made)
    assert got == tokenizer.decode(ids)
    assert deltas[-1].finish_reason == "abort"


def test_a_stop_completed_by_the_last_flush_counts() -> None:
    tokenizer = byte_level()
    ids = tokenizer.encode("x🦉")[:-1]
    got, deltas, _ = run(tokenizer, events(ids), stop=("\ufffd",))
    assert got == "x"
    assert deltas[-1].finish_reason == "stop"
    assert deltas[-1].truncate_at == len(ids)


def test_prompt_keeps_the_space_of_the_first_word() -> None:
    tokenizer = metaspace()
    ids = tokenizer.encode("the end", add_special_tokens=False)
    prompt = tuple(tokenizer.encode("the"))
    assert run(tokenizer, events(ids), prompt_ids=prompt)[0] == " the end"
    assert run(tokenizer, events(ids))[0] == "the end"


@pytest.mark.parametrize("step", [1, 3, 100])
def test_logprobs_carry_bytes_and_offsets(step: int) -> None:
    tokenizer = byte_level()
    ids = tokenizer.encode("naïve 🦉 fox")
    got, deltas, _ = run(tokenizer, events(ids, step=step, logprobs=True), logprobs=2)
    entries = [entry for delta in deltas for entry in delta.logprobs]
    assert [entry.score.token_id for entry in entries] == ids
    assert b"".join(entry.score.token_bytes for entry in entries).decode() == got
    assert [entry.text_offset for entry in entries][:2] == [0, len(tokenizer.decode(ids[:1]))]
    whole = [e for e in entries if "\ufffd" not in e.score.token]
    assert all(got[e.text_offset :].startswith(e.score.token) for e in whole)
    assert [score.token_id for score in entries[0].top] == [ids[0], 1]
    assert entries[0].top[1].logprob == -1.5


def test_logprobs_of_a_stripped_stop_stay_behind() -> None:
    tokenizer = byte_level()
    ids = tokenizer.encode("one\n\ntwo")
    _, deltas, choice = run(tokenizer, events(ids, logprobs=True), stop=("\n\n",))
    kept = [entry.score.token for delta in deltas for entry in delta.logprobs]
    assert "".join(kept) == "one"
    assert choice.num_tokens > len(kept)


def test_logprobs_wait_for_held_text() -> None:
    tokenizer = byte_level()
    ids = tokenizer.encode("a##b")
    _, deltas, _ = run(tokenizer, events(ids, logprobs=True), stop=("###",))
    for delta in deltas:
        assert "".join(entry.score.token for entry in delta.logprobs) == delta.text


def test_prompt_entries_and_masked_tokens() -> None:
    tokenizer = byte_level()
    ids = tokenizer.encode("the end")
    found = [None, *(TokenLogprobs(i, float("-inf"), [], []) for i in ids[1:])]
    entries = prompt_entries(tokenizer, ids, found)
    assert entries[0] is None
    assert entries[1] is not None
    assert entries[1].text_offset == len(tokenizer.decode(ids[:1]))
    assert entries[1].score.logprob == LOWEST_LOGPROB
    with pytest.raises(ValueError, match="shorter"):
        prompt_entries(tokenizer, ids, found[:-1])
