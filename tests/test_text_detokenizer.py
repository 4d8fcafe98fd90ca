"""Streamed text must be the text that decoding everything at once gives."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prelude.text.detokenizer import make_detokenizer
from prelude.text.tokenizer import Tokenizer
from tests.text_samples import byte_level, metaspace

TOKENIZERS = {"bytes": byte_level, "pieces": metaspace}


def stream(tokenizer: Tokenizer, groups: list[list[int]], skip: bool) -> str:
    detokenizer = make_detokenizer(tokenizer, skip_special_tokens=skip)
    return "".join(detokenizer.feed(group) for group in groups) + detokenizer.flush()


def grouped(ids: list[int], sizes: list[int]) -> list[list[int]]:
    groups, at = [], 0
    for size in sizes:
        groups.append(ids[at : at + size])
        at += size
    return [*groups, ids[at:]]


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=150)
@given(text=st.text(max_size=40), sizes=st.lists(st.integers(0, 4), max_size=6), skip=st.booleans())
def test_text_in_pieces_is_the_text(name: str, text: str, sizes: list[int], skip: bool) -> None:
    tokenizer = TOKENIZERS[name]()
    ids = tokenizer.encode(text)
    assert stream(tokenizer, grouped(ids, sizes), skip) == tokenizer.decode(ids, skip)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=150)
@given(data=st.data(), skip=st.booleans())
def test_any_ids_in_pieces_are_their_text(name: str, data: st.DataObject, skip: bool) -> None:
    tokenizer = TOKENIZERS[name]()
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 2), max_size=24))
    assert stream(tokenizer, [[i] for i in ids], skip) == tokenizer.decode(ids, skip)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_split_character_is_held_until_it_is_whole(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    ids = tokenizer.encode("a 🦉b", add_special_tokens=False)
    detokenizer = make_detokenizer(tokenizer)
    deltas = [detokenizer.feed([i]) for i in ids]
    assert "".join(deltas) == "a 🦉b"
    assert all("\ufffd" not in delta for delta in deltas)
    assert detokenizer.flush() == ""


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_cut_character_comes_out_of_the_flush(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    ids = tokenizer.encode("x🦉", add_special_tokens=False)[:-1]
    detokenizer = make_detokenizer(tokenizer)
    assert detokenizer.feed(ids) == "x"
    assert "x" + detokenizer.flush() == tokenizer.decode(ids)


def test_special_tokens_are_left_out_and_added_ones_printed() -> None:
    tokenizer = byte_level()
    ids = tokenizer.encode("<|im_start|><think>hm</think>日本<|im_end|>")
    assert stream(tokenizer, [ids], True) == "<think>hm</think>日本"
    assert stream(tokenizer, [ids], False) == "<|im_start|><think>hm</think>日本<|im_end|>"


def test_the_first_word_keeps_its_space_after_a_prompt() -> None:
    tokenizer = metaspace()
    prompt = tokenizer.encode("the quick")
    ids = tokenizer.encode("the end", add_special_tokens=False)
    primed = make_detokenizer(tokenizer, prompt_ids=prompt)
    bare = make_detokenizer(tokenizer)
    assert primed.feed(ids) + primed.flush() == " the end"
    assert bare.feed(ids) + bare.flush() == "the end"


def test_a_special_token_inside_does_not_eat_a_space() -> None:
    tokenizer = metaspace()
    words = tokenizer.encode("the end", add_special_tokens=False)
    ids = [*words, 2, *words]
    assert stream(tokenizer, [[i] for i in ids], True) == tokenizer.decode(ids) == "the end the end"


def test_an_invalid_run_of_raw_bytes_is_one_replacement_each() -> None:
    tokenizer = metaspace()
    raw = [tokenizer.backend.token_to_id(t) for t in ("<0x41>", "<0xFF>")]
    ids = [i for i in raw if i is not None] + tokenizer.encode("the", add_special_tokens=False)
    assert len(ids) > 2
    assert (
        stream(tokenizer, [[i] for i in ids], True) == tokenizer.decode(ids) == "\ufffd\ufffd the"
    )


def test_long_text_is_not_decoded_again_and_again() -> None:
    tokenizer = metaspace()
    detokenizer = make_detokenizer(tokenizer)
    ids = tokenizer.encode("the quick brown fox " * 50)
    for i in ids:
        detokenizer.feed([i])
    window = getattr(detokenizer, "_window", [])
    assert len(window) < 10
