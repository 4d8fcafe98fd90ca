"""CUDA streams, events and graphs behind ``DeviceQueue``.

Graphs are recorded on one stream into one memory pool, which is sound because they never run at
the same time and their results are read before the next one starts. They live as long as the
queue: destroying one may free a cuBLAS workspace that another still uses.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prelude.graphs.queue import Results, Work

_cuda: Any = torch.cuda  # torch's own annotations of it are incomplete
_WARM_RUNS = 2  # autotuning, lazy loading of kernels, cuBLAS workspaces


class CudaMark:
    """A timed CUDA event."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._event = _cuda.Event(enable_timing=True)
        self._event.record(stream)

    def wait(self) -> None:
        self._event.synchronize()

    def ms_since(self, earlier: "CudaMark") -> float:
        return float(earlier._event.elapsed_time(self._event))


class CudaQueue:
    """One stream of ``device``. Host memory of copies is pinned and comes from torch's caching
    allocator, which hands it out again only when the copy is done."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream: torch.cuda.Stream = _cuda.Stream(device)
        self.stream.wait_stream(torch.cuda.current_stream(device))  # weights are on their way
        self._pool = torch.cuda.graph_pool_handle()
        self._graphs: list[torch.cuda.CUDAGraph] = []

    def run(self, work: Work) -> None:
        with torch.cuda.stream(self.stream):
            work()

    def capture(self, work: Work) -> Work:
        for _ in range(_WARM_RUNS):
            self.run(work)
        self.stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        # Other threads may allocate pinned memory meanwhile: only this one must behave.
        with (
            _no_collection(),
            torch.cuda.graph(
                graph, pool=self._pool, stream=self.stream, capture_error_mode="thread_local"
            ),
        ):
            work()
        self._graphs.append(graph)
        return graph.replay

    def upload(self, target: Tensor, values: np.ndarray) -> None:
        with torch.cuda.stream(self.stream):
            target.copy_(torch.from_numpy(values).pin_memory(), non_blocking=True)

    def fetch(self, compute: Callable[[], Results]) -> Callable[[], Results]:
        with torch.cuda.stream(self.stream):
            found = tuple(_to_pinned(result) for result in compute())
        return lambda: found

    def mark(self) -> CudaMark:
        return CudaMark(self.stream)


def _to_pinned(source: Tensor) -> Tensor:
    host = torch.empty(source.shape, dtype=source.dtype, pin_memory=True)
    return host.copy_(source, non_blocking=True)


@contextmanager
def _no_collection() -> Iterator[None]:
    """A garbage collection may free device memory, which ends a capture."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
