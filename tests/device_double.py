"""A device for tests: CPU tensors behind a queue that runs nothing until it is waited for, and
graphs that fail on replay where a CUDA graph would have replayed something else."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from prelude.graphs.queue import Results, Work

# What makes the host wait for the device, or gives a result whose shape depends on data.
_FORBIDDEN = {
    *("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select"),
    *("_unique2", "bincount", "repeat_interleave", "pin_memory"),
}


class DoubleMark:
    def __init__(self, queue: "DeviceDouble") -> None:
        self._queue = queue
        self.at_s = 0.0
        queue.pending.append(self._arrive)

    def _arrive(self) -> None:
        self.at_s = time.perf_counter()

    def wait(self) -> None:
        while not self.at_s:
            self._queue.step()

    def ms_since(self, earlier: "DoubleMark") -> float:
        assert self.at_s, "read before it was waited for"
        return (self.at_s - earlier.at_s) * 1e3


class DeviceDouble:
    """A ``DeviceQueue`` on the CPU."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.pending: list[Work] = []
        self.graphs: list[GraphDouble] = []

    def step(self) -> None:
        with torch.no_grad():
            self.pending.pop(0)()

    def run(self, work: Work) -> None:
        self.pending.append(work)

    def capture(self, work: Work) -> Work:
        while self.pending:
            self.step()
        graph = GraphDouble(work)
        self.graphs.append(graph)
        return graph.replay

    def upload(self, target: Tensor, values: np.ndarray) -> None:
        source = torch.from_numpy(values.copy())
        assert source.dtype == target.dtype
        assert source.shape == target.shape
        self.pending.append(lambda: _copy(target, source))

    def fetch(self, compute: Callable[[], Results]) -> Callable[[], Results]:
        found: list[Results] = []
        self.pending.append(lambda: found.append(tuple(t.clone() for t in compute())))
        return lambda: found[0]

    def mark(self) -> DoubleMark:
        return DoubleMark(self)


def _copy(target: Tensor, source: Tensor) -> None:
    target.copy_(source)


class GraphDouble:
    """Runs ``work`` and records its operations: names, scalars, and which memory from outside they
    touch. A replay runs it again and raises if any of these has changed."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self.ops = _record(work)
        self.num_replays = 0

    def replay(self) -> None:
        now = _record(self._work)
        self.num_replays += 1
        if now != self.ops:
            pairs = zip(self.ops, now, strict=False)
            first = next(((a, b) for a, b in pairs if a != b), (len(self.ops), len(now)))
            raise RuntimeError(f"captured {first[0]}, but this run did {first[1]}")


def _record(work: Work) -> list[Any]:
    recorder = _Recorder()
    with recorder:
        work()
    return recorder.ops


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ops: list[Any] = []
        self._own: set[int] = set()
        self._keep: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[1]
        if name in _FORBIDDEN:
            raise RuntimeError(f"{name} inside a captured program")
        leaves = tree_leaves((args, kwargs or {}))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        outside = [
            (t.untyped_storage().data_ptr(), t.storage_offset(), tuple(t.shape), t.stride())
            for t in tensors
            if t.untyped_storage().data_ptr() not in self._own
        ]
        scalars = [leaf for leaf in leaves if isinstance(leaf, (int, float, bool))]
        known = {t.untyped_storage().data_ptr() for t in tensors}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage().data_ptr() not in known:
                self._own.add(leaf.untyped_storage().data_ptr())
                self._keep.append(leaf)
        self.ops.append((name, outside, scalars))
        return result
