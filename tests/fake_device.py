"""A GPU's stream without a GPU: copies and kernels happen later, in order, when someone waits.

What makes asynchronous code wrong on a GPU makes it wrong here: a pinned buffer that is written
again before its copy has run arrives with the new contents, and a captured kernel reads what the
device's buffers hold at the time of the replay.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Work = Callable[[], object]
_copy: Any = torch.ops.aten.copy_.default


class FakeStream:
    """Work that was enqueued and has not run yet; inside ``capture`` it goes to the graph."""

    def __init__(self) -> None:
        self._pending: deque[Work] = deque()
        self._graph: list[Work] | None = None

    def enqueue(self, work: Work) -> None:
        (self._pending if self._graph is None else self._graph).append(work)

    def mark(self) -> Work:
        """A point in the stream, for ``run_until``."""
        assert self._graph is None, "an event recorded inside a capture"

        def marker() -> None:
            return None

        self._pending.append(marker)
        return marker

    def run_one(self) -> None:
        self._pending.popleft()()

    def run_until(self, marker: Work | None) -> None:
        while marker in self._pending:
            self.run_one()

    def drain(self) -> None:
        while self._pending:
            self.run_one()

    @contextmanager
    def capture(self) -> Iterator[list[Work]]:
        """The kernels launched inside, to be enqueued again by ``replay``."""
        self._graph = []
        try:
            yield self._graph
        finally:
            self._graph = None

    def replay(self, graph: list[Work]) -> None:
        self._pending.extend(graph)


class FakeDevice(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Pinned memory, asynchronous copies and events on one ``stream``.

    Entered as a mode, it enqueues copies from pinned memory and refuses those that would wait.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.stream = FakeStream()
        self.waits = True  # False: events are waited for in vain
        self._pinned: dict[int, Tensor] = {}

    def is_pinned(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() in self._pinned

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make torch believe in the device for the length of a test."""
        empty = torch.empty

        def maybe_pinned(*args: Any, pin_memory: bool = False, **kwargs: Any) -> Tensor:
            tensor = empty(*args, **kwargs)
            if pin_memory:
                self._pinned[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        hardware = SimpleNamespace(major=9, minor=0, multi_processor_count=132)
        monkeypatch.setattr(torch, "empty", maybe_pinned)
        monkeypatch.setattr(torch.cuda, "Event", lambda: _Event(self))
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: hardware)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not _copy or not any(map(self.is_pinned, args[:2])):
            return func(*args, **kwargs or {})
        target, source = args[:2]
        assert True in args[2:] or (kwargs or {}).get("non_blocking"), "a copy that waits"
        self.stream.enqueue(lambda: np.copyto(target.numpy(), source.numpy()))
        return target


class _Event:
    def __init__(self, device: FakeDevice) -> None:
        self._device = device
        self._marker: Work | None = None

    def record(self) -> None:
        self._marker = self._device.stream.mark()

    def synchronize(self) -> None:
        if self._device.waits:
            self._device.stream.run_until(self._marker)
