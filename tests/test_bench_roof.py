"""The roof of the comparison's task, by hand, and the shares of it."""

from dataclasses import asdict

import msgspec
import pytest

from benchmarks.peers.checkpoint import shape_of
from benchmarks.peers.roof import PHASES, better, roof_shares, roof_tok_s
from benchmarks.peers.task import Task
from prelude.models.spec import read_spec
from tests.bench_results import PROBE, peer_run

SPEC = read_spec(shape_of("qwen3_0_6b"))
TASK = Task()
NUM_VALUES = SPEC.num_layers * SPEC.num_layer_params + SPEC.vocab_size * SPEC.hidden_size


def test_one_stream_reads_the_weights_and_its_context() -> None:
    kv = (TASK.prompt_len + TASK.decode_len // 2 + 1) * SPEC.kv_bytes_per_token(4)
    for size in (4.0, 1.0):
        expected = PROBE.read_gb_s * 1e9 / (NUM_VALUES * size + kv)
        assert roof_tok_s(SPEC, TASK, PROBE, size)["decode"] == pytest.approx(expected)


def test_a_long_prompt_is_arithmetic_whatever_the_weights_take() -> None:
    full, packed = (roof_tok_s(SPEC, TASK, PROBE, size)["prefill"] for size in (4.0, 1.0))
    assert full == packed == pytest.approx(177e9 / (2 * 440e6), rel=0.1)


def test_streams_include_their_prompts() -> None:
    short, long = Task(prompt_len=8), Task(prompt_len=256)
    assert (
        roof_tok_s(SPEC, long, PROBE, 4.0)["streams"]
        < 0.5 * roof_tok_s(SPEC, short, PROBE, 4.0)["streams"]
    )


def test_shares_are_of_the_better_probe_around_the_run() -> None:
    roof = roof_tok_s(SPEC, TASK, PROBE, 4.0)
    faster = msgspec.structs.replace(PROBE, read_gb_s=60.0, gemm_gflop_s=354.0)
    rates = {f"{phase}_tok_s": rate for phase, rate in roof.items()}
    runs = [msgspec.structs.replace(peer_run("vllm", turn), **rates) for turn in (0, 1)]
    shares = roof_shares(runs, SPEC, TASK, [PROBE, PROBE, faster])
    assert list(shares) == ["vllm"] and tuple(shares["vllm"]) == PHASES
    assert all(share == pytest.approx(0.75) for share in shares["vllm"].values()), "of 1 and 1/2"


def test_the_better_of_two_probes_is_the_better_of_each() -> None:
    other = msgspec.structs.replace(PROBE, read_gb_s=20.0, gemm_gflop_s=200.0)
    both = better(PROBE, other)
    assert (both.read_gb_s, both.gemm_gflop_s) == (30.0, 200.0)


def test_the_default_task_is_the_published_one() -> None:
    lengths = asdict(TASK)
    assert (lengths["prefill_len"], lengths["streams"], lengths["decode_len"]) == (512, 16, 32)
