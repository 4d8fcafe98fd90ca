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

_MADV_HUGEPAGE = 14
_PAGE = 2 * 2**20
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
    if sys.platform != "linux" or tensor.device.type != "cpu":
        return False
    start = -(-tensor.data_ptr() // _PAGE) * _PAGE
    end = (tensor.data_ptr() + tensor.nbytes) // _PAGE * _PAGE
    if end <= start:
        return False
    advise = ctypes.CDLL(None, use_errno=True).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return bool(advise(start, end - start, _MADV_HUGEPAGE) == 0)


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
