"""``prelude bench engine`` on a tiny real model: what it builds, what it reports."""

import json
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from prelude.bench import engine
from prelude.bench.engine import run, sized, validate
from prelude.bench.floor import floor_of, step_work
from prelude.bench.result import EngineResult, Probe, decode
from prelude.conf.bench import EngineBenchConfig, EngineWorkload
from prelude.conf.command import BENCH_ENGINE
from prelude.conf.load import load
from prelude.models.spec import read_spec
from tests.bench_results import PROBE


def config(*overrides: str) -> EngineBenchConfig:
    base = ["model=tiny", "runner.threads=1", "graphs.capture=eager", "bench.frontend_tokens=0"]
    small = ["bench.batches=[1,2]", "bench.contexts=[8]", "bench.prefills=[12]", "bench.steps=3"]
    command = [*base, *small, "bench.repeats=2", "bench.warmup=1", *overrides]
    return load(BENCH_ENGINE, EngineBenchConfig, command)


@pytest.fixture(autouse=True)
def quick_probe(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, str]]:
    asked: list[tuple[str, int, str]] = []

    def probe(*args: Any) -> Any:
        asked.append(args)
        return PROBE

    monkeypatch.setattr(engine, "probe_apart", probe)
    torch.set_num_threads(1)
    return asked


def test_the_engine_is_made_large_enough() -> None:
    made = sized(config("bench.batches=[1,100]", "bench.prefills=[3000]"))
    assert made.runner.max_seqs == 100
    assert made.batcher.max_step_tokens == 3000
    assert made.batcher.step_ms == made.batcher.idle_step_ms == engine.UNLIMITED_MS
    assert not made.graphs.background, "eager code must not be timed while programs compile"
    # 100 rows of 8 tokens of context and 2 * (1 + 3) + 2 of growth, in blocks of 16
    assert made.cache.num_blocks == 100 * 2 + 2


def test_the_longest_prompt_decides_where_batches_are_small() -> None:
    assert sized(config("bench.prefills=[1600]")).cache.num_blocks == 102


