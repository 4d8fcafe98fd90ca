"""Reading checkpoints: whole or in shards, tied or not, and an error for everything that is not
exactly the checkpoint config.json describes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from prelude.models.checkpoint import check_names, shortened, targets, weight_files
from prelude.models.decoder import Decoder, DecoderLayer
from prelude.models.loading import load_decoder, random_decoder
from prelude.models.spec import read_config, read_spec
from tests.model_samples import CASES, CPU, SHAPE, edit_config, load, save_checkpoint


def weights_of(folder: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = load_file(folder / "model.safetensors")
    return tensors


def layer_of(decoder: Decoder, index: int) -> DecoderLayer:
    layer = decoder.layers[index]
    assert isinstance(layer, DecoderLayer)
    return layer


def rewrite(folder: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def assert_equal(a: Decoder, b: Decoder) -> None:
    left, right = dict(a.named_parameters()), dict(b.named_parameters())
    assert left.keys() == right.keys()
    for name, parameter in left.items():
        assert torch.equal(parameter, right[name]), name


def test_sharded_equals_single(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "one", "qwen3")
    save_checkpoint(tmp_path / "many", "qwen3", shard_size="20KB")
    files = weight_files(tmp_path / "many")
    assert len(files) > 2
    assert weight_files(tmp_path / "one") == [tmp_path / "one" / "model.safetensors"]
    assert_equal(load(tmp_path / "one"), load(tmp_path / "many"))


@pytest.mark.parametrize("case", CASES)
def test_targets_name_every_tensor_transformers_writes(case: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, case)
    spec = read_spec(read_config(tmp_path))
    shapes = {name: tuple(tensor.shape) for name, tensor in weights_of(tmp_path).items()}
    assert {name: target.shape for name, target in targets(spec).items()} == shapes


@pytest.mark.parametrize("case", ["llama-biases", "qwen3", "phi3-window", "olmo2"])
def test_targets_tile_every_parameter_exactly(case: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, case)
    decoder = load(tmp_path)
    rows: dict[str, list[int]] = {}
    for target in targets(decoder.spec).values():
        rows.setdefault(target.parameter, []).extend(
            range(target.first, target.first + target.shape[0])
        )
    sizes = {name: list(range(p.shape[0])) for name, p in decoder.named_parameters()}
    assert rows == sizes


def test_fused_parameters_hold_their_parts_in_order(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "qwen2")
    decoder, tensors = load(tmp_path), weights_of(tmp_path)
    attention, mlp = "model.layers.1.self_attn.", "model.layers.1.mlp."
    layer = layer_of(decoder, 1)
    for kind, fused in (("weight", layer.qkv_proj), ("bias", layer.qkv_bias)):
        parts = [tensors[f"{attention}{name}_proj.{kind}"] for name in "qkv"]
        assert fused is not None
        assert torch.equal(fused, torch.cat(parts))
    parts = [tensors[f"{mlp}{name}_proj.weight"] for name in ("gate", "up")]
    assert torch.equal(layer.gate_up_proj, torch.cat(parts))


def test_progress_rises_to_one(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "llama-mha", shard_size="20KB")
    reports: list[tuple[str, float]] = []
    spec = read_spec(read_config(tmp_path))
    load_decoder(tmp_path, spec, torch.float32, CPU, lambda *report: reports.append(report))
    fractions = [fraction for _, fraction in reports]
    assert {phase for phase, _ in reports} == {"loading weights"}
    assert fractions == sorted(fractions)
    assert fractions[0] == 0.0
    assert fractions[-1] == pytest.approx(1.0)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_are_converted_on_the_way(stored: torch.dtype, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "mistral-full")
    rewrite(tmp_path, {name: t.to(stored) for name, t in weights_of(tmp_path).items()})
    wanted = weights_of(tmp_path)["model.norm.weight"].to(torch.float32)
    decoder = load(tmp_path)
    assert torch.equal(decoder.norm, wanted)
    assert {p.dtype for p in decoder.parameters()} == {torch.float32}
    half = load(tmp_path, torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert half.rotary.inv_freq.dtype == torch.float32


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path, "qwen3")
    return tmp_path


def test_a_missing_tensor_is_named(checkpoint: Path) -> None:
    tensors = weights_of(checkpoint)
    del tensors["model.layers.2.self_attn.k_proj.weight"]
    rewrite(checkpoint, tensors)
    with pytest.raises(ValueError, match=r"missing: model\.layers\.2\.self_attn\.k_proj\.weight"):
        load(checkpoint)


def test_an_unexpected_tensor_is_named(checkpoint: Path) -> None:
    tensors = {**weights_of(checkpoint), "model.layers.0.mlp.experts.0.w1": torch.zeros(2)}
    rewrite(checkpoint, tensors)
    with pytest.raises(ValueError, match=r"not part of this architecture: .*experts\.0\.w1"):
        load(checkpoint)


def test_a_layer_more_than_config_says_is_an_error(checkpoint: Path) -> None:
    edit_config(checkpoint, {"num_hidden_layers": 2}, removed=("layer_types",))
    with pytest.raises(ValueError, match=r"model\.layers\.2\..* and 3 more"):
        load(checkpoint)


def test_a_wrong_shape_is_named_with_both_shapes(checkpoint: Path) -> None:
    edit_config(checkpoint, {"intermediate_size": 40})
    with pytest.raises(ValueError, match=r"gate_proj\.weight has shape \[48, 32\].*\[40, 32\]"):
        load(checkpoint)


def test_integer_weights_are_refused(checkpoint: Path) -> None:
    tensors = weights_of(checkpoint)
    tensors["model.norm.weight"] = torch.ones(32, dtype=torch.int8)
    rewrite(checkpoint, tensors)
    with pytest.raises(ValueError, match=r"model\.norm\.weight has type torch\.int8"):
        load(checkpoint)


def test_rotary_buffers_of_old_checkpoints_are_ignored(checkpoint: Path) -> None:
    before = load(checkpoint)
    tensors = weights_of(checkpoint)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(8)
    rewrite(checkpoint, tensors)
    assert_equal(before, load(checkpoint))


def test_a_tied_head_may_be_repeated_but_not_differ(checkpoint: Path) -> None:
    tensors = weights_of(checkpoint)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    rewrite(checkpoint, tensors)
    decoder = load(checkpoint)
    assert decoder.head is decoder.embedding
    tensors["lm_head.weight"][3, 4] += 1.0
    rewrite(checkpoint, tensors)
    with pytest.raises(ValueError, match="tie_word_embeddings=true; set it to false"):
        load(checkpoint)
    edit_config(checkpoint, {"tie_word_embeddings": False})
    assert torch.equal(load(checkpoint).lm_head, tensors["lm_head.weight"])


def test_untied_without_a_head_is_an_error(checkpoint: Path) -> None:
    edit_config(checkpoint, {"tie_word_embeddings": False})
    with pytest.raises(ValueError, match=r"missing: lm_head\.weight"):
        load(checkpoint)


def test_the_same_tensor_in_two_shards_is_an_error(checkpoint: Path) -> None:
    spec = read_spec(read_config(checkpoint))
    twice = [checkpoint / "model.safetensors"] * 2
    with pytest.raises(ValueError, match="is in two files"):
        check_names(twice, targets(spec), tied=True)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "qwen3", shard_size="20KB")
    gone = weight_files(tmp_path)[1]
    gone.unlink()
    with pytest.raises(ValueError, match=f"weight files are missing: {gone.name}"):
        load(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {}}'])
def test_a_damaged_index_is_an_error(text: str, checkpoint: Path) -> None:
    (checkpoint / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match=r"damaged|missing"):
        load(checkpoint)


def test_a_truncated_file_says_to_download_again(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="download it again"):
        load(checkpoint)


def test_pickled_weights_are_refused_with_the_conversion(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    with pytest.raises(ValueError, match="save_pretrained"):
        load(checkpoint)


def test_no_weights_at_all(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model\.load_format=random"):
        load(checkpoint)


def test_long_lists_are_shortened() -> None:
    assert shortened(["a", "b"]) == "a, b"
    assert shortened([str(i) for i in range(10)], limit=3) == "0, 1, 2, and 7 more"


def random_spec_config(**changes: object) -> dict[str, object]:
    return {**SHAPE, "architectures": ["Qwen2ForCausalLM"], "rms_norm_eps": 1e-6, **changes}


def test_random_weights_follow_the_seed() -> None:
    spec = read_spec(random_spec_config())
    first, again, other = (random_decoder(spec, torch.float32, CPU, seed) for seed in (1, 1, 2))
    assert_equal(first, again)
    assert not torch.equal(first.embedding, other.embedding)
    assert first.embedding.std() == pytest.approx(0.02, rel=0.05)
    assert torch.equal(first.norm, torch.ones(32))
    assert torch.equal(layer_of(first, 0).attn_norm, torch.ones(32))


def test_random_weights_do_not_touch_the_global_generator() -> None:
    before = torch.get_rng_state()
    random_decoder(read_spec(random_spec_config()), torch.bfloat16, CPU, seed=3)
    assert torch.equal(before, torch.get_rng_state())


def test_qk_norms_of_random_weights_are_one() -> None:
    config = random_spec_config(architectures=["Qwen3ForCausalLM"], head_dim=8)
    layer = layer_of(random_decoder(read_spec(config), torch.float32, CPU, seed=0), 0)
    assert layer.q_norm is not None
    assert layer.k_norm is not None
    assert torch.equal(layer.q_norm, torch.ones(8))
    assert torch.equal(layer.k_norm, torch.ones(8))


def test_spec_and_generation_config_leave_torch_unimported(checkpoint: Path) -> None:
    program = (
        "import sys, json, pathlib\n"
        "from prelude.models.spec import read_config, read_spec\n"
        "from prelude.models.generation_config import read_eos_ids, read_generation_defaults\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "spec = read_spec(read_config(folder))\n"
        "print(json.dumps([spec.num_params, read_eos_ids(folder),"
        " 'torch' in sys.modules, 'transformers' in sys.modules]))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(checkpoint)], capture_output=True, text=True, check=True
    )
    spec = read_spec(read_config(checkpoint))
    assert json.loads(result.stdout) == [spec.num_params, [2], False, False]
