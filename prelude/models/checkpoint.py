"""Which tensor of a checkpoint goes where in the decoder, and the safetensors files it is in."""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from prelude.models.registry import FAMILIES
from prelude.models.spec import ModelSpec

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
# Buffers that old checkpoints carry; rotary.py computes them from config.json.
_DERIVED = re.compile(r"(^|\.)rotary_emb\.inv_freq$")


@dataclass(frozen=True, slots=True)
class Target:
    """A checkpoint tensor of ``shape`` fills rows ``first`` and up of a decoder parameter."""

    parameter: str
    first: int
    shape: tuple[int, ...]


def targets(spec: ModelSpec) -> dict[str, Target]:
    """Every tensor the checkpoint must hold, by its name in the checkpoint."""
    table = (spec.vocab_size, spec.hidden_size)
    found = {"model.embed_tokens.weight": Target("embedding", 0, table)}
    for index in range(spec.num_layers):
        for name, target in _layer_targets(spec):
            found[f"model.layers.{index}.{name}"] = Target(
                f"layers.{index}.{target.parameter}", target.first, target.shape
            )
    found["model.norm.weight"] = Target("norm", 0, (spec.hidden_size,))
    if not spec.tie_embeddings:
        found["lm_head.weight"] = Target("lm_head", 0, table)
    return found


def _layer_targets(spec: ModelSpec) -> Iterator[tuple[str, Target]]:
    hidden, inter = spec.hidden_size, spec.intermediate_size
    fused = FAMILIES[spec.architecture].fused_names
    yield from _norm_targets(spec)
    qkv = {"q_proj": spec.q_size, "k_proj": spec.kv_size, "v_proj": spec.kv_size}
    yield from _linears("self_attn", "qkv", qkv, hidden, spec.qkv_bias, fused)
    yield from _linears("self_attn", "o", {"o_proj": hidden}, spec.q_size, spec.o_bias)
    gate_up = {"gate_proj": inter, "up_proj": inter}
    yield from _linears("mlp", "gate_up", gate_up, hidden, spec.mlp_bias, fused)
    yield from _linears("mlp", "down", {"down_proj": hidden}, inter, spec.mlp_bias)


def _norm_targets(spec: ModelSpec) -> Iterator[tuple[str, Target]]:
    norms = {
        "pre": ("input_layernorm", "post_attention_layernorm"),
        "post": ("post_attention_layernorm", "post_feedforward_layernorm"),
    }
    attn_norm, mlp_norm = norms[spec.norm_placement]
    yield f"{attn_norm}.weight", Target("attn_norm", 0, (spec.hidden_size,))
    yield f"{mlp_norm}.weight", Target("mlp_norm", 0, (spec.hidden_size,))
    if spec.qk_norm != "none":
        sizes = (spec.head_dim,) * 2 if spec.qk_norm == "head" else (spec.q_size, spec.kv_size)
        yield "self_attn.q_norm.weight", Target("q_norm", 0, (sizes[0],))
        yield "self_attn.k_norm.weight", Target("k_norm", 0, (sizes[1],))


def _linears(
    module: str, name: str, parts: Mapping[str, int], width: int, bias: bool, fused: bool = False
) -> Iterator[tuple[str, Target]]:
    """The checkpoint's parts of parameter ``name``_proj, stacked in order, with their biases."""
    if fused:
        parts = {f"{name}_proj": sum(parts.values())}
    first = 0
    for part, rows in parts.items():
        yield f"{module}.{part}.weight", Target(f"{name}_proj", first, (rows, width))
        if bias:
            yield f"{module}.{part}.bias", Target(f"{name}_bias", first, (rows,))
        first += rows


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint. Raises ``ValueError`` that says what to do."""
    index = folder / INDEX_NAME
    if index.is_file():
        return _sharded_files(index)
    single = folder / SINGLE_NAME
    if single.is_file():
        return [single]
    if (folder / "pytorch_model.bin").is_file() or list(folder.glob("pytorch_model*.bin*")):
        raise ValueError(
            f"{folder} holds pickled weights (pytorch_model*.bin), which can run code when read. "
            'Convert them once: python -c "from transformers import AutoModelForCausalLM as M; '
            f"M.from_pretrained('{folder}').save_pretrained('CONVERTED')\", and set "
            "model.path=CONVERTED"
        )
    raise ValueError(
        f"{folder} has neither {SINGLE_NAME} nor {INDEX_NAME}: download the weights, or set "
        "model.load_format=random to run the shape alone"
    )


def _sharded_files(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is damaged: no readable weight_map ({error!r})") from error
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing or not names:
        raise ValueError(f"{index.parent}: weight files are missing: {shortened(missing)}")
    return [index.parent / name for name in names]


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A mapped safetensors file; a damaged one is a ``ValueError``."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or cut short ({error}): download it again") from error


def check_names(files: list[Path], wanted: Mapping[str, Target], tied: bool) -> None:
    """Compare headers with what the spec wants before any weight is read.

    Raises ``ValueError`` naming missing, unexpected, repeated and mis-shaped tensors.
    """
    seen: dict[str, tuple[int, ...]] = {}
    problems: list[str] = []
    for path in files:
        with opened(path) as file:
            for name in file.keys():  # noqa: SIM118 (not a dict)
                if name in seen:
                    problems.append(f"{name} is in two files")
                seen[name] = tuple(file.get_slice(name).get_shape())
    problems += [
        f"{name} has shape {list(seen[name])}, config.json implies {list(target.shape)}"
        for name, target in wanted.items()
        if name in seen and seen[name] != target.shape
    ]
    missing = [name for name in wanted if name not in seen]
    if missing:
        problems.append(f"missing: {shortened(missing)}")
    unexpected = [name for name in seen if name not in wanted and not ignored(name, tied)]
    if unexpected:
        problems.append(f"not part of this architecture: {shortened(unexpected)}")
    if problems:
        raise ValueError(
            f"{files[0].parent}: weights do not fit config.json: {shortened(problems, '; ')}"
        )


def ignored(name: str, tied: bool) -> bool:
    """Tensors a checkpoint may hold beside those wanted; a tied head is compared on loading."""
    return bool(_DERIVED.search(name)) or (tied and name == "lm_head.weight")


def shortened(items: list[str], separator: str = ", ", limit: int = 8) -> str:
    more = f"{separator}and {len(items) - limit} more" if len(items) > limit else ""
    return separator.join(items[:limit]) + more
