"""What one sequence gets of a step, and the sums of the launches that it is part of."""

from collections.abc import Sequence

import msgspec

from prelude.batcher.view import SequenceView, SystemView
from prelude.types.plan import LaunchKind
from prelude.types.prices import Sums
from prelude.types.request import SampleMode

Lanes = dict[LaunchKind, Sums]  # the launches of a step


class Pick(msgspec.Struct, frozen=True, gc=False):
    """``count`` new tokens from ``start`` on. ``mode`` is None where the last of them is not
    sampled."""

    seq: SequenceView
    start: int
    count: int
    mode: SampleMode | None

    @classmethod
    def of(cls, seq: SequenceView, start: int, count: int) -> "Pick":
        samples = start + count == seq.num_tokens and not seq.embeds
        return cls(seq, start, count, seq.sample_mode if samples else None)

    @property
    def is_last(self) -> bool:
        """True if nothing of its tokens is left for a later step."""
        return self.start + self.count == self.seq.num_tokens


def moved(lanes: Lanes, lane: LaunchKind, pick: Pick, sign: int = 1) -> Lanes:
    """With a pick more, or less."""
    sums = lanes[lane].plus(pick.start, pick.count, pick.mode, sign)
    return {**lanes, lane: sums}


def num_alike(rows: Sequence[SequenceView], view: SystemView, num_available: int) -> int:
    """Steps in which all of these can decode: until one ends, or blocks are short. At least one."""
    size = view.block_size
    room = min([len(seq.blocks) * size - seq.num_computed for seq in rows])
    room = max(room, num_available // len(rows) * size)
    return max(min(room, min([seq.num_remaining for seq in rows])), 1) if room > 1 else 1
