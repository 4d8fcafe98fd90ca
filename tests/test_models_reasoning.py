"""The token that ends reasoning is found in tokenizer.json, wherever the rest of it is odd."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from prelude.models.reasoning import read_answer_id


def folder(path: Path, content: Any) -> Path:
    (path / "tokenizer.json").write_bytes(msgspec.json.encode(content))
    return path


def test_the_token_after_which_the_answer_begins(tmp_path: Path) -> None:
    tokens = [
        {"id": 7, "content": "<think>", "special": False},
        {"id": 8, "content": "</think>", "special": False},
    ]
    vocab = {"version": "1.0", "model": {"type": "BPE", "vocab": {"</think>": 3}}}
    assert read_answer_id(folder(tmp_path, {**vocab, "added_tokens": tokens})) == 8


@pytest.mark.parametrize("content", [{}, {"added_tokens": []}, {"model": {"added_tokens": 3}}])
def test_models_that_do_not_reason(tmp_path: Path, content: dict[str, Any]) -> None:
    assert read_answer_id(folder(tmp_path, content)) is None


def test_no_tokenizer(tmp_path: Path) -> None:
    assert read_answer_id(tmp_path) is None


@pytest.mark.parametrize("content", [[], {"added_tokens": 3}, {"added_tokens": [{"id": "x"}]}])
def test_a_malformed_file_is_named(tmp_path: Path, content: Any) -> None:
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        read_answer_id(folder(tmp_path, content))
