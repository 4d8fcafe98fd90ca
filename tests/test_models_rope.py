"""Rotary parameters of both configuration styles, and tables equal to transformers'."""

from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from prelude.models.rope import ROPE_TYPES, RopeSpec, read_rope
from prelude.models.rotary import Rotary, inverse_frequencies

CPU = torch.device("cpu")

LLAMA31 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
SCALINGS: list[dict[str, Any]] = [
    {"rope_type": "linear", "factor": 2.5},
    LLAMA31,
    {**LLAMA31, "factor": 32.0, "original_max_position_embeddings": 1024},
    YARN,
    {**YARN, "beta_fast": 20.0, "beta_slow": 2.0, "truncate": False},
    {**YARN, "attention_factor": 1.3},
    {**YARN, "mscale": 0.707, "mscale_all_dim": 1.0},
    {**YARN, "factor": 1.0},
    {**YARN, "factor": None, "original_max_position_embeddings": 4096},
]


def read(config: dict[str, Any], *, partial_rotary: bool = False, head_dim: int = 64) -> RopeSpec:
    return read_rope(config, head_dim=head_dim, max_position=131072, partial_rotary=partial_rotary)


@pytest.mark.parametrize("theta", [10_000.0, 500_000.0])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_frequencies_equal_transformers(scaling: dict[str, Any], theta: float) -> None:
    config = LlamaConfig(
        hidden_size=256,
        num_attention_heads=4,
        max_position_embeddings=131072,
        rope_parameters={**scaling, "rope_theta": theta},
    )
    expected, factor = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](config, device="cpu")
    rope = read({"rope_scaling": scaling, "rope_theta": theta})
    assert torch.equal(inverse_frequencies(rope), expected)
    assert rope.attention_factor == pytest.approx(factor, abs=1e-12)


def test_both_styles_and_both_names_read_the_same() -> None:
    new = read({"rope_parameters": {**LLAMA31, "rope_theta": 5e5}})
    old = read({"rope_theta": 5e5, "rope_scaling": LLAMA31})
    oldest_scaling = {("type" if k == "rope_type" else k): v for k, v in LLAMA31.items()}
    assert new == old == read({"rope_theta": 5e5, "rope_scaling": oldest_scaling})
    assert (new.theta, new.type, new.factor, new.original_max_position) == (5e5, "llama3", 8, 8192)


@pytest.mark.parametrize(
    "config", [{}, {"rope_scaling": None}, {"rope_parameters": {}}, {"rope_parameters": None}]
)
def test_defaults(config: dict[str, Any]) -> None:
    assert read(config) == RopeSpec(rotary_dim=64, theta=10_000.0)


def test_null_fields_are_absent_fields() -> None:
    rope = read({"rope_parameters": {"rope_type": "default", "factor": None, "rope_theta": None}})
    assert rope == RopeSpec(64)


def test_the_original_length_beside_the_dictionary_wins() -> None:
    beside = {"rope_scaling": YARN, "original_max_position_embeddings": 4096}
    assert read(beside).original_max_position == 4096
    assert read({"rope_scaling": YARN}).original_max_position == 32768
    assert read({"original_max_position_embeddings": 4096}) == RopeSpec(64)


def test_one_rope_for_all_layer_types() -> None:
    inner = {"rope_type": "default", "rope_theta": 5e5}
    same = {"rope_parameters": {"full_attention": inner, "sliding_attention": dict(inner)}}
    assert read(same) == RopeSpec(64, 5e5)
    differ = {**inner, "rope_theta": 1e4}
    with pytest.raises(ValueError, match="differ between layer types"):
        read({"rope_parameters": {"full_attention": inner, "sliding_attention": differ}})


@pytest.mark.parametrize("kind", ["longrope", "su", "dynamic", "mrope", 3])
def test_other_types_are_refused_with_the_list(kind: Any) -> None:
    with pytest.raises(ValueError, match=f"{kind}.*{', '.join(ROPE_TYPES)}"):
        read({"rope_scaling": {"type": kind, "factor": 2.0}})


@pytest.mark.parametrize(
    "params",
    [
        {"rope_type": "default", "mrope_section": [16, 24, 24]},
        {"rope_type": "yarn", "factor": 2.0, "llama_4_scaling_beta": 0.1},
        {"rope_type": "linear", "factor": 2.0, "beta_fast": 32},
    ],
)
def test_keys_of_no_effect_on_the_type_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(reversed(params))):
        read({"rope_parameters": params})


@pytest.mark.parametrize(
    ("params", "key"),
    [
        ({"rope_type": "linear"}, "factor"),
        ({"rope_type": "linear", "factor": 0}, "factor"),
        ({"rope_type": "linear", "factor": "2"}, "factor"),
        ({"rope_type": "llama3", "factor": 8.0}, "low_freq_factor"),
        ({"rope_theta": -1.0}, "rope_theta"),
        ({"rope_theta": True}, "rope_theta"),
        ({"rope_theta": float("nan")}, "rope_theta"),
    ],
)
def test_missing_and_bad_numbers_are_named(params: dict[str, Any], key: str) -> None:
    with pytest.raises(ValueError, match=f"rope {key} must be a positive number"):
        read({"rope_parameters": params})


def test_a_rope_dictionary_that_is_none() -> None:
    with pytest.raises(ValueError, match="must be an object"):
        read({"rope_scaling": [1]})


def test_partial_rotary() -> None:
    config = {"partial_rotary_factor": 0.75}
    assert read(config, partial_rotary=True).rotary_dim == 48
    assert read({"partial_rotary_factor": 1.0}).rotary_dim == 64
    with pytest.raises(ValueError, match="not supported for this architecture"):
        read(config)
    with pytest.raises(ValueError, match="positive even"):
        read({"partial_rotary_factor": 0.5}, partial_rotary=True, head_dim=6)
    with pytest.raises(ValueError, match="positive even"):
        read({"partial_rotary_factor": 2.0}, partial_rotary=True)


def test_cos_and_sin_hold_every_angle_twice() -> None:
    rotary = Rotary(RopeSpec(rotary_dim=8, theta=100.0), CPU)
    positions = torch.tensor([0, 5, 100_000])
    cos, sin = rotary(positions)
    assert cos.shape == sin.shape == (3, 8)
    assert cos.dtype == sin.dtype == torch.float32
    assert torch.equal(cos[:, :4], cos[:, 4:])
    assert torch.equal(sin[:, :4], sin[:, 4:])
    assert torch.equal(cos[0], torch.ones(8))
    angles = 5 * 100.0 ** (-torch.arange(4, dtype=torch.float64) / 4)
    torch.testing.assert_close(sin[1, :4].double(), angles.sin(), rtol=0, atol=1e-6)


def test_attention_factor_scales_both() -> None:
    plain = Rotary(RopeSpec(rotary_dim=8), CPU)(torch.arange(4))
    scaled = Rotary(RopeSpec(rotary_dim=8, attention_factor=1.5), CPU)(torch.arange(4))
    for one, other in zip(plain, scaled, strict=True):
        assert torch.equal(one * 1.5, other)


def test_frequencies_are_no_checkpoint_state() -> None:
    assert not Rotary(RopeSpec(rotary_dim=8), CPU).state_dict()


def test_a_type_without_frequencies_is_an_error() -> None:
    with pytest.raises(ValueError, match="has no frequencies"):
        inverse_frequencies(RopeSpec(rotary_dim=8, type="spiral"))
