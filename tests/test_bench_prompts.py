"""Prompts have the lengths that were asked for, and never repeat by chance."""

from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelude.bench.prompts import (
    ALPHABET,
    UNITS,
    FileLine,
    PromptStream,
    TraceLine,
    content_of,
    draw_length,
    read_lines,
)
from prelude.conf.bench import LengthKind, Lengths, PromptSource, TrafficClass


def stream(traffic: TrafficClass, seed: int = 0) -> PromptStream:
    return PromptStream("chat", traffic, Random(seed))


def fixed(length: int) -> Lengths:
    return Lengths(value=length)


def test_fixed_lengths() -> None:
    assert {draw_length(fixed(7), Random(seed)) for seed in range(9)} == {7}


def test_uniform_lengths_reach_both_bounds() -> None:
    lengths = Lengths(kind=LengthKind.uniform, low=3, high=6)
    rng = Random(0)
    drawn = [draw_length(lengths, rng) for _ in range(4000)]
    assert set(drawn) == {3, 4, 5, 6}
    assert np.mean(drawn) == pytest.approx(4.5, abs=0.1)


def test_lognormal_lengths_have_the_asked_median_and_spread() -> None:
    lengths = Lengths(kind=LengthKind.lognormal, value=400, sigma=0.5, low=1, high=10**6)
    rng = Random(0)
    drawn = np.asarray([draw_length(lengths, rng) for _ in range(8000)])
    assert np.median(drawn) == pytest.approx(400, rel=0.03)
    assert np.log(drawn).std() == pytest.approx(0.5, rel=0.03)


@given(st.integers(1, 50), st.integers(0, 50), st.floats(0, 3), st.integers(0, 99))
def test_lognormal_lengths_stay_in_bounds(low: int, width: int, sigma: float, seed: int) -> None:
    lengths = Lengths(LengthKind.lognormal, value=20, low=low, high=low + width, sigma=sigma)
    assert low <= draw_length(lengths, Random(seed)) <= low + width


@pytest.mark.parametrize(
    "lengths",
    [Lengths(value=0), Lengths(low=0), Lengths(low=5, high=4), Lengths(sigma=-1.0)],
)
def test_senseless_lengths_are_refused(lengths: Lengths) -> None:
    with pytest.raises(ValueError, match="lengths"):
        draw_length(lengths, Random(0))


def test_words_are_units() -> None:
    prompt = stream(TrafficClass(prompt=fixed(50))).next()
    assert isinstance(prompt.content, str)
    rest = prompt.content
    count = 0
    while rest:
        unit = max((unit for unit in UNITS if rest.startswith(unit)), key=len)
        rest, count = rest[len(unit) :], count + 1
    assert count == 50
    assert len(UNITS) == 34


def test_chars_are_characters() -> None:
    prompt = stream(TrafficClass(source=PromptSource.chars, prompt=fixed(300))).next()
    assert isinstance(prompt.content, str) and len(prompt.content) == 300
    assert set(prompt.content) <= set(ALPHABET)
    assert len(ALPHABET) == 70


def test_ids_are_in_the_vocabulary() -> None:
    traffic = TrafficClass(source=PromptSource.ids, vocab_size=5, prompt=fixed(200))
    content = stream(traffic).next().content
    assert len(content) == 200
    assert set(content) == set(range(5))


def test_prompts_differ_and_the_seed_repeats_them() -> None:
    traffic = TrafficClass(prompt=fixed(20))
    first, again, other = (stream(traffic, seed) for seed in (1, 1, 2))
    prompts = [first.next() for _ in range(10)]
    assert prompts == [again.next() for _ in range(10)]
    assert len({str(prompt.content) for prompt in prompts}) == 10
    assert prompts[0] != other.next()


def test_a_length_can_be_given() -> None:
    traffic = TrafficClass(source=PromptSource.chars, prompt=fixed(300))
    assert len(stream(traffic).next(5).content) == 5


def test_prefixes_are_shared_in_turn() -> None:
    traffic = TrafficClass(source=PromptSource.chars, prefix_len=40, num_prefixes=2)
    prompts = stream(traffic)
    prefixes = [prompts.next().prefix for _ in range(4)]
    assert prefixes[0] == prefixes[2] != prefixes[1] == prefixes[3]
    assert prefixes[0] is not None and len(prefixes[0]) == 40


def test_no_prefix_is_none() -> None:
    assert stream(TrafficClass()).next().prefix is None


def test_a_file_is_played_in_order_and_again(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a", "max_tokens": 3}\n\n{"prompt": [1, 2]}\n')
    prompts = stream(TrafficClass(source=PromptSource.file, path=str(path)))
    drawn = [prompts.next() for _ in range(3)]
    assert [prompt.content for prompt in drawn] == ["a", [1, 2], "a"]
    assert [prompt.max_tokens for prompt in drawn] == [3, None, 3]


@pytest.mark.parametrize(
    ("traffic", "message"),
    [
        (TrafficClass(source=PromptSource.file), "classes.chat.path"),
        (TrafficClass(path="x"), "classes.chat.path"),
        (TrafficClass(source=PromptSource.ids), "classes.chat.vocab_size"),
        (TrafficClass(vocab_size=10), "classes.chat.vocab_size"),
        (TrafficClass(source=PromptSource.ids, vocab_size=0), "at least 1"),
        (TrafficClass(prefix_len=-1), "prefix_len"),
        (TrafficClass(num_prefixes=0), "num_prefixes"),
    ],
)
def test_fields_that_do_not_fit_are_refused(traffic: TrafficClass, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stream(traffic)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"prompt": "a"}\n{"promt": "b"}\n', "line 2.*promt"),
        ('{"prompt": "a"\n', "line 1"),
        ('{"prompt": 3}\n', "line 1"),
        ("\n\n", "no lines"),
    ],
)
def test_a_bad_file_names_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_lines(path, FileLine)


def test_trace_lines_name_their_class(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"arrival": 0.5, "prompt_len": 9, "max_tokens": 2, "class": "doc"}\n')
    (line,) = read_lines(path, TraceLine)
    assert (line.arrival, line.prompt_len, line.max_tokens, line.kind) == (0.5, 9, 2, "doc")


@pytest.mark.parametrize(
    "line",
    [
        FileLine(),
        FileLine(prompt=""),
        FileLine(prompt=[]),
        FileLine(messages=[]),
        FileLine(prompt="a", messages=[{"role": "user", "content": "b"}]),
    ],
)
def test_a_line_has_one_prompt(line: FileLine) -> None:
    with pytest.raises(ValueError, match="either a prompt or messages"):
        content_of(line)