def test_long_prompts_come_in_chunks_and_rows_grow_meanwhile() -> None:
    made = sized(config("bench.batches=[4]", "bench.contexts=[100]", "bench.step_tokens=64"))
    assert made.batcher.max_step_tokens == 512, "the configuration's own, if that is more"
    assert made.cache.num_blocks == 4 * -(-(100 + 4 + 2 + 7) // 16) + 2
    assert sized(config("bench.prefills=[20000]")).batcher.max_step_tokens == 16384


def test_a_chosen_cache_is_kept() -> None:
    assert sized(config("cache.num_blocks=64")).cache.num_blocks == 64
    assert sized(config("cache.memory_gib=0.1")).cache.num_blocks is None


def test_only_what_is_needed_changes() -> None:
    original = config()
    made = sized(original)
    assert not made.batcher.use.split and original.batcher.use.split
    use = original.batcher.use
    assert replace(made.batcher, step_ms=0, idle_step_ms=0, headroom=0, use=use) == replace(
        original.batcher, step_ms=0, idle_step_ms=0, headroom=0
    )
    assert (made.model, made.bench) == (original.model, original.bench)


def test_a_run_end_to_end(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    quick_probe: list[tuple[str, int, str]],
) -> None:
    path = tmp_path / "result.json"
    document = run(config(f"bench.result={path}"))
    captured = capsys.readouterr()
    assert json.loads(captured.out.splitlines()[-1]) == json.loads(path.read_text()) == document
    assert "decode 2" in captured.err
    assert quick_probe == [("cpu", 1, "float32")]
    result = decode(path.read_bytes())
    assert isinstance(result, EngineResult)
    shapes = [(timing.kind, timing.batch, timing.tokens) for timing in result.timings]
    assert shapes == [("prefill", 1, 12), ("decode", 2, 2), ("decode", 1, 1)]
    assert [len(timing.samples_ms) for timing in result.timings] == [2, 3, 3]
    assert result.skipped == []
    assert result.model == "tiny"
    assert result.startup_s
    assert result.frontend_us_token is None
    assert result.environment.probe == PROBE


def test_the_floor_is_the_probed_machines(capsys: pytest.CaptureFixture[str]) -> None:
    settings = config()
    result = decode(json.dumps(run(settings)))
    assert isinstance(result, EngineResult)
    timing = result.timings[-1]
    spec = read_spec(settings.model.hf_config)
    work = step_work(spec, "float32", [(timing.context, 1)])
    least = floor_of(work, PROBE)
    assert timing.floor is not None
    assert timing.floor.ms == pytest.approx(least.ms)
    assert timing.floor.share == pytest.approx(least.ms / timing.step_ms.p50.value)
    assert timing.tok_s == pytest.approx(1e3 / timing.step_ms.p50.value)
    assert timing.work_mib == pytest.approx(work.num_bytes / 2**20)


def test_each_step_is_held_against_the_roof_of_its_moment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = count(1)

    class Roof:
        def __init__(self, device: str, dtype: str) -> None:
            assert (device, dtype) == ("cpu", "float32")

        def of_now(self, probe: Probe) -> Probe:
            return msgspec.structs.replace(probe, read_gb_s=0.1 * next(rates))

    monkeypatch.setattr(engine, "Roof", Roof)
    result = decode(json.dumps(run(config("bench.paired=true", "bench.prefills=[]"))))
    assert isinstance(result, EngineResult)
    four, one = result.timings
    assert four.floor is not None and one.floor is not None
    assert (four.floor.bound, one.floor.bound) == ("memory", "memory")
    floors = [one.work_mib * 2**20 / (i * 1e8) * 1e3 for i in (4, 5, 6)]
    shares = sorted(floor / ms for floor, ms in zip(floors, one.samples_ms, strict=True))
    assert one.floor.ms == pytest.approx(floors[1])
    assert one.floor.share == pytest.approx(shares[1])


def test_without_a_probe_there_is_no_floor(
    capsys: pytest.CaptureFixture[str], quick_probe: list[tuple[str, int, str]]
) -> None:
    overrides = ["bench.probe=false", "bench.batches=[]", "bench.prefills=[4]"]
    result = decode(json.dumps(run(config(*overrides))))
    assert isinstance(result, EngineResult)
    assert [timing.floor for timing in result.timings] == [None]
    assert quick_probe == []
    assert "prefill 4" in capsys.readouterr().err


def test_the_front_end_is_priced_with_the_models_tokenizer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def price(num_tokens: int, **options: Any) -> float:
        asked.append((num_tokens, options))
        return 12.5

    monkeypatch.setattr(engine, "frontend_us_per_token", price)
    overrides = ["bench.frontend_tokens=100", "bench.contexts=[]", "bench.prefills=[4]"]
    document = run(config(*overrides, "bench.probe=false", "bench.max_s=9"))
    assert document["frontend_us_token"] == 12.5
    assert asked == [(100, {"max_s": 9.0, "tokenizer": "demo"})]
    assert "12.5 us of a core per streamed token" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"batches": [1, 0]}, "batches"),
        ({"contexts": [-1]}, "contexts"),
        ({"prefills": [0]}, "prefills"),
        ({"steps": 0}, "steps"),
        ({"step_tokens": 0}, "step_tokens"),
        ({"repeats": 0}, "repeats"),
        ({"warmup": -1}, "warmup"),
        ({"frontend_tokens": -1}, "frontend_tokens"),
        ({"paired": True, "probe": False}, "paired"),
        ({"max_s": 0.0}, "max_s"),
        ({"max_s": float("inf")}, "max_s"),
        ({"max_s": float("nan")}, "max_s"),
    ],
)
def test_bounds(changes: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=rf"bench\.{name}"):
        validate(EngineWorkload(**changes))
