"""A checkpoint's shape and arithmetic, read from its config.json. No torch.

Reading is strict: a key that Prelude does not know may change what the model computes, so it is
an error unless it is switched off or known to be harmless.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prelude.models.registry import FAMILIES, Family, NormPlacement, QkNorm
from prelude.models.rope import RopeSpec, read_rope
from prelude.text.files import read_json

DTYPE_BYTES: Mapping[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}

_READ_KEYS = frozenset(
    """architectures model_type dtype torch_dtype hidden_size intermediate_size num_hidden_layers
    num_attention_heads num_key_value_heads head_dim vocab_size rms_norm_eps hidden_act
    max_position_embeddings original_max_position_embeddings tie_word_embeddings bos_token_id
    eos_token_id rope_parameters rope_scaling rope_theta partial_rotary_factor layer_types
    is_causal auto_map""".split()
)
# What training, generation or bookkeeping reads, and inference arithmetic does not.
_HARMLESS_KEYS = frozenset(
    """transformers_version use_cache initializer_range attention_dropout resid_pdrop embd_pdrop
    hidden_dropout pretraining_tp pad_token_id sep_token_id cls_token_id decoder_start_token_id
    forced_bos_token_id forced_eos_token_id bad_words_ids suppress_tokens begin_suppress_tokens
    return_dict return_dict_in_generate output_hidden_states output_attentions output_scores
    torchscript use_bfloat16 tf_legacy_loss tie_encoder_decoder chunk_size_feed_forward
    problem_type id2label label2id num_labels tokenizer_class prefix task_specific_params
    finetuning_task max_length min_length do_sample early_stopping num_beams num_beam_groups
    diversity_penalty temperature top_k top_p typical_p repetition_penalty length_penalty
    no_repeat_ngram_size encoder_no_repeat_ngram_size num_return_sequences
    exponential_decay_length_penalty remove_invalid_values is_decoder is_llama_config
    transformers.js_config attn_implementation gradient_checkpointing bos_token eos_token
    pad_token model_max_length""".split()
)
_HARMLESS_PREFIXES = ("_", "unsloth")
_WINDOW_KEYS = frozenset({"sliding_window"})
_LAYER_WINDOW_KEYS = frozenset({"use_sliding_window", "max_window_layers"})
_FEATURES: Mapping[str, str] = {
    "quantization_config": "quantised weights",
    "attn_logit_softcapping": "attention softcap",
    "final_logit_softcapping": "logit softcap",
    "num_experts": "mixture of experts",
    "num_local_experts": "mixture of experts",
    "n_routed_experts": "mixture of experts",
    "logit_scale": "logit scaling",
    "logits_scaling": "logit scaling",
    "attention_multiplier": "attention scaling",
    "residual_multiplier": "residual scaling",
    "embedding_multiplier": "embedding scaling",
    "clip_qkv": "clipped q, k, v",
    "rope_interleaved": "interleaved rotary layout",
    "sliding_window": "sliding window",
    "kv_lora_rank": "latent attention",
}


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Everything that decides shapes and arithmetic of a decoder; ``windows`` holds one sliding
    window in tokens per layer, 0 for full attention; ``dtype`` is the checkpoint's own."""

    architecture: str
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    norm_eps: float
    rope: RopeSpec
    max_position: int
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    qk_norm: QkNorm
    norm_placement: NormPlacement
    tie_embeddings: bool
    windows: tuple[int, ...]
    eos_ids: tuple[int, ...]
    bos_id: int | None
    dtype: str

    @property
    def q_size(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_kv_heads * self.head_dim

    @property
    def num_layer_params(self) -> int:
        qkv = self.q_size + 2 * self.kv_size
        matrices = self.hidden_size * (qkv + self.q_size + 3 * self.intermediate_size)
        biases = (
            self.qkv_bias * qkv
            + self.o_bias * self.hidden_size
            + self.mlp_bias * (2 * self.intermediate_size + self.hidden_size)
        )
        qk_norm = {"none": 0, "head": 2 * self.head_dim, "all": self.q_size + self.kv_size}
        return matrices + biases + qk_norm[self.qk_norm] + 2 * self.hidden_size

    @property
    def num_params(self) -> int:
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_embeddings else 2)
        return embeddings + self.num_layers * self.num_layer_params + self.hidden_size

    def weight_bytes(self, dtype: str) -> int:
        """Bytes of all parameters in ``dtype`` ("float32", "bfloat16", "float16", or "int8", with
        the few that are not matrices and the scales, under a hundredth, left out)."""
        if dtype == "int8":
            return self.num_params
        return self.num_params * DTYPE_BYTES[dtype]

    def kv_bytes_per_token(self, dtype_bytes: int) -> int:
        """Bytes one token takes in the KV pool over all layers."""
        return 2 * self.num_layers * self.kv_size * dtype_bytes


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json. Raises ``ValueError`` if it is not there or not an object."""
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(
            f"{folder} has no config.json: point model.path at a Hugging Face model folder "
            "(config.json, tokenizer.json and *.safetensors)"
        )
    return read_json(path)


def read_spec(config: Mapping[str, Any]) -> ModelSpec:
    """Turn a parsed config.json into a ``ModelSpec``.

    Raises ``ValueError`` naming the key, and what is supported, for anything Prelude cannot
    compute exactly: architectures, activations, quantisation, unknown keys.
    """
    architecture, family = _family(config)
    _check_keys(config, architecture, family)
    _check_activation(config)
    num_heads = _size(config, "num_attention_heads")
    num_kv_heads = _size(config, "num_key_value_heads", num_heads)
    if num_heads % num_kv_heads:
        raise ValueError(
            f"config.json: num_attention_heads ({num_heads}) must be a multiple of "
            f"num_key_value_heads ({num_kv_heads})"
        )
    head_dim = _head_dim(config, family, num_heads)
    max_position = _size(config, "max_position_embeddings")
    rope = read_rope(
        config, head_dim=head_dim, max_position=max_position, partial_rotary=family.partial_rotary
    )
    return ModelSpec(
        architecture=architecture,
        num_layers=_size(config, "num_hidden_layers"),
        hidden_size=_size(config, "hidden_size"),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        intermediate_size=_size(config, "intermediate_size"),
        vocab_size=_size(config, "vocab_size"),
        norm_eps=_norm_eps(config),
        rope=rope,
        max_position=_context(rope, max_position),
        qkv_bias=_flag(config, family.qkv_bias),
        o_bias=_flag(config, family.o_bias),
        mlp_bias=_flag(config, family.mlp_bias),
        qk_norm=family.qk_norm,
        norm_placement=family.norm_placement,
        tie_embeddings=_flag(config, "tie_word_embeddings"),
        windows=_windows(config, family),
        eos_ids=token_ids(config, "eos_token_id"),
        bos_id=next(iter(token_ids(config, "bos_token_id")), None),
        dtype=_dtype(config),
    )


def token_ids(config: Mapping[str, Any], key: str) -> tuple[int, ...]:
    """A token id key that may be absent, null, a number or a list. Raises ``ValueError``."""
    value = config.get(key)
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not all(type(item) is int and item >= 0 for item in ids):
        raise ValueError(f"{key} must be a token id or a list of them, not {value!r}")
    return tuple(dict.fromkeys(ids))


def _family(config: Mapping[str, Any]) -> tuple[str, Family]:
    supported = ", ".join(FAMILIES)
    model_type = config.get("model_type")
    listed = config.get("architectures") or [
        name for name, family in FAMILIES.items() if family.model_type == model_type
    ]
    name = listed[0] if isinstance(listed, list) and len(listed) == 1 else None
    if not isinstance(name, str) or name not in FAMILIES:
        raise ValueError(
            f"config.json: architectures={config.get('architectures')} with "
            f"model_type={model_type!r} is not supported; supported: {supported}"
        )
    family = FAMILIES[name]
    if model_type not in (None, family.model_type):
        raise ValueError(
            f"config.json: architecture {name} goes with model_type "
            f"{family.model_type!r}, not {model_type!r}"
        )
    return name, family


def _check_keys(config: Mapping[str, Any], architecture: str, family: Family) -> None:
    known = _READ_KEYS | _HARMLESS_KEYS
    known |= {b for b in (family.qkv_bias, family.o_bias, family.mlp_bias) if isinstance(b, str)}
    known |= _WINDOW_KEYS if family.windows != "none" else frozenset()
    known |= _LAYER_WINDOW_KEYS if family.windows == "layers" else frozenset()
    if config.get("is_causal", True) is not True:
        raise ValueError("config.json: is_causal=false is not supported; Prelude runs decoders")
    unknown = [
        f"{key}={value!r}" + (f" ({_FEATURES[key]})" if key in _FEATURES else "")
        for key, value in config.items()
        if key not in known and not key.startswith(_HARMLESS_PREFIXES) and not _is_off(value)
    ]
    if unknown:
        raise ValueError(
            f"config.json: not supported for {architecture}: {'; '.join(unknown)[:2000]}. "
            "Remove a key from config.json only if it does not change what the model computes. "
            f"Supported architectures: {', '.join(FAMILIES)}"
        )


def _is_off(value: Any) -> bool:
    return value is None or value is False or value == {} or value == []


def _check_activation(config: Mapping[str, Any]) -> None:
    if config.get("hidden_act", "silu") not in ("silu", "swish"):
        raise ValueError(
            f"config.json: hidden_act={config['hidden_act']!r} is not supported; supported: silu"
        )


def _head_dim(config: Mapping[str, Any], family: Family, num_heads: int) -> int:
    if config.get("head_dim") is not None:
        return _size(config, "head_dim")
    if family.head_dim is not None:
        return family.head_dim
    hidden_size = _size(config, "hidden_size")
    if hidden_size % num_heads:
        raise ValueError(
            f"config.json: without head_dim, hidden_size ({hidden_size}) must be a multiple of "
            f"num_attention_heads ({num_heads})"
        )
    return hidden_size // num_heads


def _context(rope: RopeSpec, max_position: int) -> int:
    """Tokens the positions are good for: yarn configurations often state the unscaled length."""
    if rope.type != "yarn":
        return max_position
    return max(max_position, int(rope.original_max_position * rope.factor))


def _windows(config: Mapping[str, Any], family: Family) -> tuple[int, ...]:
    num_layers = _size(config, "num_hidden_layers")
    window = 0
    if family.windows != "none" and config.get("sliding_window") is not None:
        window = _size(config, "sliding_window")
    if family.windows == "layers" and not config.get("use_sliding_window", False):
        window = 0
    types = config.get("layer_types")
    if types is None:
        first = 0
        if window and family.windows == "layers":
            first = _size(config, "max_window_layers", 28, minimum=0)
        return tuple(window if index >= first else 0 for index in range(num_layers))
    allowed = {"full_attention"} | ({"sliding_attention"} if window else set())
    if family.windows == "all" and window:
        allowed = {"sliding_attention"}
    if (
        not isinstance(types, list)
        or len(types) != num_layers
        or any(kind not in allowed for kind in map(str, types))
    ):
        raise ValueError(
            f"config.json: layer_types must name {num_layers} layers, each one of "
            f"{sorted(allowed)} for this model, not {types}"
        )
    return tuple(window if kind == "sliding_attention" else 0 for kind in types)


def _dtype(config: Mapping[str, Any]) -> str:
    name = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    name = name.removeprefix("torch.")
    if name not in DTYPE_BYTES:
        raise ValueError(
            f"config.json: dtype {name!r} is not supported; supported: {', '.join(DTYPE_BYTES)}"
        )
    return name


def _norm_eps(config: Mapping[str, Any]) -> float:
    value = config.get("rms_norm_eps")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise ValueError(
            f"config.json: rms_norm_eps must be a small positive number, not {value!r}"
        )
    return float(value)


def _flag(config: Mapping[str, Any], rule: bool | str) -> bool:
    value = config.get(rule) or False if isinstance(rule, str) else rule
    if not isinstance(value, bool):
        raise ValueError(f"config.json: {rule} must be true or false, not {value!r}")
    return value


def _size(config: Mapping[str, Any], key: str, default: int | None = None, minimum: int = 1) -> int:
    value = config.get(key)
    value = default if value is None else value
    if type(value) is not int or value < minimum:
        raise ValueError(
            f"config.json: {key} must be a whole number of at least {minimum}, not {value!r}"
        )
    return value
