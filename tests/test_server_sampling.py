"""Fields to parameters: defaults in their order, and numbers that must fit the context."""

import json
from pathlib import Path
from typing import Any

import pytest

from prelude.conf.schema import SamplingConfig
from prelude.models.sampling_defaults import SamplingDefaults
from prelude.server.errors import ApiError
from prelude.server.protocol import ChatRequest, CompletionRequest
from prelude.server.sampling import sampling_params
from prelude.types.request import SamplingParams

NO_DEFAULTS = SamplingDefaults({}, None)


def chat(
    room: int = 100, defaults: SamplingDefaults = NO_DEFAULTS, **fields: Any
) -> SamplingParams:
    return sampling_params(ChatRequest(messages=[], **fields), defaults, room)


def completion(room: int = 100, **fields: Any) -> SamplingParams:
    return sampling_params(CompletionRequest(prompt="x", **fields), NO_DEFAULTS, room)


def refused(**fields: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        chat(**fields)
    assert caught.value.status == 400
    return caught.value


def test_nothing_given_is_the_api_default_and_fills_the_context() -> None:
    assert chat() == SamplingParams(max_tokens=100)


def test_every_field_arrives() -> None:
    fields: dict[str, Any] = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.2,
        "frequency_penalty": 0.3,
        "logit_bias": {5: 1.0},
        "seed": 7,
        "n": 3,
        "min_tokens": 2,
        "ignore_eos": True,
        "include_stop_str_in_output": True,
        "skip_special_tokens": False,
    }
    got = chat(
        **fields, max_tokens=9, stop=["a", "b"], stop_token_ids=[3], logprobs=True, top_logprobs=4
    )
    expected = SamplingParams(
        **fields, max_tokens=9, stop=("a", "b"), stop_token_ids=(3,), logprobs=4
    )
    assert got == expected


def test_stop_may_be_one_string() -> None:
    assert chat(stop="ab").stop == ("ab",)
    assert chat(stop=[]).stop == ()


def test_defaults_come_from_the_configuration_then_the_checkpoint(tmp_path: Path) -> None:
    stated = {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "max_new_tokens": 3}
    (tmp_path / "generation_config.json").write_text(json.dumps(stated))
    defaults = SamplingDefaults.load(SamplingConfig(temperature=0.0, max_tokens=50), tmp_path)
    got = chat(defaults=defaults)
    assert (got.temperature, got.top_k, got.top_p, got.max_tokens) == (0.0, 20, 0.95, 50)
    assert chat(defaults=defaults, temperature=1.5, top_k=0).temperature == 1.5
    assert chat(defaults=defaults, top_k=0).top_k == 0
    assert chat(room=20, defaults=defaults).max_tokens == 20
    assert chat(defaults=defaults, max_tokens=80).max_tokens == 80


def test_all_tokens_in_vllms_words() -> None:
    assert chat(top_k=-1).top_k == 0


def test_a_checkpoint_without_defaults(tmp_path: Path) -> None:
    assert SamplingDefaults.load(SamplingConfig(), tmp_path) == NO_DEFAULTS


def test_a_checkpoint_that_does_not_sample_is_greedy(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"do_sample": false}')
    assert chat(defaults=SamplingDefaults.load(SamplingConfig(), tmp_path)).is_greedy
    warm = SamplingDefaults.load(SamplingConfig(temperature=0.7), tmp_path)
    assert chat(defaults=warm).temperature == 0.7
    assert chat(defaults=warm, temperature=1.0).temperature == 1.0


def test_max_completion_tokens_comes_first() -> None:
    assert chat(max_tokens=5, max_completion_tokens=7).max_tokens == 7


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize(
    ("value", "code"),
    [(101, "context_length_exceeded"), (0, "invalid_value"), (-3, "invalid_value")],
)
def test_explicit_lengths_must_fit(name: str, value: int, code: str) -> None:
    error = refused(**{name: value})
    assert (error.param, error.code) == (name, code)


def test_the_refusal_says_the_numbers() -> None:
    assert (
        "500 tokens do not fit beside the prompt, which leaves 100"
        in refused(max_tokens=500).message
    )


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"n": 0}, "n"),
        ({"stop": [""]}, "stop"),
        ({"stop": ["x"] * 33}, "stop"),
        ({"min_tokens": 5, "max_tokens": 4}, "min_tokens"),
        ({"logit_bias": {1: 300.0}}, "logit_bias"),
        ({"seed": 2**70}, "seed"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
    ],
)
def test_bad_values_name_their_field(fields: dict[str, Any], param: str) -> None:
    assert refused(**fields).param == param


def test_chat_logprobs() -> None:
    assert chat(logprobs=True).logprobs == 0
    assert chat(logprobs=False).logprobs is None
    assert chat(logprobs=True, top_logprobs=20).logprobs == 20
    assert chat(top_logprobs=0).logprobs is None


def test_completion_logprobs_and_echo() -> None:
    assert completion(logprobs=5).logprobs == 5
    assert completion(logprobs=5).prompt_logprobs is None
    assert completion(logprobs=5, echo=True).prompt_logprobs == 5
    assert completion(echo=True).prompt_logprobs is None
    with pytest.raises(ApiError, match="logprobs: must be between"):
        completion(logprobs=50)


def test_no_output_is_allowed_only_for_an_echo() -> None:
    assert completion(max_tokens=0, echo=True).max_tokens == 1
    with pytest.raises(ApiError, match="at least 1"):
        completion(max_tokens=0)
