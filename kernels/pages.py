"""Huge pages for what is streamed from memory: with 4 KiB pages a core reads 18 to 26 GB/s where
huge ones let it read 33 (benchmarks/results/cpu/linear.md)."""

import ctypes
import sys

from torch import Tensor

_MADV_HUGEPAGE = 14
_PAGE = 2 * 2**20


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
