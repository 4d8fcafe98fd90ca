"""The floor: bytes and operations counted by hand on small shapes, and on a published one."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelude.bench.floor import Work, floor_of, step_work
from prelude.bench.result import Probe
from prelude.conf.load import load_config
from prelude.models.spec import ModelSpec, read_spec
from tests.bench_results import PROBE


def spec_of(model: str) -> ModelSpec:
    return read_spec(load_config([f"model={model}"]).model.hf_config)


TINY = spec_of("tiny")
QWEN = spec_of("qwen3_0_6b")
ROWS = st.lists(st.tuples(st.integers(0, 500), st.integers(1, 64)), min_size=1, max_size=8)


def test_a_decode_row_reads_every_weight_once() -> None:
    work = step_work(TINY, "float32", [(0, 1)])
    kv_bytes = 2 * 2 * 2 * 16 * 4  # k and v, layers, heads, dim, fp32
    norms = TINY.hidden_size  # the last norm is no matrix; the floor leaves it out
    assert work.num_bytes == (TINY.num_params - norms) * 4 + kv_bytes


def test_untied_embeddings_are_only_looked_up() -> None:
    tied = step_work(TINY, "float32", [(0, 1)])
    untied = step_work(replace(TINY, tie_embeddings=False), "float32", [(0, 1)])
    assert tied == untied


def test_operations_of_a_prompt() -> None:
    work = step_work(TINY, "float32", [(0, 3)])
    layers, head = 2 * TINY.num_layer_params, 4096 * 64
    attention = 4 * 2 * 64 * (1 + 2 + 3)  # scores and values, layers, query size, pairs
    assert work.flops == 2 * layers * 3 + 2 * head + attention


def test_context_costs_bytes_and_pairs() -> None:
    near, far = (step_work(TINY, "float32", [(start, 1)]) for start in (0, 100))
    assert far.num_bytes - near.num_bytes == 100 * TINY.kv_bytes_per_token(4)
    assert far.flops - near.flops == 4 * 2 * 64 * 100


def test_half_the_bytes_in_16_bits() -> None:
    rows = [(10, 1), (20, 1)]
    wide, narrow = (step_work(TINY, dtype, rows) for dtype in ("float32", "bfloat16"))
    assert wide.num_bytes == 2 * narrow.num_bytes
    assert wide.flops == narrow.flops


@given(ROWS, ROWS)
def test_rows_add_work_but_share_the_weights(
    first: list[tuple[int, int]], more: list[tuple[int, int]]
) -> None:
    alone, together = (step_work(TINY, "float32", rows) for rows in (first, first + more))
    other = step_work(TINY, "float32", more)
    assert together.flops == pytest.approx(alone.flops + other.flops)
    assert alone.num_bytes < together.num_bytes < alone.num_bytes + other.num_bytes


def test_the_floors_of_the_design() -> None:
    """Qwen3-0.6B in fp32 at 30 GB/s and 177 GFLOP/s: 12.6 tok/s alone, about 200 in a prompt."""
    alone = floor_of(step_work(QWEN, "float32", [(0, 1)]), PROBE)
    assert alone.bound == "memory"
    assert 1e3 / alone.ms == pytest.approx(12.6, rel=0.01)
    prompt = floor_of(step_work(QWEN, "float32", [(0, 512)]), PROBE)
    assert prompt.bound == "compute"
    assert 512e3 / prompt.ms == pytest.approx(190, rel=0.06)


@given(st.floats(1, 1e12), st.floats(1, 1e15), st.floats(1, 5000), st.floats(1, 1e6))
def test_the_slower_roof_binds(num_bytes: float, flops: float, read: float, gemm: float) -> None:
    probe = Probe("cpu", 1, "float32", read, gemm, PROBE.quiet)
    floor = floor_of(Work(num_bytes, flops), probe)
    memory_s, compute_s = num_bytes / (read * 1e9), flops / (gemm * 1e9)
    assert floor.ms == pytest.approx(1e3 * max(memory_s, compute_s))
    slower = memory_s if floor.bound == "memory" else compute_s
    assert slower == pytest.approx(max(memory_s, compute_s))
