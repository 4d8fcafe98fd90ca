"""Tiny random checkpoints of every family, written by transformers, and a paged KV pool to run
our decoder on them as the engine does: ragged batches, chunks, scattered blocks."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from prelude.kernels.attention import AttentionMeta
from prelude.models.decoder import Decoder
from prelude.models.loading import load_decoder
from prelude.models.spec import ModelSpec, read_config, read_spec
from tests.text_samples import byte_level_folder

CPU = torch.device("cpu")
BLOCK = 8

SHAPE: Mapping[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA3: Mapping[str, Any] = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN: Mapping[str, Any] = {
    "rope_type": "yarn",
    "rope_theta": 100.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}
MIXED = ["sliding_attention", "full_attention", "sliding_attention"]

# name -> (transformers' configuration class, what differs from SHAPE)
CASES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "llama-mha": ("LlamaConfig", {"num_key_value_heads": 4}),
    "llama-mqa-tied": ("LlamaConfig", {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    "llama-biases": ("LlamaConfig", {"attention_bias": True, "mlp_bias": True}),
    "llama-head-dim": ("LlamaConfig", {"head_dim": 16}),
    "llama-llama3": ("LlamaConfig", {"rope_parameters": LLAMA3}),
    "llama-linear": (
        "LlamaConfig",
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
    ),
    "llama-yarn": ("LlamaConfig", {"rope_parameters": YARN}),
    "llama-yarn-mscale": (
        "LlamaConfig",
        {
            "rope_parameters": {
                **YARN,
                "beta_fast": 16.0,
                "beta_slow": 2.0,
                "mscale": 0.7,
                "mscale_all_dim": 1.1,
                "truncate": False,
            }
        },
    ),
    "mistral-window": ("MistralConfig", {"sliding_window": 7}),
    "mistral-full": ("MistralConfig", {"sliding_window": None, "head_dim": 16}),
    "qwen2": ("Qwen2Config", {"tie_word_embeddings": True}),
    "qwen2-window": (
        "Qwen2Config",
        {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    ),
    "qwen3": (
        "Qwen3Config",
        {
            "head_dim": 16,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        },
    ),
    "qwen3-mixed": (
        "Qwen3Config",
        {
            "head_dim": 8,
            "attention_bias": True,
            "use_sliding_window": True,
            "sliding_window": 6,
            "layer_types": MIXED,
        },
    ),
    "olmo2": ("Olmo2Config", {}),
    "phi3-window": ("Phi3Config", {"sliding_window": 9}),
    "phi3-partial": (
        "Phi3Config",
        {
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "partial_rotary_factor": 0.5,
            }
        },
    ),
}


def save_checkpoint(
    folder: Path, case: str, *, seed: int = 0, shard_size: str = "1GB", **changes: Any
) -> None:
    """Write the case's checkpoint; biases and norms are random too, or they would prove nothing."""
    class_name, differences = CASES[case]
    torch.manual_seed(seed)
    config = getattr(transformers, class_name)(**{**SHAPE, **differences, **changes})
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.normal_(1.0, 0.3)
    model.save_pretrained(folder, max_shard_size=shard_size)


def save_checkpoint_with_tokenizer(folder: Path) -> None:
    """A tiny Qwen3 whose vocabulary is that of a byte-level tokenizer with a chat template."""
    save_checkpoint(folder, "qwen3", vocab_size=512)
    for file in byte_level_folder().iterdir():
        if file.name not in ("config.json", "generation_config.json"):
            shutil.copy(file, folder / file.name)


def edit_config(folder: Path, changes: Mapping[str, Any], removed: Sequence[str] = ()) -> None:
    config = {**read_config(folder), **changes}
    for key in removed:
        config.pop(key, None)
    (folder / "config.json").write_text(json.dumps(config))


def write_old_style(folder: Path) -> None:
    """Rewrite config.json as published checkpoints before transformers 5 have it."""
    config = read_config(folder)
    rope = dict(config["rope_parameters"])
    old = {"torch_dtype": config["dtype"], "rope_theta": rope.pop("rope_theta")}
    if "partial_rotary_factor" in rope:
        old["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    old["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    edit_config(folder, old, removed=("rope_parameters", "dtype"))


def reference(folder: Path) -> Any:
    """transformers' model of the same folder, in float32."""
    load = transformers.AutoModelForCausalLM.from_pretrained
    return load(folder, attn_implementation="eager", dtype=torch.float32).eval()


def reference_logits(model: Any, ids: Sequence[int]) -> Tensor:
    """float32 [len(ids), vocab]."""
    with torch.no_grad():
        logits: Tensor = model(torch.tensor([list(ids)])).logits[0]
    return logits


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Decoder:
    return load_decoder(
        folder, read_spec(read_config(folder)), dtype, CPU, lambda phase, done: None
    )


def kv_pool(spec: ModelSpec, num_blocks: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """One KV tensor per layer, filled with garbage that a correct run never reads."""
    shape = (num_blocks, 2, BLOCK, spec.num_kv_heads, spec.head_dim)
    return [torch.full(shape, 1e4, dtype=dtype) for _ in range(spec.num_layers)]


@dataclass
class Paged:
    """Sequences with known tokens over a pool of blocks handed out in scattered order."""

    decoder: Decoder
    sequences: list[list[int]]
    width: int = 4

    def __post_init__(self) -> None:
        num_blocks = 1 + self.width * len(self.sequences)
        self.kv = kv_pool(self.decoder.spec, num_blocks, self.decoder.norm.dtype)
        order = torch.randperm(num_blocks - 1, generator=torch.Generator().manual_seed(1)) + 1
        self.tables = order.view(len(self.sequences), self.width)
        self.done = [0] * len(self.sequences)

    def step(self, rows: Sequence[tuple[int, int]]) -> list[tuple[int, int, Tensor]]:
        """Run rows of (sequence, new tokens); a sequence of -1 is a padding row without tokens.

        Returns (sequence, position of the first new token, logits [new tokens, vocab]) per row.
        """
        ids: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        for index, count in rows:
            for position in range(self.done[index], self.done[index] + count):
                ids.append(self.sequences[index][position])
                positions.append(position)
                block = int(self.tables[index, position // BLOCK])
                slots.append(block * BLOCK + position % BLOCK)
        hidden = self.decoder(
            torch.tensor(ids), torch.tensor(positions), self.kv, self._meta(rows, slots)
        )
        logits = self.decoder.logits(hidden)
        results = []
        first = 0
        for index, count in rows:
            if index >= 0:
                results.append((index, self.done[index], logits[first : first + count]))
                self.done[index] += count
            first += count
        return results

    def _meta(self, rows: Sequence[tuple[int, int]], slots: list[int]) -> AttentionMeta:
        ends = torch.tensor([0, *(count for _, count in rows)]).cumsum(0)
        ctx = [self.done[index] + count if index >= 0 else 0 for index, count in rows]
        tables = [
            self.tables[index].tolist() if index >= 0 else [0] * self.width for index, _ in rows
        ]
        return AttentionMeta(
            cu_q=ends.to(torch.int32),
            ctx_lens=torch.tensor(ctx, dtype=torch.int32),
            block_tables=torch.tensor(tables, dtype=torch.int32),
            slot_mapping=torch.tensor(slots),
        )
