"""Reading config.json: sizes, defaults, windows, and an error for whatever would change the
computation unseen."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelude.models.registry import FAMILIES
from prelude.models.spec import DTYPE_BYTES, ModelSpec, read_config, read_spec, token_ids
from tests.model_samples import SHAPE

QWEN3_0_6B: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 1024,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "max_position_embeddings": 40960,
    "max_window_layers": 28,
    "model_type": "qwen3",
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}


def config_for(architecture: str, **changes: Any) -> dict[str, Any]:
    return {**SHAPE, "architectures": [architecture], "rms_norm_eps": 1e-6, **changes}


def spec_for(architecture: str, **changes: Any) -> ModelSpec:
    return read_spec(config_for(architecture, **changes))


def test_a_published_configuration() -> None:
    spec = read_spec(QWEN3_0_6B)
    assert (spec.num_layers, spec.num_heads, spec.num_kv_heads, spec.head_dim) == (28, 16, 8, 128)
    assert (spec.q_size, spec.kv_size) == (2048, 1024)
    assert spec.rope.theta == 1e6
    assert spec.windows == (0,) * 28
    assert (spec.eos_ids, spec.bos_id) == ((151645,), 151643)
    assert (spec.dtype, spec.tie_embeddings, spec.qk_norm) == ("bfloat16", True, "head")
    assert spec.num_params == 596_049_920
    assert spec.weight_bytes("float32") == 4 * 596_049_920
    assert spec.weight_bytes("bfloat16") == 2 * 596_049_920
    assert spec.kv_bytes_per_token(2) == 2 * 28 * 8 * 128 * 2


def test_specs_are_hashable_and_frozen() -> None:
    spec = read_spec(QWEN3_0_6B)
    assert {spec: 1}[read_spec(QWEN3_0_6B)] == 1
    with pytest.raises(AttributeError):
        spec.num_layers = 3  # type: ignore[misc]


@pytest.mark.parametrize("architecture", FAMILIES)
def test_model_type_alone_names_the_architecture(architecture: str) -> None:
    config = config_for(architecture, model_type=FAMILIES[architecture].model_type)
    del config["architectures"]
    assert read_spec(config).architecture == architecture


@pytest.mark.parametrize(
    "changes",
    [
        {"architectures": ["LlamaForSequenceClassification"]},
        {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral"},
        {"architectures": ["LlamaForCausalLM", "Qwen2ForCausalLM"]},
        {"architectures": None, "model_type": "bert"},
        {"architectures": None},
    ],
)
def test_other_architectures_are_refused_with_the_list(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="Olmo2ForCausalLM") as caught:
        spec_for("LlamaForCausalLM", **changes)
    assert str(changes["architectures"]) in str(caught.value)


def test_model_type_must_agree() -> None:
    with pytest.raises(ValueError, match="goes with model_type 'llama', not 'gemma'"):
        spec_for("LlamaForCausalLM", model_type="gemma")


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("quantization_config", {"quant_method": "gptq"}, "quantised weights"),
        ("attn_logit_softcapping", 50.0, "attention softcap"),
        ("final_logit_softcapping", 30.0, "logit softcap"),
        ("num_local_experts", 8, "mixture of experts"),
        ("logit_scale", 0.0625, "logit scaling"),
        ("residual_multiplier", 0.22, "residual scaling"),
        ("rope_interleaved", True, "interleaved"),
        ("clip_qkv", 8.0, "clipped"),
        ("sliding_window", 128, "sliding window"),
        ("use_parallel_residual", True, "use_parallel_residual=True"),
        ("some_future_switch", 0, "some_future_switch=0"),
    ],
)
def test_keys_that_may_change_the_computation_are_refused(key: str, value: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        spec_for("LlamaForCausalLM", **{key: value})
    assert key in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("quantization_config", None),
        ("attn_logit_softcapping", None),
        ("rope_interleaved", False),
        ("pruned_heads", {}),
        ("pretraining_tp", 1),
        ("attention_dropout", 0.1),
        ("_name_or_path", "somewhere"),
        ("unsloth_fixed", True),
        ("auto_map", {"AutoModelForCausalLM": "modeling.Model"}),
        ("task_specific_params", {"a": 1}),
    ],
)
def test_keys_that_do_not_change_it_are_accepted(key: str, value: Any) -> None:
    assert spec_for("LlamaForCausalLM", **{key: value}) == spec_for("LlamaForCausalLM")


@pytest.mark.parametrize("architecture", ["MistralForCausalLM", "Qwen2ForCausalLM"])
def test_attention_bias_is_refused_where_the_family_has_none(architecture: str) -> None:
    with pytest.raises(ValueError, match="attention_bias=True"):
        spec_for(architecture, attention_bias=True)


def test_biases_by_family() -> None:
    plain, biased = spec_for("LlamaForCausalLM"), spec_for("LlamaForCausalLM", attention_bias=True)
    qwen2 = spec_for("Qwen2ForCausalLM")
    assert (plain.qkv_bias, plain.o_bias, plain.mlp_bias) == (False, False, False)
    assert (biased.qkv_bias, biased.o_bias, biased.mlp_bias) == (True, True, False)
    assert (qwen2.qkv_bias, qwen2.o_bias, qwen2.mlp_bias) == (True, False, False)
    assert spec_for("LlamaForCausalLM", mlp_bias=True).mlp_bias
    assert spec_for("LlamaForCausalLM", attention_bias=None, tie_word_embeddings=None) == plain
    with pytest.raises(ValueError, match="tie_word_embeddings must be true or false"):
        spec_for("LlamaForCausalLM", tie_word_embeddings="yes")


def test_bidirectional_checkpoints_are_refused() -> None:
    with pytest.raises(ValueError, match="is_causal"):
        spec_for("Qwen2ForCausalLM", is_causal=False)


@pytest.mark.parametrize("activation", ["gelu", "relu2", None])
def test_activations(activation: str | None) -> None:
    with pytest.raises(ValueError, match="supported: silu"):
        spec_for("LlamaForCausalLM", hidden_act=activation)


def test_head_sizes() -> None:
    assert spec_for("LlamaForCausalLM").head_dim == 8
    assert spec_for("LlamaForCausalLM", head_dim=64).head_dim == 64
    assert spec_for("Qwen3ForCausalLM").head_dim == 128
    assert spec_for("LlamaForCausalLM", num_key_value_heads=None).num_kv_heads == 4
    with pytest.raises(ValueError, match="multiple of num_attention_heads"):
        spec_for("LlamaForCausalLM", hidden_size=30)
    with pytest.raises(ValueError, match="multiple of num_key_value_heads"):
        spec_for("LlamaForCausalLM", num_key_value_heads=3)


@pytest.mark.parametrize(
    "key",
    [
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "vocab_size",
        "max_position_embeddings",
        "rms_norm_eps",
    ],
)
@pytest.mark.parametrize("value", [None, 0, -1, "7", True, 2.5, [1]])
def test_sizes_must_be_there_and_positive(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=key):
        spec_for("LlamaForCausalLM", **{key: value})


@pytest.mark.parametrize(
    ("architecture", "changes", "windows"),
    [
        ("LlamaForCausalLM", {}, (0, 0, 0)),
        ("MistralForCausalLM", {}, (0, 0, 0)),
        ("MistralForCausalLM", {"sliding_window": 9}, (9, 9, 9)),
        ("Phi3ForCausalLM", {"sliding_window": 9}, (9, 9, 9)),
        ("Qwen2ForCausalLM", {"sliding_window": 9}, (0, 0, 0)),
        ("Qwen2ForCausalLM", {"sliding_window": 9, "use_sliding_window": True}, (0, 0, 0)),
        (
            "Qwen2ForCausalLM",
            {"sliding_window": 9, "use_sliding_window": True, "max_window_layers": 1},
            (0, 9, 9),
        ),
        (
            "Qwen3ForCausalLM",
            {
                "sliding_window": 9,
                "use_sliding_window": True,
                "layer_types": ["sliding_attention", "full_attention", "full_attention"],
            },
            (9, 0, 0),
        ),
        ("LlamaForCausalLM", {"layer_types": ["full_attention"] * 3}, (0, 0, 0)),
        (
            "MistralForCausalLM",
            {"sliding_window": 9, "layer_types": ["sliding_attention"] * 3},
            (9, 9, 9),
        ),
    ],
)
def test_windows(architecture: str, changes: dict[str, Any], windows: tuple[int, ...]) -> None:
    assert spec_for(architecture, **changes).windows == windows


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("Qwen3ForCausalLM", {"layer_types": ["full_attention"]}),
        ("Qwen3ForCausalLM", {"layer_types": ["linear_attention"] * 3}),
        ("Qwen3ForCausalLM", {"layer_types": ["sliding_attention"] * 3}),
        ("MistralForCausalLM", {"sliding_window": 9, "layer_types": ["full_attention"] * 3}),
        ("LlamaForCausalLM", {"layer_types": "full_attention"}),
    ],
)
def test_layer_types_that_do_not_fit(architecture: str, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="layer_types must name 3 layers"):
        spec_for(architecture, **changes)


@pytest.mark.parametrize(
    ("rope", "max_position"),
    [
        ({"rope_type": "linear", "factor": 4.0}, 128),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 100}, 400),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}, 128),
        ({"type": "yarn", "factor": 2.0}, 256),
    ],
)
def test_context_length(rope: dict[str, Any], max_position: int) -> None:
    assert spec_for("Qwen2ForCausalLM", rope_scaling=rope).max_position == max_position


@pytest.mark.parametrize(
    ("changes", "dtype"),
    [
        ({}, "float32"),
        ({"dtype": "bfloat16"}, "bfloat16"),
        ({"torch_dtype": "torch.float16"}, "float16"),
        ({"dtype": "float16", "torch_dtype": "bfloat16"}, "float16"),
    ],
)
def test_dtypes(changes: dict[str, Any], dtype: str) -> None:
    assert spec_for("LlamaForCausalLM", **changes).dtype == dtype
    assert dtype in DTYPE_BYTES


def test_unknown_dtypes_are_refused() -> None:
    with pytest.raises(ValueError, match="float8_e4m3fn"):
        spec_for("LlamaForCausalLM", dtype="float8_e4m3fn")


@pytest.mark.parametrize(
    ("value", "ids"), [(None, ()), (2, (2,)), ([], ()), ([5, 2, 5], (5, 2)), (0, (0,))]
)
def test_token_ids(value: Any, ids: tuple[int, ...]) -> None:
    assert token_ids({"eos_token_id": value}, "eos_token_id") == ids
    assert token_ids({}, "eos_token_id") == ()


@pytest.mark.parametrize("value", ["</s>", -1, [1, None], True, 2.0])
def test_bad_token_ids(value: Any) -> None:
    with pytest.raises(ValueError, match="eos_token_id must be a token id"):
        token_ids({"eos_token_id": value}, "eos_token_id")


@pytest.mark.parametrize(
    ("text", "says"), [(None, "no config.json"), ("{", "not valid JSON"), ("[1]", "JSON object")]
)
def test_read_config_errors(text: str | None, says: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=says):
        read_config(tmp_path)


def test_read_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(QWEN3_0_6B))
    assert read_spec(read_config(tmp_path)) == read_spec(QWEN3_0_6B)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 40) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=2)
    ),
    max_leaves=4,
)


@given(
    architecture=st.sampled_from(sorted(FAMILIES)),
    key=st.sampled_from(
        [*QWEN3_0_6B, "layer_types", "rope_parameters", "partial_rotary_factor", "dtype", "new"]
    ),
    value=JSON,
)
def test_any_value_gives_a_spec_or_a_value_error(architecture: str, key: str, value: Any) -> None:
    config = {**config_for(architecture), "sliding_window": 9, "use_sliding_window": True}
    try:
        spec = read_spec({**config, key: value})
    except ValueError:
        return
    assert len(spec.windows) == spec.num_layers
    assert spec.num_params > 0
