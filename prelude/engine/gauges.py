"""Counts by service class, for people who watch."""

from prelude.batcher.ledger import Ledger
from prelude.types.service import SERVICE_CLASSES, ServiceClass
from prelude.types.wire import ClassStats


def count_classes(ledger: Ledger) -> tuple[ClassStats, ...]:
    """One record for each of ``SERVICE_CLASSES``. Shared blocks count for everyone who holds
    them; parked sequences do not count as waiting."""
    counts: dict[ServiceClass, list[int]] = {name: [0, 0, 0, 0] for name in SERVICE_CLASSES}
    for seq in ledger.all_unfinished():
        count = counts[seq.service_class]
        count[_column(seq.slot >= 0, bool(seq.blocks))] += 1
        count[3] += len(seq.blocks)
    return tuple(ClassStats(*counts[name]) for name in SERVICE_CLASSES)


def _column(is_resident: bool, has_blocks: bool) -> int:
    return 1 if is_resident else 2 if has_blocks else 0
