"""FlashInferAttention with a FlashInfer that tolerates no mistake and computes the truth."""

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from prelude.kernels import flashinfer, flashinfer_programs
from prelude.kernels.build import CompileError
from tests import flashinfer_rig as scenarios
from tests.fake_device import FakeDevice
from tests.fake_flashinfer import ContractError, Library
from tests.flashinfer_rig import (
    BLOCK,
    DECODES,
    KV_HEADS,
    LONGEST,
    MAX_ROWS,
    SHAPES,
    Rig,
    new_attention,
)


def build(monkeypatch: pytest.MonkeyPatch, group: int = 4, **options: Any) -> tuple[Rig, Library]:
    device = FakeDevice()
    device.install(monkeypatch)
    library = Library(device)
    monkeypatch.setitem(sys.modules, "flashinfer", library)
    with device:
        attention = new_attention(num_heads=group * KV_HEADS, **options)
    return Rig(device, attention, group), library


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small only wait for the others."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Rig, Library]]:
    rig, library = build(monkeypatch)
    with rig.device:
        yield rig, library


@pytest.fixture
def rig(built: tuple[Rig, Library]) -> Rig:
    return built[0]


@pytest.mark.parametrize(("group", "window"), [(1, 0), (2, 5), (4, 0), (4, 20), (7, 5)])
def test_random_launches_equal_the_reference(
    monkeypatch: pytest.MonkeyPatch, group: int, window: int
) -> None:
    rig, _ = build(monkeypatch, group, windows=(window,))
    with rig.device:
        scenarios.random_launches(rig, window)


@pytest.mark.parametrize("captured", [True, False])
def test_rows_grow_across_pages_while_steps_are_in_flight(rig: Rig, captured: bool) -> None:
    scenarios.growing_rows(rig, captured)


def test_a_schedule_is_made_again_only_when_a_page_count_changes(
    built: tuple[Rig, Library],
) -> None:
    rig, library = built
    shape = ("decode", 2, 2)
    rig.capture(shape)
    before = library.num_plans
    for step in range(3 * BLOCK):  # rows of 1 to 24 and of 4 to 27 tokens
        rig.launch(rig.case([(1, step), (1, step + 3)], seed=step), shape)
        rig.device.stream.drain()
    assert library.num_plans - before == 2 + 3


def test_launches_of_all_kinds_take_turns(rig: Rig) -> None:
    scenarios.kinds_in_turn(rig)


def test_missing_rows_and_tokens_are_padded(rig: Rig) -> None:
    scenarios.missing_rows(rig)


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
    rig, _ = build(monkeypatch, windows=(0, 10))
    with rig.device:
        scenarios.two_windows(rig)


@pytest.mark.parametrize("setting", ["fa2", "fa3", "auto"])
def test_no_kernel_is_loaded_after_start(monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    for module in (flashinfer, flashinfer_programs):
        monkeypatch.setattr(module, "FA3_TOKENS", 20)
    rig, library = build(monkeypatch, group=2, windows=(0, 9), prefill_backend=setting)
    backends = {"fa2": ["fa2"], "fa3": ["fa3"], "auto": ["fa2", "fa3"]}[setting]
    assert sorted({uri[0] for uri in library.loaded}) == sorted([*backends, "decode"])
    library.prebuilt = False
    with rig.device:
        for window in (0, 9):
            for shape in SHAPES:
                rig.capture(shape, window)
            rig.check(rig.case([(3, 9)], window))
            rig.check(rig.case([(25, 9)], window))
            rig.check(rig.case([(16, 9), (9, 0)], window), ("prefill", 32, 4))


def test_kernels_for_launches_too_long_to_come_are_not_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, library = build(monkeypatch, prefill_backend="auto")
    assert {uri[0] for uri in library.loaded} == {"fa2"}


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
        new_attention(**changes)


def test_a_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flashinfer", None)
    with pytest.raises(ValueError, match=r"prelude-llm\[cuda\]"):
        new_attention()
    monkeypatch.setitem(sys.modules, "flashinfer", Library(FakeDevice(), __version__="0.5.3"))
    with pytest.raises(ValueError, match=r"0\.5\.3"):
        new_attention()


def test_kernels_that_are_not_there_are_an_error_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeDevice()
    device.install(monkeypatch)
    monkeypatch.setitem(sys.modules, "flashinfer", Library(device, prebuilt=False))
    with pytest.raises(CompileError, match="flashinfer-jit-cache"), device:
        new_attention()


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
