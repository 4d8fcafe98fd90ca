"""Floors of what was sent, and published figures where they apply."""

import msgspec
import pytest

from benchmarks.service_result import PUBLISHED, published, service_floor
from prelude.bench.floor import floor_of, step_work
from prelude.bench.result import RequestSample, ServeResult
from prelude.conf.load import load_config
from prelude.models.spec import read_spec
from tests.bench_results import PROBE, serve_result

SPEC = read_spec(load_config(["model=qwen3_4b"]).model.hf_config)
TINY = read_spec(load_config(["model=tiny"]).model.hf_config)
# What was measured on an H200 before; bytes and operations are the shape's.
H200 = msgspec.structs.replace(PROBE, device="H200", read_gb_s=4300.0, gemm_gflop_s=790e3)


def answered(prompt_tokens: int, output_tokens: int, count: int = 2) -> ServeResult:
    samples = [
        RequestSample(
            index=index,
            kind="x",
            scheduled_ms=0.0,
            slip_ms=0.0,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
        )
        for index in range(count)
    ]
    return msgspec.structs.replace(serve_result(), samples=samples)


def test_the_floors_of_the_design() -> None:
    floor = service_floor(SPEC, "bfloat16", H200, answered(512, 1), 96)
    assert floor is not None and floor.req_s is not None
    assert floor.first_token_ms == pytest.approx(4.8, abs=0.05)
    assert floor.req_s == pytest.approx(207, abs=2)
    assert floor.token_ms == pytest.approx(1.9, abs=0.03)


def test_a_load_of_one_is_its_latency() -> None:
    floor = service_floor(SPEC, "bfloat16", H200, answered(100, 1), 1)
    assert floor is not None
    assert floor.req_s == pytest.approx(1e3 / floor.first_token_ms)
    assert floor.first_token_ms == floor_of(step_work(SPEC, "bfloat16", [(0, 100)]), H200).ms


@pytest.mark.parametrize(("outputs", "in_flight"), [(5, 4), (1, None)])
def test_no_floor_of_requests_where_prompts_are_not_all(
    outputs: int, in_flight: int | None
) -> None:
    floor = service_floor(SPEC, "bfloat16", H200, answered(100, outputs), in_flight)
    assert floor is not None and floor.req_s is None


def test_nothing_came_back() -> None:
    assert service_floor(SPEC, "bfloat16", H200, answered(0, 0), 1) is None


def test_published_figures_are_of_their_workload_and_shape() -> None:
    rows = published("headline", SPEC, 96)
    assert rows == {
        "Rust Prelude": (186.7, 481.2),
        "vLLM": (134.5, 577.5),
        "SGLang": (151.5, 555.5),
    }
    assert published("headline_ids", SPEC, 1.0)["Rust Prelude"] == (70.5, 15.4)
    assert published("prefill", SPEC, 96) == published("headline", TINY, 96) == {}
    assert published("headline", SPEC, 7) == {}
    assert all(set(rows) == {1, 4, 16, 64, 96, 128} for rows in PUBLISHED.values())
