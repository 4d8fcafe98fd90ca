"""An echoed prompt: its text, and rows of logprobs by choice."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from prelude.server.echo import Echo
from prelude.server.generation import Generation
from prelude.types.request import SamplingParams, TokenLogprobs
from tests.text_samples import byte_level


def echo(found: Any = None, n: int = 1, **params: Any) -> Echo:
    tokenizer = byte_level()
    prompts: list[tuple[str | None, list[int]]] = [
        ("the fox", tokenizer.encode("the fox")),
        (None, tokenizer.encode("a<|im_end|>b")),
    ]
    generation = SimpleNamespace(prompt_logprobs=lambda index: found)
    return Echo(tokenizer, prompts, cast(Generation, generation), SamplingParams(n=n, **params))


def test_text_is_what_was_sent_or_what_the_ids_say() -> None:
    assert [echo().text(index) for index in (0, 1)] == ["the fox", "ab"]
    assert echo(skip_special_tokens=False).text(1) == "a<|im_end|>b"
    assert [echo(n=2).text(index) for index in range(4)] == ["the fox"] * 2 + ["ab"] * 2


def test_no_rows_unless_asked_for() -> None:
    assert echo().rows(0) == []


@pytest.mark.parametrize("index", [0, 1])
def test_rows_of_the_choices_prompt(index: int) -> None:
    ids = byte_level().encode("the fox")
    found = [None, *(TokenLogprobs(i, -1.0, [i], [-1.0]) for i in ids[1:])]
    rows = echo(found, n=2, logprobs=1).rows(index)
    assert "".join(row.token for row in rows) == "the fox"
    assert rows[0].logprob is None
    assert rows[1].top == {rows[1].token: -1.0}
    assert [row.text_offset for row in rows] == [
        len("".join(row.token for row in rows[:n])) for n in range(len(rows))
    ]


def test_rows_without_scores_still_name_their_tokens() -> None:
    rows = echo(logprobs=1).rows(0)
    assert "".join(row.token for row in rows) == "the fox"
    assert all(row.logprob is None and row.top is None for row in rows)
