"""Where plans are written before the device reads them.

A plan's copies to the device are asynchronous, so the pinned memory they come from must not be
written again before they have run; that mistake gives wrong attention under load and nowhere else.
Each kind of launch has two sets of pinned memory, and an event per set says when it is free.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prelude.kernels.flashinfer_batch import PagedBatch

SCHEDULE_BYTES = 8 << 20  # what FlashInfer's wrappers reserve for a schedule
_NUM_SETS = 2


class StagingSet:
    """Pinned copies of a batch and of the schedules made for it, one per attention window."""

    def __init__(self, size: int, max_rows: int, windows: tuple[int, ...]) -> None:
        buffer = torch.empty(size, dtype=torch.int32, pin_memory=True)
        self.batch = PagedBatch(buffer, max_rows)
        self.arrays: PagedBatch[np.ndarray] = PagedBatch(buffer.numpy(), max_rows)
        self.schedules = {
            window: torch.empty(SCHEDULE_BYTES, dtype=torch.uint8, pin_memory=True)
            for window in windows
        }
        self.sent: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]


class Lane:
    """What the launches of one kind share: arrays and schedules on the device, staging sets.

    A launch overwrites what the one before it left on the device. That is safe because copies and
    kernels run in the order of one stream, and every launch plans first.
    """

    def __init__(
        self, max_rows: int, max_pages: int, windows: tuple[int, ...], device: torch.device
    ) -> None:
        size = PagedBatch.size(max_rows, max_pages)
        self.batch = PagedBatch(torch.zeros(size, dtype=torch.int32, device=device), max_rows)
        self.schedules: dict[int, Tensor] = {
            window: torch.empty(SCHEDULE_BYTES, dtype=torch.uint8, device=device)
            for window in windows
        }
        self.scheduled: tuple[object, bytes] | None = None  # what ``schedules`` were made for
        self.sets = [StagingSet(size, max_rows, windows) for _ in range(_NUM_SETS)]
        self._next_set = cycle(self.sets)

    @contextmanager
    def staging(self) -> Iterator[StagingSet]:
        """The next set, free to be written; leave with its copies enqueued."""
        staging = next(self._next_set)
        staging.sent.synchronize()
        try:
            yield staging
        finally:
            staging.sent.record()

    def upload(self, staging: StagingSet, num_pages: int) -> Tensor:
        """Enqueue the copy of a batch to the device; returns its page indices there."""
        self.batch.used(num_pages).copy_(staging.batch.used(num_pages), non_blocking=True)
        indices: Tensor = self.batch.indices[:num_pages]
        return indices
