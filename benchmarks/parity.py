"""Greedy answers of the whole engine against transformers, one tiny random checkpoint per family:

    python -m benchmarks.parity --output benchmarks/results/cpu/parity.json

64 mixed prompts run together and are continued by 128 tokens, with compiled programs, the prefix
cache, chunked prefill and a pool so small that sequences are preempted. Every token must be the
reference's argmax after the same context; where its two best logits are closer than 1e-3 either
may come, and that is counted. A few prompts are also run through transformers' ``generate``.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from tests.model_samples import reference, save_checkpoint
from tests.parity import compare, greedy_answers, mixed_prompts, open_engine

FAMILIES = ("llama-llama3", "mistral-window", "qwen2", "qwen3", "olmo2", "phi3-window")
SHAPE: dict[str, Any] = {"vocab_size": 512, "hidden_size": 64, "max_position_embeddings": 512}
ENGINE: dict[str, Any] = {
    "graphs.capture": "inductor",
    "graphs.background": False,
    "cache.num_blocks": 120,
    "model.max_len": 320,
    "runner.max_seqs": 16,
    "batcher.max_step_tokens": 64,
    "batcher.headroom": 1,
}
NUM_PROMPTS, LONGEST, NUM_TOKENS, NUM_GENERATED = 64, 180, 128, 8


def measure(family: str, folder: Path) -> dict[str, Any]:
    """One family: what was compared, what was tied, and what the engine went through."""
    window: dict[str, Any] = {"sliding_window": 50} if family.endswith("window") else {}
    save_checkpoint(folder, family, **SHAPE, **window)
    core = open_engine(folder, ENGINE)
    prompts = mixed_prompts(NUM_PROMPTS, LONGEST, core.runner.vocab_size)
    start = time.perf_counter()
    answers = greedy_answers(core, prompts, NUM_TOKENS)
    seconds = time.perf_counter() - start
    stats, programs = core.stats(), core.runner.programs
    core.close()
    parity = compare(folder, prompts, answers)
    return {
        "family": family,
        "tokens": parity.num_tokens,
        "ties": parity.num_ties,
        "first_difference": parity.first_difference,
        "generate_equal": _equal_to_generate(folder, prompts, answers),
        "generate_prompts": NUM_GENERATED,
        "steps": stats.num_steps,
        "preemptions": stats.num_preemptions,
        "cached_prompt_tokens": stats.cached_prompt_tokens,
        "compiled_programs": programs.ready,
        "seconds": round(seconds, 2),
    }


def _equal_to_generate(
    folder: Path, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> int:
    """How many of the first prompts ``generate`` answers with the very same tokens."""
    model = reference(folder)
    equal = 0
    for prompt, answer in list(zip(prompts, answers, strict=True))[:NUM_GENERATED]:
        ids = torch.tensor([list(prompt)])
        out = model.generate(
            ids, max_new_tokens=NUM_TOKENS, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        equal += out[0, len(prompt) :].tolist() == list(answer)
    return equal


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--family", choices=FAMILIES, action="append")
    arguments = parser.parse_args()
    rows = []
    for family in arguments.family or FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(family, Path(folder)))
        print(rows[-1], file=sys.stderr)
    result = {
        "command": "python -m benchmarks.parity",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "prompts": NUM_PROMPTS,
        "engine": ENGINE,
        "families": rows,
    }
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))
    return int(any(row["first_difference"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
