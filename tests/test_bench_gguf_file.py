"""The GGUF file holds the checkpoint's tensors under llama.cpp's names, and its shape."""

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file

from benchmarks.peers.checkpoint import checkpoint
from benchmarks.peers.gguf_file import gguf_file, gguf_name


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint("tiny", tmp_path_factory.mktemp("weights"))


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("model.norm.weight", "output_norm.weight"),
        ("model.layers.13.mlp.gate_proj.weight", "blk.13.ffn_gate.weight"),
        ("model.layers.0.self_attn.q_norm.weight", "blk.0.attn_q_norm.weight"),
    ],
)
def test_names(theirs: str, ours: str) -> None:
    assert gguf_name(theirs) == ours


def test_an_unknown_tensor_is_no_guess() -> None:
    with pytest.raises(KeyError):
        gguf_name("model.layers.0.mlp.router.weight")


def test_fp32_is_the_checkpoint(tiny: Path) -> None:
    reader = gguf.GGUFReader(gguf_file(tiny, "f32"))
    written = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    expected = load_file(tiny / "model.safetensors")
    assert len(written) == len(expected) == 2 + 2 * 11
    for name, values in expected.items():
        assert np.array_equal(written[gguf_name(name)].reshape(values.shape), values), name


def test_the_shape(tiny: Path) -> None:
    fields = gguf.GGUFReader(gguf_file(tiny, "f32")).fields
    assert fields["general.architecture"].contents() == "qwen3"
    assert fields["tokenizer.ggml.model"].contents() == "none"
    for name, value in {
        "block_count": 2,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.key_length": 16,
        "rope.freq_base": 1e6,
        "vocab_size": 4096,
    }.items():
        assert fields[f"qwen3.{name}"].contents() == value


def test_q8_0_quantizes_matrices_alone(tiny: Path) -> None:
    reader = gguf.GGUFReader(gguf_file(tiny, "q8_0"))
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["blk.1.attn_output.weight"] == kinds["token_embd.weight"] == "Q8_0"
    assert kinds["blk.1.attn_norm.weight"] == "F32"
    (packed,) = [tensor for tensor in reader.tensors if tensor.name == "blk.0.ffn_down.weight"]
    values = gguf.quants.dequantize(packed.data, packed.tensor_type)
    expected = load_file(tiny / "model.safetensors")["model.layers.0.mlp.down_proj.weight"]
    assert np.abs(values - expected).max() < np.abs(expected).max() / 100


def test_it_is_written_once(tiny: Path) -> None:
    path = gguf_file(tiny, "f32")
    before = path.stat().st_mtime_ns
    assert gguf_file(tiny, "f32") == path and path.stat().st_mtime_ns == before


def test_what_cannot_be_written(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="weights=q4_0: must be one of f32, q8_0"):
        gguf_file(tiny, "q4_0")
    config = json.loads((tiny / "config.json").read_text()) | {"model_type": "llama"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((tiny / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match="only qwen3"):
        gguf_file(tmp_path, "f32")
