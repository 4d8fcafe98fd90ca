"""FlashInferAttention on a GPU against the float64 reference: eager, captured, planned again."""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from prelude.kernels.flashinfer import FlashInferAttention, LaunchShape
from tests.kernel_cases import Case, make_case

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.timeout(900),  # without prebuilt kernels the first test compiles them
    pytest.mark.skipif(find_spec("flashinfer") is None, reason="needs FlashInfer"),
    pytest.mark.filterwarnings("ignore"),
]
BLOCK, HEADS, KV_HEADS, HEAD_DIM = 16, 8, 2, 128
MAX_ROWS, MAX_TOKENS, NUM_BLOCKS = 8, 64, 200
SHAPES: tuple[LaunchShape, ...] = (
    ("decode", 8, 8),
    ("decode", 1, 1),
    ("prefill", 64, 4),
)
DTYPE = torch.bfloat16
_cuda: Any = torch.cuda


class Runner:
    """Static buffers and graphs on one stream, as an engine has them."""

    def __init__(self, backend: str) -> None:
        self.device = torch.device("cuda")
        self.stream: Any = _cuda.Stream()
        shape = (MAX_TOKENS, HEADS, HEAD_DIM)
        self.q = torch.zeros(shape, dtype=DTYPE, device=self.device)
        self.out = torch.zeros_like(self.q)
        self.kv = torch.zeros(
            NUM_BLOCKS, 2, BLOCK, KV_HEADS, HEAD_DIM, dtype=DTYPE, device=self.device
        )
        self.graphs: dict[LaunchShape, torch.cuda.CUDAGraph] = {}
        with torch.cuda.stream(self.stream):
            self.attention = FlashInferAttention(
                HEADS,
                KV_HEADS,
                HEAD_DIM,
                BLOCK,
                DTYPE,
                self.device,
                shapes=SHAPES,
                max_rows=MAX_ROWS,
                max_tokens=MAX_TOKENS,
                row_blocks=64,
                prefill_backend=backend,
            )

    def attend(self, num_tokens: int) -> None:
        nothing = torch.empty(0, dtype=torch.int32, device=self.device)
        q, out = self.q[:num_tokens], self.out[:num_tokens]
        scale = HEAD_DIM**-0.5
        self.attention.attend(q, self.kv, nothing, nothing, nothing, scale, 0, out)

    def capture(self, shape: LaunchShape) -> None:
        with torch.cuda.stream(self.stream):
            self.attention.prepare(shape)
            self.attend(shape[1])
            self.stream.synchronize()
            self.graphs[shape] = graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=self.stream):
                self.attend(shape[1])

    def launch(self, case: Case, shape: LaunchShape | None) -> Tensor:
        """Enqueue a step without waiting; returns its output on the device."""
        num_tokens = shape[1] if shape else len(case.q)
        with torch.cuda.stream(self.stream):
            self._load(case)
            cu_q, ctx_lens, tables = (tensor.numpy() for tensor in case.meta[:3])
            torch.cuda.set_sync_debug_mode("error")
            try:
                self.attention.plan(shape, cu_q, ctx_lens, tables)
            finally:
                torch.cuda.set_sync_debug_mode("default")
            if shape in self.graphs:
                self.graphs[shape].replay()
            else:
                self.attend(num_tokens)
            return self.out[:num_tokens].clone()

    def check(self, case: Case, shape: LaunchShape | None = None) -> None:
        self.compare(self.launch(case, shape), case)

    def compare(self, result: Tensor, case: Case) -> None:
        self.stream.synchronize()
        expected = rounded(case).expected()
        got = result[: len(expected)].double().cpu()
        torch.testing.assert_close(got, expected, atol=1e-2, rtol=1e-2)
        assert result.isfinite().all()

    def _load(self, case: Case) -> None:
        self._send(self.q, case.q)
        self.out.fill_(torch.nan)
        self.kv.fill_(torch.nan)
        self.kv[0] = 0.0
        kv, slots = case.kv.clone(), case.meta.slot_mapping
        kv[slots // BLOCK, 0, slots % BLOCK] = case.k
        kv[slots // BLOCK, 1, slots % BLOCK] = case.v
        self._send(self.kv, kv)

    def _send(self, target: Tensor, source: Tensor) -> None:
        target[: len(source)].copy_(source.to(DTYPE).pin_memory(), non_blocking=True)


def rounded(case: Case) -> Case:
    """What the device sees of it."""
    q, k, v, kv = (tensor.to(DTYPE).float() for tensor in (case.q, case.k, case.v, case.kv))
    return Case(q, k, v, kv, case.meta, case.scale, case.window)


def new_case(rows: list[tuple[int, int]], seed: int = 0) -> Case:
    options = {"kv_heads": KV_HEADS, "group": HEADS // KV_HEADS, "head_dim": HEAD_DIM}
    return make_case(rows, block=BLOCK, seed=seed, **options)


@pytest.fixture(scope="module", params=["fa2", "fa3"])
def runner(request: pytest.FixtureRequest) -> Iterator[Runner]:
    if request.param == "fa3":
        if torch.cuda.get_device_capability()[0] != 9:
            pytest.skip("fa3 needs Hopper")
        if find_spec("flashinfer_jit_cache") is None:
            pytest.skip("fa3 is not prebuilt and takes minutes to compile")
    runner = Runner(request.param)
    for shape in SHAPES:
        runner.capture(shape)
    yield runner


@pytest.mark.parametrize("rows", [[(40, 0)], [(5, 30), (17, 0), (1, 90)], [(1, 15), (1, 16)]])
def test_launches_of_any_size(runner: Runner, rows: list[tuple[int, int]]) -> None:
    runner.check(new_case(rows))


@pytest.mark.parametrize("rows", [[(64, 0)], [(30, 40), (20, 0)], [(16, 16)] * 4, [(1, 300)]])
def test_captured_prefill_is_planned_again(runner: Runner, rows: list[tuple[int, int]]) -> None:
    for seed in range(2):
        runner.check(new_case(rows, seed), ("prefill", 64, 4))


def test_captured_decode_crosses_pages_and_chunks(runner: Runner) -> None:
    rng = np.random.default_rng(0)
    for seed, longest in enumerate((1, 16, 17, 128, 129, 300)):
        rows = [(1, int(rng.integers(0, longest))) for _ in range(MAX_ROWS)]
        runner.check(new_case(rows, seed), ("decode", 8, 8))
        runner.check(new_case(rows[:5], seed), ("decode", 8, 8))


def test_steps_may_be_enqueued_behind_each_other(runner: Runner) -> None:
    cases = [new_case([(1, 3 + 8 * step)], step) for step in range(12)]
    with torch.cuda.stream(runner.stream):
        _cuda._sleep(200_000_000)  # the device is far behind the host
    results = [runner.launch(case, ("decode", 1, 1)) for case in cases]
    for case, result in zip(cases, results, strict=True):
        runner.compare(result, case)
