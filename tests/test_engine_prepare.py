"""What a start refuses before it loads anything, and what it derives from the device."""

import pytest
import torch

from prelude.conf.load import load_config
from prelude.engine.build import build_engine
from prelude.engine.cuda import _attention, _buckets
from prelude.engine.prepare import Model, resolve
from prelude.engine.profile import ProfileRecord
from prelude.engine.startup import Startup

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def start() -> Startup:
    return Startup(lambda phase, fraction: None)


@without_gpu
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["runner.device=cuda"], "finds no GPU; install a CUDA build"),
        (["graphs.capture=cuda"], "on CUDA only; set graphs.capture=auto"),
        (["attention.backend=triton"], "'triton' is not one of auto, cpu, torch"),
        (["model.dtype=bfloat16"], "on CPU the math is float32"),
    ],
)
def test_what_this_machine_cannot_do_is_said(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_engine(load_config(["model=tiny", *overrides]))


def cuda_model(monkeypatch: pytest.MonkeyPatch, *overrides: str) -> Model:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return resolve(load_config(["model=tiny", *overrides]), start())


def test_on_a_gpu_the_type_is_the_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    model = cuda_model(monkeypatch)
    assert model.device.type == "cuda"
    assert str(model.dtype) == f"torch.{model.spec.dtype}"
    assert cuda_model(monkeypatch, "model.dtype=float16").dtype == torch.float16
    assert cuda_model(monkeypatch, "runner.device=cpu").device.type == "cpu"
    with pytest.raises(ValueError, match="on CPU only"):
        cuda_model(monkeypatch, "model.weights=int8")


def test_attention_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    model = cuda_model(monkeypatch)
    for backend, message in (("cpu", "not on CUDA"), ("torch", "not on CUDA")):
        with pytest.raises(ValueError, match=message):
            _attention(load_config([f"attention.backend={backend}"]), model)
    config = load_config(["attention.backend=flashinfer", "runner.batch_invariant=true"])
    with pytest.raises(ValueError, match="triton only"):
        _attention(config, model)
    assert _attention(load_config(["attention.backend=triton"]), model).value == "triton"
    assert _attention(load_config(["runner.batch_invariant=true"]), model).value == "triton"


TINY = ["model=tiny", "runner.device=cpu", "graphs.capture=eager", "cache.num_blocks=64"]


@pytest.mark.parametrize("overlap", ["never", "always"])
def test_a_start_says_what_host_memory_there_is(overlap: str) -> None:
    config = load_config([*TINY, "cache.host_gib=0.01", f"runner.overlap={overlap}"])
    core, info = build_engine(config)
    num_blocks = core.runner.num_host_blocks
    assert core.ledger.num_free_host_blocks == num_blocks > 0
    rule = info.rules["host KV blocks"]
    assert rule.startswith(f"{num_blocks}, 0.01 GiB, ") and "(cache.host_gib)" in rule
    assert core.runner.swap_ms > 0.0
    core.close()


def test_host_memory_is_not_taken_where_nobody_would_use_it() -> None:
    core, info = build_engine(load_config([*TINY, "cache.host_gib=0.01", "batcher.use.swap=false"]))
    assert core.runner.num_host_blocks == 0
    assert info.rules["host KV blocks"] == "none (batcher.use.swap=false)"
    core.close()
    core, info = build_engine(load_config(TINY))
    assert core.runner.num_host_blocks == 0 and "host KV blocks" not in info.rules
    core.close()


def test_more_host_memory_than_there_is_does_not_start() -> None:
    with pytest.raises(ValueError, match=r"swapped KV|cache.host_gib"):
        build_engine(load_config([*TINY, "cache.host_gib=100000"]))


def test_a_gpu_of_its_own_has_host_memory_too() -> None:
    assert load_config(["preset=cuda"]).cache.host_gib == 8.0
    assert load_config([]).cache.host_gib == 0.0


def test_buckets_are_configured_or_learned() -> None:
    said = start()
    config = load_config(["graphs.decode_buckets=[1,7]", "batcher.max_step_tokens=256"])
    found = _buckets(config, ProfileRecord(prefill={100: 50}), said)
    assert found.decode == (1, 7)
    assert {100, 256} <= set(found.prefill)
    assert found.max_rows == config.runner.max_seqs
    assert "fit to past launches" in said.rules["prefill tokens"]
    assert _buckets(load_config([]), ProfileRecord(), start()).prefill[-1] == 512
