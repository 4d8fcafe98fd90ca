"""Launches through FlashInferAttention on a fake device, checked against the reference.

The scenarios here run with the double of FlashInfer (``test_flashinfer``) and with the real
package's wrappers and planners (``flashinfer_native``).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prelude.kernels.flashinfer import FlashInferAttention, LaunchShape
from tests.fake_device import FakeDevice, Work
from tests.kernel_cases import Case, make_case

BLOCK, KV_HEADS, HEAD_DIM = 8, 2, 64
ROW_BLOCKS, MAX_ROWS, MAX_TOKENS = 6, 6, 32
LONGEST = ROW_BLOCKS * BLOCK
DECODES = tuple(("decode", rows, rows) for rows in (1, 2, 6))
PREFILLS = (("prefill", 32, 4), ("prefill", 16, 2))
SHAPES: tuple[LaunchShape, ...] = (*DECODES, *PREFILLS)
Rows = Sequence[tuple[int, int]]


@dataclass
class Rig:
    """An engine's view of the backend: static buffers, one stream, graphs by shape and window."""

    device: FakeDevice
    attention: FlashInferAttention
    group: int
    graphs: dict[tuple[LaunchShape, int], list[Work]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        num_blocks = 1 + MAX_ROWS * ROW_BLOCKS
        self.q = torch.zeros(MAX_TOKENS, self.group * KV_HEADS, HEAD_DIM, dtype=torch.float16)
        self.out = torch.full_like(self.q, torch.nan)
        self.kv = torch.zeros(num_blocks, 2, BLOCK, KV_HEADS, HEAD_DIM, dtype=torch.float16)

    def case(self, rows: Rows, window: int = 0, seed: int = 0) -> Case:
        return make_case(
            rows,
            block=BLOCK,
            kv_heads=KV_HEADS,
            group=self.group,
            head_dim=HEAD_DIM,
            window=window,
            seed=seed,
        )

    def attend(self, case: Case, num_tokens: int) -> None:
        meta = (case.meta.cu_q, case.meta.ctx_lens, case.meta.block_tables)
        self.attention.attend(
            self.q[:num_tokens], self.kv, *meta, case.scale, case.window, self.out[:num_tokens]
        )

    def capture(self, shape: LaunchShape, window: int = 0) -> None:
        self.attention.prepare(shape)
        with self.device.stream.capture() as graph:
            self.attend(self.case([(1, 0)], window), shape[1])
        self.graphs[shape, window] = graph

    def launch(self, case: Case, shape: LaunchShape | None) -> list[Tensor]:
        """Enqueue a step. The returned list gets its output once the stream has come there."""
        num_tokens = shape[1] if shape else len(case.q)
        self.device.stream.enqueue(lambda: self._load(case))
        cu_q, ctx_lens, tables = (t.numpy().copy() for t in case.meta[:3])
        self.attention.plan(shape, cu_q, ctx_lens, tables)
        for array in (cu_q, ctx_lens, tables):
            array[...] = 99  # the caller's again
        if shape and (shape, case.window) in self.graphs:
            self.device.stream.replay(self.graphs[shape, case.window])
        else:
            self.attend(case, num_tokens)
        result: list[Tensor] = []
        self.device.stream.enqueue(lambda: result.append(self.out[:num_tokens].clone()))
        return result

    def check(self, case: Case, shape: LaunchShape | None = None) -> None:
        result = self.launch(case, shape)
        self.device.stream.drain()
        assert_matches(result[0], case)

    def _load(self, case: Case) -> None:
        self.q[: len(case.q)] = case.q
        self.out.fill_(torch.nan)
        self.kv.fill_(torch.nan)
        self.kv[0] = 0.0
        self.kv[: len(case.kv)] = case.kv
        slots = case.meta.slot_mapping
        self.kv[slots // BLOCK, 0, slots % BLOCK] = case.k.half()
        self.kv[slots // BLOCK, 1, slots % BLOCK] = case.v.half()


def assert_matches(result: Tensor, case: Case) -> None:
    expected = case.expected()
    torch.testing.assert_close(result[: len(expected)].double(), expected, atol=4e-3, rtol=4e-3)
    assert result.isfinite().all(), "padding must not become NaN"


def new_attention(**changes: Any) -> FlashInferAttention:
    options: dict[str, Any] = {
        "num_heads": 4 * KV_HEADS,
        "num_kv_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "block_size": BLOCK,
        "dtype": torch.float16,
        "device": torch.device("cpu"),
        "shapes": SHAPES,
        "max_rows": MAX_ROWS,
        "max_tokens": MAX_TOKENS,
        "row_blocks": ROW_BLOCKS,
    }
    return FlashInferAttention(**options | changes)


def random_rows(rng: np.random.Generator, num_rows: int, num_tokens: int) -> list[tuple[int, int]]:
    """Ragged rows of at most ``num_tokens`` new tokens, some of none."""
    cuts = np.sort(rng.integers(0, num_tokens + 1, num_rows))
    counts = np.diff(cuts, prepend=0)
    return [(int(n), int(rng.integers(n == 0, LONGEST - n + 1))) for n in counts]


def random_launches(rig: Rig, window: int) -> None:
    """Every shape twice, with ragged rows and padding, and launches of any size."""
    rng = np.random.default_rng(rig.group * 100 + window)
    for shape in SHAPES:
        rig.capture(shape, window)
    for seed in range(2):
        for shape in DECODES:
            rows = [(1, int(rng.integers(0, LONGEST))) for _ in range(shape[2])]
            rig.check(rig.case(rows, window, seed), shape)
        for shape in PREFILLS:
            rig.check(rig.case(random_rows(rng, shape[2], shape[1]), window, seed), shape)
        rig.check(rig.case(random_rows(rng, 5, 20), window, seed))


def growing_rows(rig: Rig, captured: bool) -> None:
    """Rows grow across pages; two steps are always enqueued behind the one that runs."""
    shape: LaunchShape = ("decode", 2, 2)
    if captured:
        rig.capture(shape)
    flying: list[tuple[Case, list[Tensor]]] = []
    for step in range(2 * BLOCK + 2):
        case = rig.case([(1, step), (1, step + 5)], seed=step)
        flying.append((case, rig.launch(case, shape)))
        if len(flying) == 3:
            _land(rig, *flying.pop(0))
    for left in flying:
        _land(rig, *left)


def _land(rig: Rig, case: Case, result: list[Tensor]) -> None:
    while not result:
        rig.device.stream.run_one()
    assert_matches(result[0], case)


def kinds_in_turn(rig: Rig) -> None:
    """A schedule that another launch has overwritten is made again, though its pages are equal."""
    for shape in SHAPES:
        rig.capture(shape)
    for seed in range(2):
        rig.check(rig.case([(1, 20), (1, 9)], seed=seed), ("decode", 2, 2))
        rig.check(rig.case([(5, 9), (9, 0)], seed=seed), ("prefill", 16, 2))
        rig.check(rig.case([(7, 3)], seed=seed))
        rig.check(rig.case([(1, 17)], seed=seed), ("decode", 1, 1))
        rig.check(rig.case([(20, 20)], seed=seed), ("prefill", 32, 4))


def missing_rows(rig: Rig) -> None:
    """Rows and tokens that a bucket lacks are padded; padding is finite."""
    for rows in ([(1, 30)], [(1, 7), (1, 8), (1, 40)]):
        rig.check(rig.case(rows), ("decode", 6, 6))
    for rows in ([(1, 30)], [(0, 4), (16, 8)], [(2, 2)], [(0, 1)]):
        rig.check(rig.case(rows), ("prefill", 16, 2))


def two_windows(rig: Rig) -> None:
    """Layers of windows 0 and 10 share a launch and its plan."""
    launches: list[tuple[Rows, LaunchShape]] = [
        ([(1, 30), (1, 2)], ("decode", 2, 2)),
        ([(7, 30), (4, 2)], ("prefill", 16, 2)),
    ]
    for _, shape in launches:
        rig.capture(shape, 0)
        rig.capture(shape, 10)
    for rows, shape in launches:
        full, near = rig.case(rows, 0), rig.case(rows, 10)
        rig.check(full, shape)
        rig.device.stream.replay(rig.graphs[shape, 10])
        rig.device.stream.drain()
        assert_matches(rig.out[: shape[1]], near)
        rig.check(near, None)
