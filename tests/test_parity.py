"""The engine answers like transformers: every family, together, chunked, cached and preempted."""

from pathlib import Path

import pytest

from tests.model_samples import CASES, save_checkpoint
from tests.parity import check_parity

# Blocks for about two and a half full contexts, so that a dozen prompts must take turns.
PRESSED = {
    "graphs.capture": "eager",
    "cache.block_size": 8,
    "cache.num_blocks": 36,
    "model.max_len": 112,
    "batcher.max_step_tokens": 24,
    "batcher.min_chunk": 4,
    "batcher.headroom": 1,
    "runner.max_seqs": 6,
}


@pytest.mark.parametrize("case", sorted(CASES))
def test_greedy_answers_equal_transformers(case: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, case)
    parity, core = check_parity(tmp_path, PRESSED, count=12, longest=60, num_tokens=40)
    assert parity.first_difference is None
    assert parity.num_tokens == 12 * 40
    assert core.stats().num_preemptions > 0
    assert core.stats().cached_prompt_tokens > 0


@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_attention_backends_give_the_same_answers(backend: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "qwen3")
    overrides = {**PRESSED, "attention.backend": backend}
    parity, _ = check_parity(tmp_path, overrides, count=6, longest=60, num_tokens=40)
    assert parity.first_difference is None


@pytest.mark.parametrize(
    "overrides",
    [
        {"cache.prefix": False},
        {"batcher.step_ms": 0.001, "batcher.idle_step_ms": 0.001},
        {"cache.num_blocks": 200, "batcher.max_step_tokens": 2048},
        {"cache.block_size": 16, "cache.num_blocks": 20},
    ],
    ids=["no-prefix-reuse", "smallest-chunks", "no-pressure", "block-16"],
)
def test_settings_do_not_change_answers(overrides: dict[str, object], tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "qwen3")
    parity, _ = check_parity(tmp_path, PRESSED | overrides, count=8, longest=60, num_tokens=32)
    assert parity.first_difference is None


def test_compiled_programs_give_the_same_answers(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "qwen3")
    overrides = PRESSED | {
        "graphs.capture": "inductor",
        "graphs.background": False,
        "graphs.cache_dir": str(tmp_path / "cache"),
    }
    parity, core = check_parity(tmp_path, overrides, count=8, longest=60, num_tokens=32)
    assert parity.first_difference is None
    assert core.runner.programs.ready == core.runner.programs.total == 1
