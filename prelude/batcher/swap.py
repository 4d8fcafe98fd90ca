"""Sequences whose KV waits in host memory. Who loses its blocks is computed again later, or its KV
is copied to the host and back: whichever is sooner done by the price list, as long as there is room
and no copy keeps the streams waiting for more than a step.
"""

from dataclasses import dataclass, field

from prelude.batcher.sequence import Sequence
from prelude.batcher.view import PrefixHit, ScheduleConfig, SequenceView, SystemView
from prelude.cache.host import HostPool
from prelude.cache.pool import BlockPool
from prelude.types.plan import BlockCopy


@dataclass(slots=True)
class Copies:
    """Of one step that is being composed. ``out`` are those whose KV goes to the host, ``ms`` is
    what all copies of the step cost."""

    view: SystemView
    config: ScheduleConfig
    out: list[int] = field(default_factory=list)
    ms: float = 0.0
    _num_out: int = 0  # blocks
    _in_ms: dict[int, float] = field(default_factory=dict)

    def take(self, victim: SequenceView) -> bool:
        """Decide about a sequence that loses its blocks: True if its KV goes to the host."""
        num = len(victim.blocks)
        if not self._pays(victim):
            return False
        self.out.append(victim.seq_id)
        self._num_out += num
        self.ms += num * self.config.swap_ms
        return True

    def lost_ms(self, victim: SequenceView) -> float:
        """Device time that it costs to take a sequence's blocks, and to have its KV again."""
        if self._pays(victim):
            return 2.0 * len(victim.blocks) * self.config.swap_ms
        return self._again_ms(victim)

    def _pays(self, victim: SequenceView) -> bool:
        """True if copying is possible, and cheaper than computing again."""
        num, config = len(victim.blocks), self.config
        if not config.rules.use.swap or self._num_out + num > self.view.num_free_host_blocks:
            return False
        one_way_ms = num * config.swap_ms
        return one_way_ms <= config.step_ms and 2.0 * one_way_ms < self._again_ms(victim)

    def _again_ms(self, victim: SequenceView) -> float:
        """What others hold of it too need not be computed again."""
        lost = min(self.view.reclaimable(victim) * self.view.block_size, victim.num_computed)
        return victim.token_ms * lost

    def bring(self, seq: SequenceView, hit: PrefixHit) -> None:
        """A sequence comes back: what it finds on the device need not be copied."""
        if hit.num_copied:
            self._in_ms[seq.seq_id] = hit.num_copied * self.config.swap_ms
            self.ms += self._in_ms[seq.seq_id]

    def leave(self, seq_id: int) -> None:
        """It does not come back in this step after all."""
        self.ms -= self._in_ms.pop(seq_id, 0.0)


class Shelf:
    """Host memory for ``num_blocks`` KV blocks of ``pool``'s sequences. ``num_swaps`` sequences
    have gone there, ``num_copied`` blocks there or back."""

    def __init__(self, pool: BlockPool, num_blocks: int) -> None:
        self.host = HostPool(num_blocks)
        self.num_swaps = 0
        self.num_copied = 0
        self._pool = pool

    def take(self, seq: Sequence) -> BlockCopy:
        """Room for all its KV; its blocks on the device are still to be let go."""
        seq.host_blocks = self.host.allocate(len(seq.blocks))
        self.num_swaps += 1
        self.num_copied += len(seq.blocks)
        return BlockCopy(tuple(seq.blocks), tuple(seq.host_blocks))

    def give_back(self, seq: Sequence, kept: list[int]) -> BlockCopy:
        """Blocks on the device again, the first of which, already acquired, are still as they
        were."""
        host_ids = tuple(seq.host_blocks[len(kept) :])
        new = self._pool.allocate(len(host_ids))
        seq.blocks = [*kept, *new]
        seq.num_published = len(kept)
        self.num_copied += len(new)
        self.drop(seq)
        return BlockCopy(tuple(new), host_ids)

    def drop(self, seq: Sequence) -> None:
        """Its KV on the host is not needed any more."""
        self.host.release(seq.host_blocks)
        seq.host_blocks = []
