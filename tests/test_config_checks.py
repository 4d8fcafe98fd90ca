"""Ranges and cross-field rules."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelude.conf.checks import check_config
from prelude.conf.load import load_config
from prelude.conf.schema import Config, LoadFormat


def changed(name: str, value: Any, base: Config | None = None) -> Config:
    found: Config = _changed(base or Config(), name, value)
    return found


def _changed(part: Any, name: str, value: Any) -> Any:
    first, _, rest = name.partition(".")
    return replace(part, **{first: _changed(getattr(part, first), rest, value) if rest else value})


def refusal(config: Config) -> str:
    with pytest.raises(ValueError) as caught:
        check_config(config)
    return str(caught.value)


def test_the_defaults_pass() -> None:
    check_config(Config())


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("model.path", ["demo", "/x"], [""]),
        ("model.max_len", [None, 1, 10**6], [0, -1]),
        ("runner.threads", [None, 1, 64], [0, -2]),
        ("runner.max_seqs", [1, 4096], [0, 4097]),
        ("cache.block_size", [1, 2, 16, 256], [0, -16, 3, 24, 512]),
        ("cache.num_blocks", [None, 2, 10**6], [0, 1]),
        ("cache.memory_gib", [None, 0.1, 64.0], [0.0, -1.0, float("nan")]),
        ("cache.max_gib", [0.5], [0.0, -1.0]),
        ("cache.memory_fraction", [0.01, 1.0], [0.0, 1.01, -0.5, float("nan")]),
        ("batcher.max_step_tokens", [16, 8192], [0, -1]),
        ("batcher.min_chunk", [1, 512], [0, 513]),
        ("batcher.step_ms", [0.1], [0.0, -1.0]),
        ("batcher.idle_step_ms", [0.1], [0.0]),
        ("batcher.max_bypass", [0, 5], [-1]),
        ("batcher.max_waiting", [1], [0]),
        ("batcher.fair_ms", [None, 0.1], [0.0, -1.0]),
        ("batcher.classes.batch.max_waiting", [None, 1], [0, -1]),
        ("sampling.temperature", [None, 0.0, 100.0], [-0.1, 101.0, float("nan")]),
        ("sampling.top_p", [None, 0.1, 1.0], [0.0, 1.1]),
        ("sampling.top_k", [None, 0, 50], [-1]),
        ("sampling.min_p", [None, 0.0, 1.0], [-0.1, 1.1]),
        ("sampling.repetition_penalty", [None, 1.0, 10.0], [0.0, 11.0]),
        ("sampling.max_tokens", [None, 1], [0]),
        ("cache.host_gib", [0.0, 0.5, 64.0], [-0.1]),
        ("server.host", ["0.0.0.0", "::1"], [""]),
        ("server.port", [0, 1, 65535], [-1, 65536]),
        ("server.drain_s", [0.0, 3.0], [-1.0]),
        ("server.ping_s", [0.1], [0.0]),
        ("server.send_timeout_s", [0.1], [0.0]),
        ("server.max_body_mib", [0.1], [0.0]),
        ("server.resume_s", [0.0, 30.0], [-1.0]),
        ("server.resume_mib", [0.1], [0.0]),
        ("server.supervisor.max_restarts", [0, 1000], [-1]),
        ("server.supervisor.window_s", [1.0], [0.0]),
        ("server.supervisor.backoff_s", [0.0, 9.0], [-0.1]),
        ("server.supervisor.hang_s", [0.0, 5.0], [-1.0, 4.9]),
        ("server.limits.requests_per_min", [None, 1], [0, -1]),
        ("server.limits.max_cost_ms", [None, 0.5], [0.0]),
        ("server.limits.max_connections", [1], [0]),
        ("server.limits.read_timeout_s", [0.1], [0.0]),
        ("server.tracing.sample", [0.0, 1.0], [-0.1, 1.1]),
        ("server.tracing.endpoint", [None, "http://x:4318/v1/traces"], ["x:4318", "grpc://x"]),
        ("server.admin.port", [None, 0, 9001], [-1, 65536, 8000]),
    ],
)
def test_ranges(name: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        check_config(changed(name, value))
    for value in bad:
        text = refusal(changed(name, value))
        assert text.startswith(f"{name}={value}: must be ")
        assert "\n" not in text


def test_the_pools_size_is_said_once() -> None:
    config = changed("cache.memory_gib", 1.0, changed("cache.num_blocks", 8))
    assert refusal(config) == (
        "cache.num_blocks and cache.memory_gib: both set; set at most one of them"
    )


def test_origins_are_origins() -> None:
    check_config(changed("server.cors.origins", ["https://a.example", "http://b:1", "*"]))
    for bad in ("a.example", "https://a.example/", "ftp://a", ""):
        assert "such as https://chat.example.com" in refusal(changed("server.cors.origins", [bad]))


def test_a_certificate_has_its_key() -> None:
    config = changed("server.tls.cert", "cert.pem")
    assert refusal(config) == "server.tls.cert and server.tls.key: set both or neither"
    check_config(changed("server.tls.key", "key.pem", config))


def test_a_chunk_fits_into_a_step() -> None:
    config = changed("batcher.max_step_tokens", 8)
    assert "no more than batcher.max_step_tokens=8" in refusal(config)


def test_random_weights_need_a_shape_and_a_shape_needs_random_weights() -> None:
    random = changed("model.load_format", LoadFormat.random)
    assert "model.hf_config" in refusal(random)
    check_config(changed("model.hf_config", {"hidden_size": 8}, random))
    assert "load_format=random" in refusal(changed("model.hf_config", {"hidden_size": 8}))


@given(st.integers(-10, 600))
def test_block_sizes_are_powers_of_two(size: int) -> None:
    config = changed("cache.block_size", size)
    if size in {1, 2, 4, 8, 16, 32, 64, 128, 256}:
        check_config(config)
    else:
        assert "a power of two" in refusal(config)


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_no_strange_number_passes_as_a_fraction(value: float) -> None:
    config = changed("cache.memory_fraction", value)
    if 0 < value <= 1:
        check_config(config)
    else:
        assert refusal(config)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("graphs.decode_buckets=[4,2]", "increasing sizes from 1 to 64"),
        ("graphs.decode_buckets=[1,128]", "increasing sizes from 1 to 64"),
        ("graphs.prefill_buckets=[]", "increasing sizes from 1 to 512"),
        ("graphs.prefill_buckets=[0,8]", "increasing sizes from 1 to 512"),
    ],
)
def test_buckets_increase_and_fit(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_config([override])
    assert load_config(["graphs.decode_buckets=[1,4]"]).graphs.decode_buckets == [1, 4]
