"""Blocks that go to the host and come back are what they were, in the order of the device."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prelude.cache.host import HostPool
from prelude.cache.layout import KVLayout
from prelude.conf.schema import BatcherConfig, CacheConfig
from prelude.engine.core import EngineCore
from prelude.graphs.buckets import Buckets
from prelude.runner import swap
from prelude.runner.captured import CapturedRunner
from prelude.runner.captured_programs import NoPlanning
from prelude.runner.swap import AtOnce, CopyQueue, Swapper
from prelude.types.plan import BlockCopy, Plan
from tests.device_double import DeviceDouble
from tests.model_samples import load, save_checkpoint
from tests.parity import open_engine
from tests.test_differential import answers, story
from tests.test_runner_captured import BLOCK, BUCKETS, PLAIN, capture_all, requests

LAYOUT = KVLayout(num_layers=3, block_size=2, num_kv_heads=2, head_dim=4, dtype=torch.float32)
CPU = torch.device("cpu")


def numbered(num_blocks: int) -> list[Tensor]:
    """Every element of every layer is another one."""
    kv = LAYOUT.allocate(num_blocks, CPU)
    for layer, tensor in enumerate(kv):
        tensor.copy_(torch.arange(tensor.numel()).view(tensor.shape) + 10_000.0 * layer)
    return kv


def copies(device_ids: list[int], host_ids: list[int]) -> tuple[BlockCopy, ...]:
    return (BlockCopy(tuple(device_ids), tuple(host_ids)),)


@given(st.data())
def test_what_comes_back_is_what_went(data: st.DataObject) -> None:
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    kv = numbered(12)
    swapper = Swapper(kv, LAYOUT, 9, AtOnce(CPU))
    before = [tensor.clone() for tensor in kv]
    gone = rng.sample(range(1, 12), rng.randint(1, 9))
    host_ids = rng.sample(range(9), len(gone))
    swapper.enqueue(Plan(copies_out=copies(gone, host_ids)))
    for tensor in kv:
        tensor[gone] = -1.0
    there = rng.sample(range(1, 12), len(gone))
    swapper.enqueue(Plan(copies_in=copies(there, host_ids)))
    for tensor, old in zip(kv, before, strict=True):
        assert torch.equal(tensor[there], old[gone])
        rest = [block for block in range(12) if block not in {*gone, *there}]
        assert torch.equal(tensor[rest], old[rest])


def test_copies_out_come_before_copies_in() -> None:
    """One goes and another comes back into the very same blocks."""
    kv = numbered(4)
    swapper = Swapper(kv, LAYOUT, 4, AtOnce(CPU))
    first, second = kv[1][1].clone(), kv[1][2].clone()
    swapper.enqueue(Plan(copies_out=copies([1], [3])))
    swapper.enqueue(Plan(copies_out=copies([2], [0]), copies_in=copies([2], [3])))
    assert torch.equal(kv[1][2], first)
    swapper.enqueue(Plan(copies_in=copies([3], [0])))
    assert torch.equal(kv[1][3], second)


def test_long_copies_are_made_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swap, "_CHUNK", 3)
    kv = numbered(12)
    before = [tensor.clone() for tensor in kv]
    swapper = Swapper(kv, LAYOUT, 11, AtOnce(CPU))
    pool = HostPool(11)
    pool.release(pool.allocate(11)[4:5])
    host_ids = [*range(4), *range(5, 11)]
    gone = [7, 1, 2, 9, 3, 11, 4, 5, 8, 6]
    swapper.enqueue(Plan(copies_out=copies(gone, host_ids)))
    swapper.enqueue(Plan(copies_in=copies(gone[::-1], host_ids)))
    for tensor, old in zip(kv, before, strict=True):
        assert torch.equal(tensor[gone[::-1]], old[gone])


def test_a_queue_is_not_waited_for() -> None:
    queue = DeviceDouble()
    kv = numbered(6)
    swapper = Swapper(kv, LAYOUT, 4, queue)
    old, other = kv[2][3].clone(), kv[2][4].clone()
    copying = swapper.enqueue(Plan(copies_out=copies([3, 4], [2, 0])))
    queue.run(lambda: kv[2].zero_())  # the step that follows
    back = swapper.enqueue(Plan(copies_in=copies([1, 5], [2, 0])))
    assert copying is not None and back is not None
    assert torch.equal(kv[2][3], old) and len(queue.pending) > 0
    assert copying.wait_ms() >= 0.0
    assert torch.equal(kv[2][3], old), "only the copy was waited for"
    back.wait_ms()
    assert torch.equal(kv[2][1], old) and torch.equal(kv[2][5], other)
    assert not kv[2][3].any()


@pytest.mark.parametrize("queue", [AtOnce(CPU), DeviceDouble()])
def test_a_block_has_a_price(queue: CopyQueue) -> None:
    assert Swapper(numbered(3), LAYOUT, 5, queue).swap_ms > 0.0
    assert Swapper(numbered(3), LAYOUT, 0, queue).swap_ms == 0.0


def test_measuring_touches_no_block_that_anybody_will_use() -> None:
    kv = numbered(5)
    before = [tensor.clone() for tensor in kv]
    Swapper(kv, LAYOUT, 100, AtOnce(CPU))
    assert all(torch.equal(a, b) for a, b in zip(kv, before, strict=True))


def test_a_plan_without_copies_costs_nothing() -> None:
    queue = DeviceDouble()
    swapper = Swapper(numbered(3), LAYOUT, 2, queue)
    queue.pending.clear()
    assert swapper.enqueue(Plan()) is None and not queue.pending


def test_host_memory_is_one_piece() -> None:
    host = LAYOUT.allocate_host(7, pinned=False)
    assert [tuple(tensor.shape) for tensor in host] == [(7, 2, 2, 2, 4)] * 3
    assert len({tensor.untyped_storage().data_ptr() for tensor in host}) == 1
    assert all(tensor.is_contiguous() and not tensor.any() for tensor in host)
    assert sum(tensor.numel() for tensor in host) * 4 == 7 * LAYOUT.block_bytes
    assert [len(tensor) for tensor in LAYOUT.allocate_host(0, pinned=True)] == [0, 0, 0]


def test_for_a_gpu_that_piece_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[tuple[int, ...], bool]] = []
    empty = torch.empty

    def noted(shape: tuple[int, ...], *, dtype: torch.dtype, pin_memory: bool) -> Tensor:
        asked.append((shape, pin_memory))
        return empty(shape, dtype=dtype)

    monkeypatch.setattr(torch, "empty", noted)
    assert len(LAYOUT.allocate_host(7, pinned=True)) == 3
    assert asked == [((3, 7, 2, 2, 2, 4), True)]


# Whole engines: little memory, much of it on the host, and not an answer that changes.


def test_the_plain_runner_answers_as_if_there_were_room(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "qwen3")
    asked = requests(24)
    roomy = open_engine(tmp_path, PLAIN | {"cache.num_blocks": 400})
    tight = open_engine(tmp_path, PLAIN | {"cache.num_blocks": 20, "cache.host_gib": 0.01})
    plain = answers(roomy, asked)
    assert roomy.stats().num_swaps == 0
    found = answers(tight, asked)
    assert tight.stats().num_swaps > 0
    assert [story(found[key]) for key in plain] == [story(plain[key]) for key in plain]
    assert tight.ledger.shelf.host.num_free == tight.runner.num_host_blocks > 0


@pytest.mark.parametrize("captures", [False, True])
def test_the_captured_runner_answers_as_if_there_were_room(tmp_path: Path, captures: bool) -> None:
    save_checkpoint(tmp_path, "qwen3")
    asked = requests(24, logprobs=None)
    roomy = open_engine(tmp_path, PLAIN | {"cache.num_blocks": 400})
    plain = answers(roomy, asked)
    decoder = load(tmp_path)
    spec = decoder.spec
    layout = KVLayout(spec.num_layers, BLOCK, spec.num_kv_heads, spec.head_dim, torch.float32)
    queue = DeviceDouble()
    runner = CapturedRunner(
        decoder,
        layout,
        queue,
        NoPlanning(),
        num_blocks=20,
        num_host_blocks=40,
        max_len=112,
        max_seqs=6,
        max_step_tokens=20,
        buckets=BUCKETS,
        captures=captures,
    )
    capture_all(runner)
    tight = swapping_engine(runner, spec.eos_ids)
    found = answers(tight, asked)
    assert tight.stats().num_swaps > 0 and tight.stats().num_swapped_blocks > 0
    assert [story(found[key]) for key in plain] == [story(plain[key]) for key in plain]
    assert tight.ledger.shelf.host.num_free == 40


def swapping_engine(
    runner: CapturedRunner, eos_ids: tuple[int, ...], buckets: Buckets = BUCKETS
) -> EngineCore:
    runner.swap_ms = 0.0  # on a double copies take longer than they are worth
    return EngineCore(
        runner,
        batcher=BatcherConfig(max_step_tokens=20, min_chunk=3, headroom=1),
        cache=CacheConfig(block_size=BLOCK, num_blocks=20),
        max_seqs=6,
        eos_ids=eos_ids,
        buckets=buckets,
    )


def test_ids_reach_the_device_as_they_were() -> None:
    """The queue takes the values when it is told, not when it runs."""
    queue = AtOnce(CPU)
    target = torch.zeros(3, dtype=torch.int64)
    values = np.array([3, 1, 2])
    queue.upload(target, values)
    values[:] = 0
    assert target.tolist() == [3, 1, 2]
    assert queue.mark().ms_since(queue.mark()) <= 0.0
