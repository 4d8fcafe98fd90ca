"""The size of the KV pool: explicit, or derived from memory, or an error with numbers."""

from pathlib import Path

import pytest
import torch

from prelude.cache.layout import KVLayout
from prelude.cache.sizing import (
    Memory,
    PoolSize,
    check_weights,
    host_memory_bytes,
    num_host_blocks,
    size_pool,
)
from prelude.conf.schema import CacheConfig

MIB = 2**20
GIB = 2**30


def size(
    config: CacheConfig,
    *,
    block_bytes: int = MIB,
    free_gib: float = 8.0,
    max_len: int = 4096,
    explicit: bool = False,
    max_seqs: int = 64,
    memory: Memory | None = None,
) -> PoolSize:
    return size_pool(
        config,
        block_bytes=block_bytes,
        free_bytes=int(free_gib * GIB),
        max_len=max_len,
        max_len_is_explicit=explicit,
        max_seqs=max_seqs,
        memory=memory,
    )


def test_an_explicit_number_is_taken() -> None:
    assert size(CacheConfig(num_blocks=300)).num_blocks == 300


def test_explicit_memory_is_turned_into_blocks() -> None:
    assert size(CacheConfig(memory_gib=1.0)).num_blocks == 1024


def test_by_default_a_fraction_of_what_is_free_up_to_a_bound() -> None:
    half = size(CacheConfig(), free_gib=4.0)
    assert (half.num_blocks, half.rule) == (2048, "cache.memory_fraction of free memory")
    bounded = size(CacheConfig(), free_gib=100.0)
    assert (bounded.num_blocks, bounded.rule) == (4096, "cache.max_gib")


def test_never_more_than_all_slots_could_use() -> None:
    small = size(CacheConfig(), max_len=64, max_seqs=2)
    assert small.num_blocks == 2 * 4 + 1
    assert "max_seqs" in small.rule


def test_the_models_context_is_lowered_to_what_fits() -> None:
    assert size(CacheConfig(num_blocks=11)).max_len == 160


def test_a_configured_context_that_does_not_fit_is_an_error_with_numbers() -> None:
    with pytest.raises(ValueError, match=r"max_len=4096 needs 257 KV blocks .* gives 11; .* 160"):
        size(CacheConfig(num_blocks=11), explicit=True)


def test_more_than_there_is_names_the_consumers_and_says_what_would_fit() -> None:
    memory = Memory(weights=3 * GIB, workspace=GIB // 2, penalties=GIB // 4)
    with pytest.raises(ValueError) as caught:
        size(CacheConfig(num_blocks=10_000), memory=memory)
    assert str(caught.value) == (
        "cache: 10000 blocks of 1048576 bytes do not fit: KV cache 9.77 GiB, weights 3.00 GiB, "
        "activations and logits 0.50 GiB; 8.00 GiB are free after the weights. "
        "Set cache.num_blocks=7424, which would fit (model.max_len=118768 at most)"
    )
    assert size(CacheConfig(num_blocks=7424), memory=memory).num_blocks == 7424


def test_host_memory_is_turned_into_blocks() -> None:
    assert num_host_blocks(CacheConfig(), MIB, 8 * GIB) == 0
    assert num_host_blocks(CacheConfig(host_gib=2.5), MIB, 8 * GIB) == 2560
    assert num_host_blocks(CacheConfig(host_gib=0.0009), MIB, 0) == 0
    assert num_host_blocks(CacheConfig(host_gib=8.0), 3 * MIB, 8 * GIB) == 8 * 1024 // 3


def test_more_host_memory_than_there_is_is_an_error_with_numbers() -> None:
    with pytest.raises(ValueError, match=r"cache.host_gib=8.0: only 7.50 GiB of host memory"):
        num_host_blocks(CacheConfig(host_gib=8.0), MIB, 15 * GIB // 2)


def test_on_cpu_both_pools_share_one_memory() -> None:
    memory = Memory(swapped=3 * GIB)
    assert memory.reserved_bytes == 3 * GIB
    half = size(CacheConfig(max_gib=64.0), free_gib=9.0, max_seqs=1000, memory=memory)
    assert half.num_blocks == 3 * 1024
    assert "swapped KV 3.00 GiB" in memory.described(GIB)


def test_what_steps_need_is_left_free() -> None:
    memory = Memory(weights=3 * GIB, workspace=GIB, penalties=GIB)
    assert size(CacheConfig(), free_gib=4.0, memory=memory).num_blocks == 1024


def test_no_room_at_all_says_what_to_lower() -> None:
    memory = Memory(weights=3 * GIB, workspace=4 * GIB, penalties=4 * GIB)
    with pytest.raises(ValueError, match=r"penalty state 4\.00 GiB.*lower runner\.max_seqs"):
        size(CacheConfig(), memory=memory)


def test_weights_that_leave_no_room_are_refused_before_they_are_read() -> None:
    check_weights(Memory(weights=2 * GIB, workspace=GIB), 3 * GIB)
    with pytest.raises(ValueError, match=r"weights 2\.00 GiB.*together 3\.25 GiB; 3\.00 GiB are"):
        check_weights(Memory(weights=2 * GIB, workspace=GIB, penalties=GIB // 4), 3 * GIB)


def test_too_little_for_one_block_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least 2 are needed"):
        size(CacheConfig(memory_gib=0.001))


def _tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MEMINFO = "MemTotal: 9000 kB\nMemAvailable:    4000 kB\n"


def test_without_a_container_the_kernels_word_counts(tmp_path: Path) -> None:
    files = {"proc/meminfo": MEMINFO, "sys/fs/cgroup/memory.max": "max\n"}
    assert host_memory_bytes(_tree(tmp_path, files)) == 4000 * 1024


@pytest.mark.parametrize(
    ("limit", "usage"),
    [
        ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory.current"),
        (
            "sys/fs/cgroup/memory/memory.limit_in_bytes",
            "sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ],
)
def test_a_containers_limit_counts(tmp_path: Path, limit: str, usage: str) -> None:
    files = {"proc/meminfo": MEMINFO, limit: "3000000\n", usage: "1000000\n"}
    assert host_memory_bytes(_tree(tmp_path, files)) == 2_000_000


def test_file_cache_in_a_container_is_not_used_up(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/memory"
    files = {
        "proc/meminfo": MEMINFO,
        f"{group}.max": "3000000\n",
        f"{group}.current": "2900000\n",
        f"{group}.stat": "anon 1000000\ninactive_file 1900000\n",
    }
    assert host_memory_bytes(_tree(tmp_path, files)) == 2_000_000


def test_no_meminfo_is_the_same_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"set cache\.memory_gib"):
        host_memory_bytes(tmp_path)


def test_a_strange_meminfo_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"set cache\.memory_gib"):
        host_memory_bytes(_tree(tmp_path, {"proc/meminfo": "nothing\n"}))


def test_a_layout_knows_its_bytes_and_its_identity() -> None:
    layout = KVLayout(3, 16, 2, 32, torch.float32)
    kv = layout.allocate(5, torch.device("cpu"))
    assert len(kv) == 3
    assert kv[0].shape == (5, 2, 16, 2, 32)
    assert layout.block_bytes * 5 == sum(t.numel() * t.element_size() for t in kv)
    assert layout.digest == KVLayout(3, 16, 2, 32, torch.float32).digest
    assert layout.digest != KVLayout(3, 16, 2, 32, torch.float16).digest
