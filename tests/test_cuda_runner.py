"""On a GPU: the engine's answers through CUDA graphs are those of the CPU's plain runner."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from prelude.conf.schema import AttentionBackend
from tests.model_samples import save_checkpoint
from tests.parity import open_engine
from tests.test_differential import answers, story
from tests.test_runner_captured import PLAIN, requests

pytestmark = pytest.mark.cuda

CUDA = PLAIN | {
    "runner.device": "cuda",
    "model.dtype": "float32",
    "attention.backend": AttentionBackend.triton.value,
    "graphs.capture": "cuda",
}


def step_until_captured(core: object) -> None:
    runner = core.runner  # type: ignore[attr-defined]
    while runner.programs.ready < runner.programs.total:
        runner.upkeep()


@pytest.mark.parametrize("family", ["qwen3", "llama-biases", "olmo2", "phi3"])
def test_answers_are_those_of_the_cpu(family: str, tmp_path: Path) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    save_checkpoint(tmp_path, family)
    asked = requests(24, temperature=0.0, logprobs=None)
    plain = answers(open_engine(tmp_path, PLAIN), asked)
    core = open_engine(tmp_path, CUDA)
    step_until_captured(core)
    found = answers(core, asked)
    different = [key for key in plain if story(found[key]) != story(plain[key])]
    assert len(different) <= len(plain) // 10, different  # ties of a random model


def test_kv_that_was_on_the_host_is_what_it_was(tmp_path: Path) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    save_checkpoint(tmp_path, "qwen3")
    asked = requests(24, temperature=0.0, logprobs=None)
    plain = answers(open_engine(tmp_path, PLAIN | {"cache.num_blocks": 400}), asked)
    core = open_engine(tmp_path, CUDA | {"cache.num_blocks": 20, "cache.host_gib": 0.01})
    step_until_captured(core)
    assert core.runner.swap_ms > 0.0
    core._schedule = replace(core._schedule, swap_ms=0.0)  # tiny blocks are not worth a copy
    found = answers(core, asked)
    assert core.stats().num_swaps > 0
    assert core.ledger.num_free_host_blocks == core.runner.num_host_blocks
    different = [key for key in plain if story(found[key]) != story(plain[key])]
    assert len(different) <= len(plain) // 10, different  # ties of a random model
