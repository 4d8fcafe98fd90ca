"""FlashInferAttention against a FlashInfer that tolerates no mistake and computes the truth."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from prelude.kernels.flashinfer import FlashInferAttention, LaunchShape
from tests.fake_device import FakeDevice, Work
from tests.fake_flashinfer import ContractError, Library
from tests.kernel_cases import Case, make_case

BLOCK, KV_HEADS, HEAD_DIM = 8, 2, 64
ROW_BLOCKS, MAX_ROWS, MAX_TOKENS = 6, 6, 32
LONGEST = ROW_BLOCKS * BLOCK
DECODES = tuple(("decode", rows, rows) for rows in (1, 2, 6))
PREFILLS = (("prefill", 32, 4), ("prefill", 16, 2))
Rows = Sequence[tuple[int, int]]


@dataclass
class Rig:
    """An engine's view of the backend: static buffers, one stream, graphs by shape and window."""

    device: FakeDevice
    library: Library
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


def build(monkeypatch: pytest.MonkeyPatch, group: int = 4, **options: Any) -> Rig:
    device = FakeDevice()
    device.install(monkeypatch)
    library = Library(device)
    monkeypatch.setitem(sys.modules, "flashinfer", library)
    with device:
        attention = _attention(num_heads=group * KV_HEADS, **options)
    return Rig(device, library, attention, group)


def _attention(**changes: Any) -> FlashInferAttention:
    options: dict[str, Any] = {
        "num_heads": 4 * KV_HEADS,
        "num_kv_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "block_size": BLOCK,
        "dtype": torch.float16,
        "device": torch.device("cpu"),
        "shapes": (*DECODES, *PREFILLS),
        "max_rows": MAX_ROWS,
        "max_tokens": MAX_TOKENS,
        "row_blocks": ROW_BLOCKS,
    }
    return FlashInferAttention(**options | changes)


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    rig = build(monkeypatch)
    with rig.device:
        yield rig


def random_rows(rng: np.random.Generator, num_rows: int, num_tokens: int) -> list[tuple[int, int]]:
    """Ragged rows of at most ``num_tokens`` new tokens, some of none."""
    cuts = np.sort(rng.integers(0, num_tokens + 1, num_rows))
    counts = np.diff(cuts, prepend=0)
    return [(int(n), int(rng.integers(n == 0, LONGEST - n + 1))) for n in counts]


@pytest.mark.parametrize(("group", "window"), [(1, 0), (2, 5), (4, 0), (4, 20), (7, 5)])
def test_random_launches_equal_the_reference(
    monkeypatch: pytest.MonkeyPatch, group: int, window: int
) -> None:
    rig = build(monkeypatch, group, windows=(window,))
    rng = np.random.default_rng(group * 100 + window)
    with rig.device:
        for shape in (*DECODES, *PREFILLS):
            rig.capture(shape, window)
        for seed in range(2):
            for shape in DECODES:
                rows = [(1, int(rng.integers(0, LONGEST))) for _ in range(shape[2])]
                rig.check(rig.case(rows, window, seed), shape)
            for shape in PREFILLS:
                rows = random_rows(rng, shape[2], shape[1])
                rig.check(rig.case(rows, window, seed), shape)
            rig.check(rig.case(random_rows(rng, 5, 20), window, seed))


@pytest.mark.parametrize("captured", [True, False])
def test_rows_grow_across_pages_while_steps_are_in_flight(rig: Rig, captured: bool) -> None:
    """Two steps are always enqueued behind the one that the device works on."""
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


def test_a_schedule_is_made_again_only_when_a_page_count_changes(rig: Rig) -> None:
    shape: LaunchShape = ("decode", 2, 2)
    rig.capture(shape)
    before = rig.library.num_plans
    for step in range(3 * BLOCK):  # rows of 1 to 24 and of 4 to 27 tokens
        rig.check(rig.case([(1, step), (1, step + 3)], seed=step), shape)
    assert rig.library.num_plans - before == 2 + 3


def test_launches_of_all_kinds_take_turns(rig: Rig) -> None:
    """A schedule that another bucket has overwritten is made again, though its pages are the
    same."""
    for shape in (*DECODES, *PREFILLS):
        rig.capture(shape)
    for seed in range(2):
        rig.check(rig.case([(1, 20), (1, 9)], seed=seed), ("decode", 2, 2))
        rig.check(rig.case([(5, 9), (9, 0)], seed=seed), ("prefill", 16, 2))
        rig.check(rig.case([(7, 3)], seed=seed))
        rig.check(rig.case([(1, 17)], seed=seed), ("decode", 1, 1))
        rig.check(rig.case([(20, 20)], seed=seed), ("prefill", 32, 4))


