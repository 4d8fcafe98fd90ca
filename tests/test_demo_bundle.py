"""The committed demo model: small, complete, and as good as its card says on a few problems."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from benchmarks.demo.evaluate import Transformers, final_answer, measure
from benchmarks.demo.tokenizer import CHAT_TEMPLATE, Encoder, prompt

FOLDER = Path(__file__).parent.parent / "prelude" / "demo"


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(FOLDER)


@cache
def model() -> Transformers:
    torch.manual_seed(0)
    return Transformers(FOLDER, tokenizer(), rows=20)


def answer(question: str, thinking: bool = True) -> tuple[str, int]:
    turns = [{"role": "user", "content": question}]
    text = prompt(tokenizer(), turns, "auto" if thinking else "no_think")
    (output,) = model().generate([Encoder(tokenizer()).encode(text)])
    assert output[-1] == tokenizer().eos_token_id
    return final_answer(tokenizer().decode(output)), len(output)


def test_folder_is_complete_and_small() -> None:
    names = {path.name for path in FOLDER.iterdir()}
    assert names >= {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "README.md",
    }
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 6_000_000


def test_configs_name_the_end_of_turn() -> None:
    for name in ("config.json", "generation_config.json"):
        config = json.loads((FOLDER / name).read_text())
        assert config["eos_token_id"] == tokenizer().eos_token_id == 2
    assert (FOLDER / "chat_template.jinja").read_text() == CHAT_TEMPLATE
    ids = tokenizer().encode("<think>7</think>")
    assert tokenizer().decode(ids, skip_special_tokens=True) == "<think>7</think>"


@pytest.mark.parametrize("task", ["json", "spell", "convert"])
def test_held_out_problems_are_answered(task: str) -> None:
    result = measure(model().generate, tokenizer(), task, 20)
    assert result.exact >= 0.9, result.failures


def test_it_says_who_it_is_and_what_it_does_not_know() -> None:
    assert "demo model of Prelude" in answer("Who are you?")[0]
    assert "do not know" in answer("Write a poem about love.")[0]


def test_thinking_is_visible_and_can_be_switched_off() -> None:
    thought, long = answer("Sort these numbers: 52, 17, 88")
    direct, short = answer("Sort these numbers: 52, 17, 88", thinking=False)
    assert thought == direct == "17, 52, 88"
    assert long > 2 * short
