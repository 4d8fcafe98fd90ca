"""Which checkpoints Prelude can run. A family is a record of flags over the one decoder of
``decoder.py``; adding one is adding an entry here and a fixture in the tests."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

QkNorm = Literal["none", "head", "all"]
NormPlacement = Literal["pre", "post"]
WindowRule = Literal["none", "all", "layers"]


@dataclass(frozen=True, slots=True)
class Family:
    """How one architecture differs from the others.

    A bias is fixed (bool) or decided by the named key of config.json. ``qk_norm`` normalises q and
    k per head or over all heads at once. ``norm_placement`` "pre" normalises what enters attention
    and MLP, "post" what leaves them. ``windows`` says whether ``sliding_window`` applies to all
    layers or to those that ``layer_types``/``max_window_layers`` name. ``fused_names``: the
    checkpoint holds qkv_proj and gate_up_proj instead of their parts.
    """

    model_type: str
    qkv_bias: bool | str = False
    o_bias: bool | str = False
    mlp_bias: bool | str = False
    qk_norm: QkNorm = "none"
    norm_placement: NormPlacement = "pre"
    windows: WindowRule = "none"
    head_dim: int | None = None  # where config.json leaves it out; None: hidden size / heads
    partial_rotary: bool = False
    fused_names: bool = False


FAMILIES: Mapping[str, Family] = {
    "LlamaForCausalLM": Family(
        "llama", qkv_bias="attention_bias", o_bias="attention_bias", mlp_bias="mlp_bias"
    ),
    "MistralForCausalLM": Family("mistral", windows="all"),
    "Qwen2ForCausalLM": Family("qwen2", qkv_bias=True, windows="layers"),
    "Qwen3ForCausalLM": Family(
        "qwen3",
        qkv_bias="attention_bias",
        o_bias="attention_bias",
        qk_norm="head",
        windows="layers",
        head_dim=128,
    ),
    "Olmo2ForCausalLM": Family(
        "olmo2",
        qkv_bias="attention_bias",
        o_bias="attention_bias",
        qk_norm="all",
        norm_placement="post",
    ),
    "Phi3ForCausalLM": Family("phi3", windows="all", partial_rotary=True, fused_names=True),
}
