"""Memory for the weights, made ready while torch is still being imported.

The system zeroes every page at its first use, for a second per few gigabytes. An engine's process
knows how many it will need before it can do anything else, so another thread touches them in the
meantime. Nothing here imports torch.
"""

import ctypes
import mmap
import sys
from pathlib import Path
from threading import Event, Thread

from prelude.cache.sizing import host_memory_bytes
from prelude.conf.schema import Config, Device, LoadFormat, ModelConfig, Weights
from prelude.models.paths import resolve_model_path
from prelude.models.spec import ModelSpec, read_config, read_spec

_NVIDIA = Path("/dev/nvidiactl")
_PAGE = 2 * 2**20  # at once: a longer call would hold up whoever wants to map a library
_MARGIN = 1.01  # alignment of tensors, scales of int8 rows
_MOST_SHARE = 0.5  # of free memory: whether a larger model fits is for the sizing to say


class EarlyMemory:
    """Anonymous memory, in huge pages if the system will; a thread zeroes it from its beginning on
    until somebody takes it."""

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        self._buffer = mmap.mmap(-1, num_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._buffer.madvise(mmap.MADV_HUGEPAGE)
        self._taken = Event()
        self._thread = Thread(target=self._touch, name="prelude-early-memory", daemon=True)
        self._thread.start()

    def take(self) -> mmap.mmap:
        """The memory, as far as it is ready; from now on nobody else writes to it."""
        self._taken.set()
        self._thread.join()
        return self._buffer

    def _touch(self) -> None:
        set_bytes = ctypes.CDLL(None).memset  # a call that leaves the interpreter to others
        set_bytes.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
        set_bytes.restype = ctypes.c_void_p
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._buffer))
        for first in range(0, self.num_bytes, _PAGE):
            if self._taken.is_set():
                return
            set_bytes(start + first, 0, min(_PAGE, self.num_bytes - first))


def early_memory(config: Config) -> EarlyMemory | None:
    """For the weights of this configuration; None where it is of no use or may not fit. Raises
    ``ValueError`` for a model that cannot be read."""
    device = config.runner.device
    has_gpu = device == Device.cuda or (device == Device.auto and _NVIDIA.exists())
    if sys.platform != "linux" or has_gpu:
        return None
    spec, _ = model_spec(config.model)
    dtype = "int8" if config.model.weights == Weights.int8 else "float32"
    num_bytes = int(_MARGIN * spec.weight_bytes(dtype)) + _PAGE
    return EarlyMemory(num_bytes) if num_bytes < _MOST_SHARE * host_memory_bytes() else None


def model_spec(config: ModelConfig) -> tuple[ModelSpec, Path | None]:
    """The model's shape and, unless it is a bare shape, its folder."""
    if config.load_format == LoadFormat.random and config.hf_config:
        return read_spec(config.hf_config), None
    folder = resolve_model_path(config.path)
    return read_spec(read_config(folder)), folder
