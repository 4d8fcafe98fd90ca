"""KV that leaves the device and comes back: copies of whole blocks between the KV pool and host
memory, in the order in which the device does everything.

Blocks of one copy are gathered layer by layer and cross over in as few pieces as the host's blocks
lie apart. On CUDA host memory is pinned, and nobody waits for a copy but what needs it.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import torch
from torch import Tensor

from prelude.cache.host import Run, runs_of
from prelude.cache.layout import KVLayout
from prelude.graphs.queue import Mark, Work
from prelude.types.plan import BlockCopy, Plan

_Copy = Callable[[Tensor, list[Run]], None]

_CHUNK = 512  # blocks at a time: what a layer of them is gathered in takes device memory
_TIMED = 64  # blocks
_REPEATS = 3


class CopyQueue(Protocol):
    """The part of a ``DeviceQueue`` that copies need."""

    @property
    def device(self) -> torch.device: ...
    def run(self, work: Work) -> None: ...
    def upload(self, target: Tensor, values: np.ndarray) -> None: ...
    def mark(self) -> Mark: ...


class HostMark:
    """A moment of this process."""

    def __init__(self) -> None:
        self._at_s = time.perf_counter()

    def wait(self) -> None:
        """It has been."""

    def ms_since(self, earlier: Self) -> float:
        return (self._at_s - earlier._at_s) * 1e3


class AtOnce:
    """The queue of a device that does everything when it is told."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def run(self, work: Work) -> None:
        work()

    def upload(self, target: Tensor, values: np.ndarray) -> None:
        target.copy_(torch.from_numpy(values))

    def mark(self) -> HostMark:
        return HostMark()


@dataclass(frozen=True, slots=True)
class Copying:
    """The copies of a plan, between two places of the queue."""

    start: Mark
    end: Mark

    def wait_ms(self) -> float:
        """Milliseconds that they took, once they are done."""
        self.end.wait()
        return self.end.ms_since(self.start)


class Swapper:
    """Host memory for ``num_blocks`` blocks of ``kv``, the device's tensors, one a layer. To copy
    a block takes ``swap_ms``, as measured here, before anybody uses one. Code of a thread with
    gradients off."""

    def __init__(
        self, kv: list[Tensor], layout: KVLayout, num_blocks: int, queue: CopyQueue
    ) -> None:
        self.num_blocks = num_blocks
        self._kv = kv
        self._queue = queue
        self._host = layout.allocate_host(num_blocks, pinned=queue.device.type == "cuda")
        self._ids = torch.zeros(_CHUNK, dtype=torch.int64, device=queue.device)
        self.swap_ms = self._timed_ms() if num_blocks else 0.0

    def enqueue(self, plan: Plan) -> Copying | None:
        """Make a plan's copies, those out first; None if it has none."""
        if not plan.num_copies:
            return None
        start = self._queue.mark()
        for block_ids, host_ids in _chunks(plan.copies_out):
            self._enqueue(self._take, block_ids, host_ids)
        for block_ids, host_ids in _chunks(plan.copies_in):
            self._enqueue(self._put, block_ids, host_ids)
        return Copying(start, self._queue.mark())

    def _enqueue(self, copy: _Copy, block_ids: tuple[int, ...], host_ids: tuple[int, ...]) -> None:
        ids, runs = self._ids[: len(block_ids)], list(runs_of(host_ids))
        self._queue.upload(ids, np.array(block_ids, dtype=np.int64))
        self._queue.run(lambda: copy(ids, runs))

    def _take(self, ids: Tensor, runs: list[Run]) -> None:
        for kv, host in zip(self._kv, self._host, strict=True):
            blocks, first = kv.index_select(0, ids), 0  # [ids, 2, block, kv_heads, head_dim]
            for start, end in runs:
                there = first + end - start
                host[start:end].copy_(blocks[first:there], non_blocking=True)
                first = there

    def _put(self, ids: Tensor, runs: list[Run]) -> None:
        for kv, host in zip(self._kv, self._host, strict=True):
            blocks, first = kv.new_empty((len(ids), *kv.shape[1:])), 0
            for start, end in runs:
                there = first + end - start
                blocks[first:there].copy_(host[start:end], non_blocking=True)
                first = there
            kv.index_copy_(0, ids, blocks)

    def _timed_ms(self) -> float:
        """A block, on average of both ways; the dummy block stands for all."""
        host_ids = tuple(range(min(_TIMED, self.num_blocks)))
        copy = BlockCopy((0,) * len(host_ids), host_ids)
        plan = Plan(copies_out=(copy,), copies_in=(copy,))
        times = []
        for _ in range(_REPEATS):
            copying = self.enqueue(plan)
            assert copying is not None
            times.append(copying.wait_ms() / plan.num_copies)
        return min(times)


def _chunks(copies: Iterable[BlockCopy]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    for copy in copies:
        for i in range(0, len(copy.host_ids), _CHUNK):
            yield copy.device_ids[i : i + _CHUNK], copy.host_ids[i : i + _CHUNK]
