"""When promises run out: which sequences are past a deadline of theirs.

A request whose first token is due and that nothing has been computed for is not worth beginning;
one whose whole answer is due is not worth going on with.
"""

from heapq import heapify, heappop, heappush
from typing import NamedTuple

from prelude.batcher.sequence import NO_SLOT, Sequence
from prelude.types.errors import Refusal, RefusalCode

_SPARE = 256


class _Entry(NamedTuple):
    due_s: float
    seq_id: int
    code: RefusalCode
    limit_ms: float
    seq: Sequence


class Deadlines:
    """Of all unfinished sequences; as large as there are such with deadlines, or twice that."""

    def __init__(self) -> None:
        self._heap: list[_Entry] = []
        self._limit = _SPARE

    def __len__(self) -> int:
        return len(self._heap)

    def watch(self, seq: Sequence) -> None:
        """From its arrival on."""
        hints, arrival_s = seq.request.hints, seq.arrival_s
        if hints.ttft_deadline_ms is not None:
            self._push(seq, arrival_s, "ttft_expired", hints.ttft_deadline_ms)
        if hints.deadline_ms is not None:
            self._push(seq, arrival_s, "deadline_expired", hints.deadline_ms)

    def expired(self, now_s: float) -> list[tuple[Sequence, Refusal]]:
        """Those to be ended now, each once. Of a first token only who has no slot and no output
        is late: what has been begun is not thrown away for it."""
        found: dict[int, tuple[Sequence, Refusal]] = {}
        while self._heap and self._heap[0].due_s <= now_s:
            entry = heappop(self._heap)
            if entry.seq.finish_reason is None and _counts(entry):
                refusal = Refusal(
                    entry.code,
                    service_class=entry.seq.service_class,
                    estimate_ms=entry.limit_ms + (now_s - entry.due_s) * 1e3,
                    limit_ms=entry.limit_ms,
                )
                found.setdefault(entry.seq_id, (entry.seq, refusal))
        return list(found.values())

    def _push(self, seq: Sequence, arrival_s: float, code: RefusalCode, limit_ms: float) -> None:
        heappush(self._heap, _Entry(arrival_s + limit_ms / 1e3, seq.seq_id, code, limit_ms, seq))
        if len(self._heap) > self._limit:
            self._heap = [entry for entry in self._heap if entry.seq.finish_reason is None]
            heapify(self._heap)
            self._limit = 2 * len(self._heap) + _SPARE


def _counts(entry: _Entry) -> bool:
    if entry.code == "ttft_expired":
        return entry.seq.slot == NO_SLOT and not entry.seq.num_output
    return True
