"""The table of ``benchmarks.scheduling_http``, and ``class_aware`` held against each of the others:
at the rate that is the load of the first server, and each at the same load of its own.
"""

import math
from collections.abc import Sequence

from benchmarks.scheduling_cells import OURS
from benchmarks.scheduling_http import HttpDocument, Level
from benchmarks.scheduling_stats import P50, P99, value

_COLUMNS = (
    "server",
    "requests/s",
    "of what it sustains",
    "chat TTFT p50, ms",
    "p99, ms",
    "p99 over `class_aware`'s, same rate",
    "same load",
    "chat longest gap p99, ms",
    "deep end to end p50, ms",
    "tokens/s",
    "failed",
)


def table(document: HttpDocument) -> str:
    """Nothing where nothing was measured."""
    if not document.levels:
        return ""
    count = min(len(_of(level, "chat", 1)) for level in document.levels)
    title = (
        f"\n**Over HTTP, {document.model}, lengths times {document.scale:g}, at {document.load:g} "
        f"of what {document.levels[0].server} sustains and of what each sustains itself**; at "
        f"least {count} chat requests each:\n\n"
    )
    rows = [f"| {' | '.join(_COLUMNS)} |\n", f"|{'---|' * len(_COLUMNS)}\n"]
    return title + "".join([*rows, *(_row(level, document.levels) for level in document.levels)])


def _row(level: Level, levels: Sequence[Level]) -> str:
    chat, deep = _of(level, "chat", 1), _of(level, "deep", 2)
    cells = (
        level.server,
        f"{level.rate:.2f}",
        f"{level.rate / level.sustained:.2f}",
        f"{value(chat, P50):,.1f}",
        f"{value(chat, P99):,.1f}",
        _over(level, [other for other in levels if math.isclose(other.rate, level.rate)]),
        _over(level, [other for other in levels if math.isclose(_load(other), _load(level))]),
        f"{value(_of(level, 'chat', 3), P99):,.1f}",
        f"{value(deep, P50):,.0f}" if deep else "",
        f"{level.tok_s:,.0f}",
        str(sum(level.failures.values())),
    )
    return f"| {' | '.join(cells)} |\n"


def _load(level: Level) -> float:
    return level.rate / level.sustained


def _over(level: Level, among: Sequence[Level]) -> str:
    ours = [other for other in among if other.server == OURS]
    if level.server == OURS or not ours:
        return ""
    return f"{value(_of(level, 'chat', 1), P99) / value(_of(ours[0], 'chat', 1), P99):.1f}"


def _of(level: Level, kind: str, field: int) -> dict[tuple[int, int], float]:
    """One of the numbers of a kind's samples, under keys as ``value`` wants them."""
    found = (sample for sample in level.samples if sample[0] == kind)
    return {(0, number): float(sample[field]) for number, sample in enumerate(found)}
