"""Every workload that is shipped composes, is bounded, and draws requests."""

import json
from pathlib import Path

import pytest

from benchmarks.demo_prompts import lines
from prelude.bench.engine import sized, validate
from prelude.bench.serve import validate as validate_serve
from prelude.bench.workload import Workload, request_body
from prelude.conf.bench import Arrival, Endpoint, EngineBenchConfig, ServeBenchConfig
from prelude.conf.command import BENCH_ENGINE, BENCH_SERVE
from prelude.conf.load import load

FOLDER = Path(__file__).parents[1] / "conf" / "bench"
SERVE = sorted(path.stem for path in (FOLDER / "serve").glob("*.yaml"))
ENGINE = sorted(path.stem for path in (FOLDER / "engine").glob("*.yaml"))


def serve(name: str, *overrides: str) -> ServeBenchConfig:
    return load(BENCH_SERVE, ServeBenchConfig, [f"workload={name}", *overrides])


def engine(name: str) -> EngineBenchConfig:
    return load(BENCH_ENGINE, EngineBenchConfig, [f"workload={name}", "model=tiny"])


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines(30)))
    return path


@pytest.mark.parametrize("name", [name for name in SERVE if name != "demo"])
def test_serve_workloads_draw_their_requests(name: str) -> None:
    config = serve(name)
    validate_serve(config)
    drafts = Workload(config).drafts()
    assert len(drafts) == config.num_requests
    for traffic in config.classes.values():
        targets = (traffic.slo.ttft_ms, traffic.slo.tpot_ms, traffic.slo.e2e_ms)
        assert any(targets), "a class without a target has no goodput"
    body = request_body(drafts[0], config, "tiny")
    assert body["max_tokens"] >= 1


def test_the_mix_has_three_classes_in_their_proportions() -> None:
    config = serve("mix", "num_requests=2000")
    kinds = [draft.kind for draft in Workload(config).drafts()]
    assert kinds.count("chat") / 2000 == pytest.approx(0.75, abs=0.04)
    assert kinds.count("doc") / 2000 == pytest.approx(0.03, abs=0.02)
    assert config.burstiness == pytest.approx(1 / 9, rel=0.02), "coefficient of variation 3"


def lengths_of(name: str) -> list[int]:
    config = serve(name)
    assert (config.arrival, config.concurrency) == (Arrival.closed, 96)
    drafts = Workload(config).drafts()
    assert {draft.max_tokens for draft in drafts} == {1}
    return [len(draft.prompt.content) for draft in drafts]


def test_the_headline_is_the_published_workload() -> None:
    config = serve("headline")
    assert (config.num_requests, config.warmup, config.keepalive) == (200, 5, False)
    lengths = lengths_of("headline")
    assert 512 <= min(lengths) <= max(lengths) <= 768


def test_the_headline_in_ids_has_the_published_token_count() -> None:
    lengths = lengths_of("headline_ids")
    assert sum(lengths) / len(lengths) == pytest.approx(474.5, rel=0.02)
    assert serve("headline_ids").keepalive is False


def test_prefill_services() -> None:
    assert set(lengths_of("prefill")) == {512}
    lengths = lengths_of("prefill_uniform")
    assert sum(lengths) / len(lengths) == pytest.approx(512, rel=0.05)
    assert serve("prefill").num_requests % 96 == 0, "no under-filled last wave"


def test_the_prefix_is_shared_by_all() -> None:
    prefixes = {str(draft.prompt.prefix) for draft in Workload(serve("prefix")).drafts()}
    assert len(prefixes) == 1
    assert next(iter(prefixes)).count(" ") == 3072


def test_the_demo_needs_its_file() -> None:
    with pytest.raises(ValueError, match=r"classes\.demo\.path"):
        Workload(serve("demo"))


def test_the_demo_asks_held_out_questions(prompts: Path) -> None:
    config = serve("demo", f"classes.demo.path={prompts}", "num_requests=30")
    drafts = Workload(config).drafts()
    assert config.endpoint is Endpoint.chat and not config.ignore_eos
    for draft in drafts:
        body = request_body(draft, config, "demo")
        assert body["messages"][-1]["role"] == "user"
        assert body["max_tokens"] == 256
        assert "ignore_eos" not in body


def test_demo_prompts_repeat_with_their_seed() -> None:
    assert lines(20) == lines(20) != lines(20, seed=1)
    assert [line["max_tokens"] for line in lines(2, max_tokens=7)] == [7, 7]


@pytest.mark.parametrize("name", ENGINE)
def test_engine_workloads_fit_the_engine_they_size(name: str) -> None:
    config = engine(name)
    validate(config.bench)
    made = sized(config)
    batch, context = max(config.bench.batches, default=1), max(config.bench.contexts, default=0)
    assert made.runner.max_seqs >= batch
    assert made.cache.num_blocks is not None
    tokens = made.cache.num_blocks * made.cache.block_size
    assert tokens >= batch * context
    longest = max(config.bench.prefills, default=0)
    assert tokens >= longest
    assert made.batcher.max_step_tokens >= min(longest, config.bench.step_tokens)
