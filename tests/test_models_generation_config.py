"""Sampling defaults and stop tokens that a checkpoint's authors wrote down."""

import json
from pathlib import Path
from typing import Any

import pytest

from prelude.models.generation_config import read_eos_ids, read_generation_defaults


def write(folder: Path, generation: Any, config: Any = None) -> None:
    (folder / "generation_config.json").write_text(json.dumps(generation))
    (folder / "config.json").write_text(json.dumps(config or {}))


def test_recommended_sampling(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "do_sample": True,
            "temperature": 0.6,
            "top_p": 0.95,
            "top_k": 20,
            "min_p": 0,
            "repetition_penalty": 1.05,
            "pad_token_id": 3,
            "transformers_version": "4.51.0",
        },
    )
    defaults = read_generation_defaults(tmp_path)
    assert defaults == {
        "temperature": 0.6,
        "top_p": 0.95,
        "top_k": 20,
        "min_p": 0.0,
        "repetition_penalty": 1.05,
    }
    assert type(defaults["top_k"]) is int


def test_absent_file_and_null_fields(tmp_path: Path) -> None:
    assert read_generation_defaults(tmp_path) == {}
    write(tmp_path, {"temperature": None})
    assert read_generation_defaults(tmp_path) == {}


def test_top_k_of_minus_one_means_off(tmp_path: Path) -> None:
    write(tmp_path, {"top_k": -1})
    assert read_generation_defaults(tmp_path) == {"top_k": 0}


@pytest.mark.parametrize("value", ["0.5", True, [1]])
def test_a_field_of_the_wrong_type_is_named(value: Any, tmp_path: Path) -> None:
    write(tmp_path, {"top_p": value})
    with pytest.raises(ValueError, match="top_p must be a number"):
        read_generation_defaults(tmp_path)


@pytest.mark.parametrize(
    ("generation", "config", "ids"),
    [
        ({}, {}, ()),
        ({}, {"eos_token_id": 7}, (7,)),
        ({"eos_token_id": [5, 7]}, {"eos_token_id": 7}, (5, 7)),
        ({"eos_token_id": 5}, {"eos_token_id": [7, 8]}, (5, 7, 8)),
        ({"eos_token_id": None}, {"eos_token_id": None}, ()),
    ],
)
def test_eos_ids_are_merged(
    generation: Any, config: Any, ids: tuple[int, ...], tmp_path: Path
) -> None:
    write(tmp_path, generation, config)
    assert read_eos_ids(tmp_path) == ids


@pytest.mark.parametrize(("text", "says"), [("{", "not valid JSON"), ("3", "JSON object")])
def test_damaged_files(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(ValueError, match=says):
        read_generation_defaults(tmp_path)
