"""Who waits: all of them by age, and a line for each service class by when it is due.

A sequence is due when it came, plus ``patience`` times the price of what it has to compute: so a
cheap one may overtake a dear one, but only if it comes within that time. The order does not change
while they wait, so it costs nothing to keep.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from operator import attrgetter

from prelude.batcher.sequence import Sequence
from prelude.types.service import SERVICE_CLASSES, ServiceClass

_age = attrgetter("seq_id")
_due = attrgetter("due_s", "seq_id")


class Lines:
    """Logarithmic search, linear moves; the class of a sequence must not change while it waits."""

    def __init__(self) -> None:
        self._by_age: list[Sequence] = []
        self._lines: dict[ServiceClass, list[Sequence]] = {name: [] for name in SERVICE_CLASSES}

    def __len__(self) -> int:
        return len(self._by_age)

    def __iter__(self) -> Iterator[Sequence]:
        """The oldest first."""
        return iter(self._by_age)

    def line(self, name: ServiceClass) -> Seq[Sequence]:
        """Those of a class, by when they are due."""
        return self._lines[name]

    def add(self, seq: Sequence) -> None:
        """``queued_s``, ``cost_ms`` and ``patience`` say when it is due."""
        seq.due_s = seq.queued_s + 1e-3 * seq.patience * seq.cost_ms
        insort(self._by_age, seq, key=_age)
        insort(self._lines[seq.service_class], seq, key=_due)

    def remove(self, seq: Sequence) -> None:
        """Raises ``ValueError`` if it does not wait."""
        for line, key in ((self._by_age, _age), (self._lines[seq.service_class], _due)):
            at = bisect_left(line, key(seq), key=key)
            if at == len(line) or line[at] is not seq:
                raise ValueError(f"sequence {seq.seq_id} does not wait")
            del line[at]

    def find(self, seq_id: int) -> Sequence:
        """Raises ``ValueError`` if none of that number waits."""
        at = bisect_left(self._by_age, seq_id, key=_age)
        if at == len(self._by_age) or self._by_age[at].seq_id != seq_id:
            raise ValueError(f"sequence {seq_id} does not wait")
        return self._by_age[at]

    def check(self) -> None:
        """Both orders hold the same sequences."""
        in_lines = sorted(seq.seq_id for line in self._lines.values() for seq in line)
        assert in_lines == [seq.seq_id for seq in self._by_age], "a line is wrong"
