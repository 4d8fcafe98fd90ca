"""The weights of a Hugging Face checkpoint as the GGUF file that llama.cpp reads. Qwen3 only: its
tensors need new names and no permutation. The file has no vocabulary; prompts are token ids."""

from pathlib import Path
from typing import Any

from prelude.models.spec import read_config

# Hugging Face's names below a layer, and GGUF's.
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
TOP_NAMES = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}
WEIGHTS = ("f32", "q8_0")


def gguf_name(name: str) -> str:
    """``model.layers.3.mlp.up_proj.weight`` is ``blk.3.ffn_up.weight``. Raises ``KeyError``."""
    stem = name.removeprefix("model.").removesuffix(".weight")
    if not stem.startswith("layers."):
        return f"{TOP_NAMES[stem]}.weight"
    _, layer, rest = stem.split(".", 2)
    return f"blk.{layer}.{LAYER_NAMES[rest]}.weight"


def gguf_file(folder: Path, weights: str) -> Path:
    """The checkpoint's GGUF file with matrices as ``weights`` (f32 or q8_0) and norms in fp32;
    written beside the checkpoint if it is not there. Raises ``ValueError``."""
    if weights not in WEIGHTS:
        raise ValueError(f"weights={weights}: must be one of {', '.join(WEIGHTS)}")
    path = folder / f"model-{weights}.gguf"
    if not path.exists():
        unfinished = path.with_suffix(".unfinished")
        _write(folder, weights, unfinished)
        unfinished.rename(path)
    return path


def _write(folder: Path, weights: str, path: Path) -> None:
    import gguf
    from safetensors import safe_open

    writer = gguf.GGUFWriter(path, "qwen3")
    _add_shape(writer, read_config(folder))
    kind = gguf.GGMLQuantizationType[weights.upper()]
    with safe_open(folder / "model.safetensors", framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118 (no mapping)
            values = file.get_tensor(name).astype("float32", copy=False)
            if values.ndim == 1 or weights == "f32":
                writer.add_tensor(gguf_name(name), values)
            else:
                packed = gguf.quants.quantize(values, kind)
                writer.add_tensor(gguf_name(name), packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_shape(writer: Any, config: dict[str, Any]) -> None:
    if config["model_type"] != "qwen3":
        raise ValueError(f"model_type {config['model_type']}: only qwen3 is written as GGUF")
    rope = config.get("rope_parameters") or config
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(config["vocab_size"])
