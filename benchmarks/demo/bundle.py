"""Turns a checkpoint into a Hugging Face folder, without touching its model card.

python -m benchmarks.demo.bundle runs/demo/checkpoint.pt prelude/demo
"""

import argparse
import json
from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from benchmarks.demo.model import CONFIG
from benchmarks.demo.train import tokenizer_of


def configuration(tokenizer: PreTrainedTokenizerFast) -> Qwen3Config:
    shapes = {name: value for name, value in CONFIG.items() if name != "rope_theta"}
    return Qwen3Config(
        **shapes,
        rope_parameters={"rope_type": "default", "rope_theta": CONFIG["rope_theta"]},
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def tidy(path: Path) -> None:
    """Names the class as older transformers know it and drops what describes this machine."""
    config = json.loads(path.read_text())
    for name in ("backend", "is_local", "local_files_only"):
        config.pop(name, None)
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(config, indent=2) + "\n")


def bundle(checkpoint: Path, folder: Path, averaged: bool = True) -> int:
    """Writes config, bfloat16 weights and tokenizer to ``folder``; returns the training step."""
    state = torch.load(checkpoint, weights_only=True)
    weights = state["average" if averaged else "model"]
    tokenizer = tokenizer_of(checkpoint.parent)
    model = Qwen3ForCausalLM(configuration(tokenizer))
    result = model.model.load_state_dict(weights, strict=False)
    if result.missing_keys or result.unexpected_keys:
        raise ValueError(f"{checkpoint} does not fit the configuration: {result}")
    model.to(torch.bfloat16)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
        max_new_tokens=512,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    tidy(folder / "tokenizer_config.json")
    return int(state["step"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--raw", action="store_true", help="last weights, not their average")
    options = parser.parse_args()
    step = bundle(options.checkpoint, options.folder, not options.raw)
    print(f"step {step} written to {options.folder}")


if __name__ == "__main__":
    main()
