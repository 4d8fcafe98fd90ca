"""How many KV blocks there will be: explicit, or derived from the memory that is really left."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from prelude.conf.schema import CacheConfig

logger = logging.getLogger(__name__)

_GIB = 2**30
_CGROUPS = (  # (limit, usage) of version 2, then of version 1
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)


@dataclass(frozen=True, slots=True)
class PoolSize:
    """``num_blocks`` includes the dummy; ``rule`` says in words where it comes from."""

    num_blocks: int
    max_len: int
    rule: str


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes by consumer, beside the KV pool: weights, which are there already, what the largest
    step computes with, and the penalty state of all slots, which comes with the first request
    that wants penalties, and the KV of who had to make room, where that is in the same memory."""

    weights: int = 0
    workspace: int = 0
    penalties: int = 0
    swapped: int = 0

    @property
    def reserved_bytes(self) -> int:
        """What must be left free beside the pool."""
        return self.workspace + self.penalties + self.swapped

    def described(self, kv_bytes: int) -> str:
        """The three largest consumers with a KV pool of that size."""
        consumers = {
            "weights": self.weights,
            "KV cache": kv_bytes,
            "activations and logits": self.workspace,
            "penalty state": self.penalties,
            "swapped KV": self.swapped,
        }
        largest = sorted(consumers.items(), key=lambda item: -item[1])[:3]
        return ", ".join(f"{name} {size / _GIB:.2f} GiB" for name, size in largest)


def check_weights(memory: Memory, free_bytes: int) -> None:
    """Raise ``ValueError`` if the weights leave no room to run, before they are read."""
    needed = memory.weights + memory.reserved_bytes
    if needed > free_bytes:
        raise ValueError(
            f"the model does not fit: {memory.described(0)}, together {needed / _GIB:.2f} GiB; "
            f"{free_bytes / _GIB:.2f} GiB are free. Use a smaller model or a smaller type of "
            "weights, or lower runner.max_seqs and batcher.max_step_tokens"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """True for the errors by which Python and torch say that an allocation failed."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "allocate memory" in text


@contextmanager
def explained(memory: Memory, kv_bytes: int) -> Iterator[None]:
    """Turn a failed allocation into a ``ValueError`` that names the largest consumers."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ValueError(
            f"out of memory: {memory.described(kv_bytes)}; {host_memory_bytes() / _GIB:.2f} GiB "
            "are left. Lower cache.num_blocks or cache.memory_gib, runner.max_seqs or "
            "batcher.max_step_tokens, or use a smaller model"
        ) from error


def _advice(fitting: int, block_size: int) -> str:
    if fitting < 2:
        return "Use a smaller model, or lower runner.max_seqs or batcher.max_step_tokens"
    tokens = (fitting - 1) * block_size
    return f"Set cache.num_blocks={fitting}, which would fit (model.max_len={tokens} at most)"


def host_memory_bytes(root: Path = Path("/")) -> int:
    """Memory this process may still take: what the kernel calls available, or what the container's
    limit leaves, whichever is less. ``root`` is where /proc and /sys are looked for."""
    available = _meminfo_available(root / "proc/meminfo")
    for limit_file, usage_file in _CGROUPS:
        limit = _read_int(root / limit_file[1:])
        usage = _read_int(root / usage_file[1:])
        if limit is not None and usage is not None:
            usage -= _reclaimable((root / usage_file[1:]).with_name("memory.stat"))
            available = min(available, max(limit - usage, 0))
    return available


def size_pool(
    config: CacheConfig,
    *,
    block_bytes: int,
    free_bytes: int,
    max_len: int,
    max_len_is_explicit: bool,
    max_seqs: int,
    memory: Memory | None = None,
) -> PoolSize:
    """Blocks for the pool, and the context limit that goes with them.

    ``free_bytes`` is what is left after the weights; ``memory`` says what else will want some.
    ``max_len`` is the model's or the configured limit; where the pool cannot hold it, a configured
    one is an error and the model's is lowered. Raises ``ValueError`` with numbers.
    """
    size, memory = config.block_size, memory or Memory()
    blocks_per_seq = -(-max_len // size)
    left_bytes = max(free_bytes - memory.reserved_bytes, 0)
    num_blocks, rule = _wanted(config, block_bytes, left_bytes, max_seqs * blocks_per_seq)
    needed = num_blocks * block_bytes
    fitting = left_bytes // block_bytes
    if needed > left_bytes:
        raise ValueError(
            f"cache: {num_blocks} blocks of {block_bytes} bytes do not fit: "
            f"{memory.described(needed)}; {free_bytes / _GIB:.2f} GiB are free after the weights. "
            + _advice(fitting, size)
        )
    capacity = (num_blocks - 1) * size
    if num_blocks < 2 and fitting < 2:
        raise ValueError(
            f"cache: no room for 2 blocks of {block_bytes} bytes: {memory.described(needed)}; "
            f"{free_bytes / _GIB:.2f} GiB are free after the weights. {_advice(fitting, size)}"
        )
    if num_blocks < 2:
        raise ValueError(
            f"cache: {rule} gives {num_blocks} blocks of {block_bytes} bytes; at least 2 are "
            "needed. Raise cache.memory_gib or lower cache.block_size"
        )
    if capacity < max_len and max_len_is_explicit:
        raise ValueError(
            f"model.max_len={max_len} needs {blocks_per_seq + 1} KV blocks of {size} tokens, but "
            f"{rule} gives {num_blocks}; lower model.max_len to {capacity} or raise the cache"
        )
    if capacity < max_len:
        logger.warning("context limited to %d tokens: %s", capacity, rule)
    return PoolSize(num_blocks, min(max_len, capacity), rule)


def num_host_blocks(config: CacheConfig, block_bytes: int, free_bytes: int) -> int:
    """Blocks that ``cache.host_gib`` has room for. Raises ``ValueError`` if host memory, of which
    ``free_bytes`` are left, has not."""
    num_blocks = int(config.host_gib * _GIB) // block_bytes
    if num_blocks * block_bytes > free_bytes:
        raise ValueError(
            f"cache.host_gib={config.host_gib}: only {free_bytes / _GIB:.2f} GiB of host memory "
            "are free; lower it, or set it to 0"
        )
    return num_blocks


def _wanted(config: CacheConfig, block_bytes: int, free_bytes: int, useful: int) -> tuple[int, str]:
    if config.num_blocks is not None:
        return config.num_blocks, "cache.num_blocks"
    if config.memory_gib is not None:
        return int(config.memory_gib * _GIB) // block_bytes, "cache.memory_gib"
    fraction = int(free_bytes * config.memory_fraction)
    bound = int(config.max_gib * _GIB)
    choices = (
        (useful + 1, "runner.max_seqs sequences of model.max_len"),
        (fraction // block_bytes, "cache.memory_fraction of free memory"),
        (bound // block_bytes, "cache.max_gib"),
    )
    return min(choices)


def _reclaimable(stat: Path) -> int:
    """File cache that the kernel gives back when asked: a checkpoint just read, above all."""
    try:
        fields = dict(line.split() for line in stat.read_text().splitlines())
        return int(fields.get("total_inactive_file", fields.get("inactive_file", 0)))
    except (OSError, ValueError):
        return 0


def _meminfo_available(path: Path) -> int:
    lines = path.read_text().splitlines() if path.exists() else []
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"{path} has no MemAvailable; set cache.memory_gib")


def _read_int(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # absent, or "max": no limit
        return None
