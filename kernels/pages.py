"""Huge pages for what is streamed from memory: with 4 KiB pages a core reads 18 to 26 GB/s where
huge ones let it read 33 (benchmarks/results/cpu/linear.md)."""

import ctypes
import mmap
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod

import torch
from torch import Tensor

HUGE_PAGE = 2 * 2**20
_MADV_HUGEPAGE = 14
_MADV_POPULATE_WRITE = 23
_ALIGNMENT = 64


def empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """An uninitialised tensor for what is streamed: where ``placed_in`` says while there is room,
    else by itself, in huge pages if the system will."""
    num_bytes = prod(shape) * dtype.itemsize
    if device.type == "cpu" and num_bytes and (memory := _PLACE.take(num_bytes)) is not None:
        return memory.view(dtype).view(shape)
    tensor = torch.empty(shape, dtype=dtype, device=device)
    prefer_huge_pages(tensor)
    return tensor


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A zeroed tensor for what is streamed. On CPU the system zeroes it when it is first used:
    gigabytes need not be written before the first request, as torch.zeros would. It is memory of
    its own, whatever was freed before, from the beginning of a huge page on where it is as large
    as one. In numpy's, which begins 16 bytes into a cache line, every vector would lie across two.
    """
    num_bytes = prod(shape) * dtype.itemsize
    if device.type != "cpu" or not num_bytes:
        return torch.zeros(shape, dtype=dtype, device=device)
    slack = HUGE_PAGE if num_bytes >= HUGE_PAGE else 0
    owner = mmap.mmap(-1, num_bytes + slack, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory = torch.frombuffer(owner, dtype=torch.uint8)
    start = -memory.data_ptr() % HUGE_PAGE if slack else 0
    tensor = memory[start : start + num_bytes].view(dtype).view(shape)
    prefer_huge_pages(tensor)
    return tensor


@contextmanager
def placed_in(buffer: mmap.mmap | None) -> Iterator[None]:
    """Take the memory of ``empty`` on CPU from ``buffer``, from its beginning on."""
    _PLACE.buffer = None if buffer is None else torch.frombuffer(buffer, dtype=torch.uint8)
    _PLACE.used = 0
    try:
        yield
    finally:
        _PLACE.buffer = None


def prefer_huge_pages(tensor: Tensor) -> bool:
    """Ask Linux to back the whole huge pages inside a CPU tensor with such, before it is first
    written; True where the kernel agreed. A hint: elsewhere, and in small tensors, nothing."""
    return tensor.device.type == "cpu" and _advise(tensor, _MADV_HUGEPAGE, HUGE_PAGE)


def populate(tensor: Tensor) -> bool:
    """Have Linux (5.14) find the memory of the whole pages inside a CPU tensor, as if they were
    written, but for that nothing in them changes; False where it will not. Other threads run
    meanwhile."""
    return _advise(tensor, _MADV_POPULATE_WRITE, mmap.PAGESIZE)


def _advise(tensor: Tensor, advice: int, page: int) -> bool:
    """Of the whole pages inside; False where there are none, or the system will not."""
    start = -(-tensor.data_ptr() // page) * page
    end = (tensor.data_ptr() + tensor.nbytes) // page * page
    if sys.platform != "linux" or end <= start:
        return False
    advise = ctypes.CDLL(None, use_errno=True).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return bool(advise(start, end - start, advice) == 0)


class _Place:
    """The process's choice."""

    buffer: Tensor | None = None
    used = 0

    def take(self, num_bytes: int) -> Tensor | None:
        start = -(-self.used // _ALIGNMENT) * _ALIGNMENT
        if self.buffer is None or start + num_bytes > len(self.buffer):
            return None
        self.used = start + num_bytes
        return self.buffer[start : self.used]


_PLACE = _Place()