def test_missing_rows_and_tokens_are_padded(rig: Rig) -> None:
    for rows in ([(1, 30)], [(1, 7), (1, 8), (1, 40)]):
        rig.check(rig.case(rows), ("decode", 6, 6))
    for rows in ([(1, 30)], [(0, 4), (16, 8)], [(2, 2)], [(0, 1)]):
        rig.check(rig.case(rows), ("prefill", 16, 2))


def test_rows_of_a_shared_prefix_may_have_more_pages_than_the_pool(rig: Rig) -> None:
    case = rig.case([(1, LONGEST - 1)] * MAX_ROWS)
    case.meta.block_tables[:] = case.meta.block_tables[0]
    rig.attention.plan(
        ("decode", 6, 6),
        case.meta.cu_q.numpy(),
        case.meta.ctx_lens.numpy(),
        case.meta.block_tables.numpy(),
    )


def test_layers_of_two_windows_share_a_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = build(monkeypatch, windows=(0, 10))
    shapes: tuple[LaunchShape, ...] = (("decode", 2, 2), ("prefill", 16, 2))
    with rig.device:
        for shape in shapes:
            rig.capture(shape, 0)
            rig.capture(shape, 10)
        for rows, shape in (([(1, 30), (1, 2)], shapes[0]), ([(7, 30), (4, 2)], shapes[1])):
            full, near = rig.case(rows, 0), rig.case(rows, 10)
            rig.check(full, shape)
            rig.device.stream.replay(rig.graphs[shape, 10])  # the same plan, the next layer
            rig.device.stream.drain()
            assert_matches(rig.out[: shape[1]], near)
            rig.check(near, None)


@pytest.mark.parametrize("setting", ["fa2", "fa3", "auto"])
def test_no_kernel_is_loaded_after_start(monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    rig = build(monkeypatch, group=2, windows=(0, 9), prefill_backend=setting)
    backends = {"fa2": ["fa2"], "fa3": ["fa3"], "auto": ["fa2", "fa3"]}[setting]
    assert sorted({uri[0] for uri in rig.library.loaded}) == sorted([*backends, "decode"])
    rig.library.prebuilt = False
    with rig.device:
        for window in (0, 9):
            for shape in (*DECODES, *PREFILLS):
                rig.capture(shape, window)
            rig.check(rig.case([(3, 9)], window))


def test_what_cannot_be_planned_is_an_error(rig: Rig) -> None:
    rows = rig.case([(1, 0)] * 3)
    with pytest.raises(ValueError, match="not built for"):
        rig.attention.prepare(("decode", 64, 64))
    with pytest.raises(ValueError, match="3 rows of 3 tokens, planned as 2"):
        rig.launch(rows, ("decode", 2, 2))
    with pytest.raises(ValueError, match="needs 3 blocks and has 1"):
        rig.attention.plan(None, *(np.array(a, np.int32) for a in ([0, 1], [17], [[1]])))
    with pytest.raises(ValueError, match="scale"):
        case = rig.case([(1, 0)])
        rig.attention.attend(
            case.q,
            rig.kv,
            case.meta.cu_q,
            case.meta.ctx_lens,
            case.meta.block_tables,
            1.0,
            0,
            case.q,
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head_dim": 96}, "head_dim 96"),
        ({"dtype": torch.float32}, "float32"),
        ({"prefill_backend": "cudnn"}, "not one of auto, fa2, fa3"),
    ],
)
def test_what_flashinfer_has_no_kernels_for(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _attention(**changes)


def test_a_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flashinfer", None)
    with pytest.raises(ValueError, match=r"prelude-llm\[cuda\]"):
        _attention()
    monkeypatch.setitem(sys.modules, "flashinfer", Library(FakeDevice(), __version__="0.5.3"))
    with pytest.raises(ValueError, match=r"0\.5\.3"):
        _attention()


def test_kernels_that_are_not_there_are_an_error_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeDevice()
    device.install(monkeypatch)
    monkeypatch.setitem(sys.modules, "flashinfer", Library(device, prebuilt=False))
    with pytest.raises(RuntimeError, match="flashinfer-jit-cache"), device:
        _attention()


def test_staging_is_written_only_when_the_device_has_read_it(rig: Rig) -> None:
    """The fake has teeth: without the waits, the plans of steps in flight overwrite each other."""
    rig.capture(("decode", 1, 1))
    rig.device.stream.drain()
    rig.device.waits = False
    for step in range(3):
        rig.launch(rig.case([(1, 10 * step)]), ("decode", 1, 1))
    with pytest.raises(ContractError, match="stale schedule"):
        rig.device.stream.drain()


def test_a_replay_without_its_plan_is_seen(rig: Rig) -> None:
    """The fake has teeth: a graph that follows another bucket's plan reads that one's schedule."""
    for shape in DECODES:
        rig.capture(shape)
    rig.check(rig.case([(1, 9)]), ("decode", 1, 1))
    rig.device.stream.replay(rig.graphs[("decode", 2, 2), 0])
    with pytest.raises(ContractError, match="stale schedule"):
        rig.device.stream.drain()
