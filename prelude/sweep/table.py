"""The table: one value a row, for pandas and spreadsheets; and one point a line, for programs."""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from prelude.sweep.outcome import Outcome
from prelude.sweep.points import Point

COLUMNS = ("status", "error", "class", "metric", "stat", "value", "low", "high")


def write_table(path: Path, points: Sequence[Point], outcomes: Sequence[Outcome]) -> None:
    """``point``, a column for each swept key, and ``COLUMNS``. A point that failed has one row,
    with its error and no value."""
    keys = list(dict.fromkeys(key for point in points for key, _ in point.swept))
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["point", *keys, *COLUMNS])
        for number, (point, outcome) in enumerate(zip(points, outcomes, strict=True)):
            swept = dict(point.swept)
            place = [str(number), *(swept.get(key, "") for key in keys)]
            writer.writerows([*place, *cells] for cells in _rows(outcome))


def _rows(outcome: Outcome) -> Iterator[list[str]]:
    if outcome.error:
        yield ["failed", outcome.error, "", "", "", "", "", ""]
    for item in outcome.measures:
        numbers = (item.value, item.low, item.high)
        texts = ["" if number is None else f"{number:.6g}" for number in numbers]
        yield ["ok", "", item.kind, item.metric, item.stat, *texts]


def write_lines(path: Path, points: Sequence[Point], outcomes: Sequence[Outcome]) -> None:
    """JSON lines: what was swept, what became of it, and its measures by name."""
    lines = [
        json.dumps(
            {
                "point": number,
                "swept": dict(point.swept),
                "overrides": list(point.overrides),
                "digest": point.digest,
                "status": "failed" if outcome.error else "ok",
                "error": outcome.error,
                "wall_s": outcome.wall_s,
                "metrics": outcome.values(),
            }
        )
        for number, (point, outcome) in enumerate(zip(points, outcomes, strict=True))
    ]
    path.write_text("".join(f"{line}\n" for line in lines))
