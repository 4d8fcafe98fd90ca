"""The order in which a device does things, as the captured runner sees it.

Everything that touches device memory goes through one queue, so host code that reads a result too
early, or writes where the device still reads, cannot be written by accident. ``CudaQueue`` is a
CUDA stream; tests have one that runs nothing until it is waited for.
"""

from collections.abc import Callable
from typing import Protocol, Self

import numpy as np
import torch
from torch import Tensor

Work = Callable[[], object]
Results = tuple[Tensor, ...]


class Mark(Protocol):
    """A place in the queue."""

    def wait(self) -> None:
        """Return once the device has come here."""
        ...

    def ms_since(self, earlier: Self) -> float:
        """Device milliseconds between two places it has come to."""
        ...


class DeviceQueue(Protocol):
    """One device, one order. ``run`` and what it is given must not wait for the device."""

    @property
    def device(self) -> torch.device: ...

    def run(self, work: Work) -> None:
        """Enqueue what ``work`` launches."""
        ...

    def capture(self, work: Work) -> Work:
        """Run ``work`` until it is warm and record it: the result replays it, for ``run``. It must
        find its inputs at the same addresses every time."""
        ...

    def upload(self, target: Tensor, values: np.ndarray) -> None:
        """Enqueue a copy of ``values`` as they are now to the device tensor ``target``."""
        ...

    def fetch(self, compute: Callable[[], Results]) -> Callable[[], Results]:
        """Enqueue what ``compute`` launches and copies of its results to host memory. The returned
        function gives those; call it behind a later mark."""
        ...

    def mark(self) -> Mark: ...
