"""What one sequence gets of a step, and the sums of the launches that it is part of."""

import msgspec

from prelude.batcher.view import SequenceView
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
