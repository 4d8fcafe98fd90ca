"""The tables of ``benchmarks/README.md`` about scheduling, written from the results:

    python -m benchmarks.scheduling_table

Every regime has one table, wins and losses in it; a ratio is ``class_aware`` over the baseline, of
the same requests, with its 95 % interval where it is one of requests. Nothing is typed by hand.
"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import msgspec

from benchmarks import scheduling_decide, scheduling_http_table
from benchmarks.scheduling_cells import FAST, MAIN, OURS, REGIMES, STEP_MS, TUNED, VARIANTS
from benchmarks.scheduling_http import HttpDocument
from benchmarks.scheduling_record import Document, Run, keyed, pooled, read
from benchmarks.scheduling_stats import MEAN, P50, P90, P99, Statistic, ratio, value
from prelude.bench.result import Interval

HERE = Path(__file__).parent
RESULT = HERE / "results/cpu/scheduling.json"
DECISIONS = HERE / "results/cpu/scheduling_decide.json"
HTTP = HERE / "results/cpu"  # scheduling_http*.json
BEGIN, END = "<!-- scheduling -->\n", "<!-- end of scheduling -->\n"
PLAIN = "plain"


@dataclass(frozen=True, slots=True)
class Measure:
    """One row. ``of`` gives a policy's number, ``against`` its ratio to a baseline's; ``required``
    and ``aim`` bound the ratio to tuned FCFS, from above, or from below if more is better."""

    title: str
    of: Callable[[list[Run]], float]
    against: Callable[[list[Run], list[Run]], Interval] | None = None
    required: float | None = None
    aim: float | None = None
    more_is_better: bool = False
    digits: int = 1


def latency(
    title: str,
    kind: str,
    field: str,
    statistic: Statistic,
    required: float | None = None,
    aim: float | None = None,
) -> Measure:
    """Milliseconds of all requests of a kind."""

    def of(runs: list[Run]) -> float:
        return value(keyed(runs, kind, field), statistic)

    def against(ours: list[Run], theirs: list[Run]) -> Interval:
        return ratio(keyed(ours, kind, field), keyed(theirs, kind, field), statistic)

    return Measure(f"{title} {statistic.name}, ms", of, against, required, aim)


def gap(
    quantile: str, kind: str, required: float | None = None, aim: float | None = None
) -> Measure:
    """Milliseconds between tokens, all of them."""

    def of(runs: list[Run]) -> float:
        summary = pooled(run.kinds[kind].gaps for run in runs)
        if summary is None:
            raise LookupError(kind)
        return float(getattr(summary, quantile).value)

    return Measure(f"{kind} between tokens {quantile}, ms", of, _plainly(of), required, aim)


def _plainly(of: Callable[[list[Run]], float]) -> Callable[[list[Run], list[Run]], Interval]:
    """A ratio without an interval."""
    return lambda ours, theirs: Interval(of(ours) / max(of(theirs), 1e-9), None, None)


def counter(title: str, field: Callable[[Run], float], digits: int = 0) -> Measure:
    return Measure(title, lambda runs: fmean(map(field, runs)), digits=digits)


def tokens_a_second(required: float | None, aim: float | None) -> Measure:
    def of(runs: list[Run]) -> float:
        return fmean(run.tok_s for run in runs)

    return Measure("tokens/s, prompts included", of, _plainly(of), required, aim, True, 0)


def _longest_wait(runs: list[Run]) -> float:
    return max(max(kind.ttft, default=0) for run in runs for kind in run.kinds.values()) / 10.0


COUNTERS = (
    Measure(
        "longest wait of anybody for a first token, ms", _longest_wait, _plainly(_longest_wait)
    ),
    counter("evictions a run", lambda run: run.num_preemptions),
    counter("parks a run", lambda run: run.num_parks),
    counter("schedule() p50, µs", lambda run: run.schedule_us[0]),
    counter("schedule() p99, µs", lambda run: run.schedule_us[1]),
)


def mixed(required: float, aim: float) -> tuple[Measure, ...]:
    """Of a mix of kinds; ``required`` and ``aim`` are for chat's p99 to the first token."""
    return (
        latency("chat TTFT", FAST, "ttft", P50, 1.0, 1.0),
        latency("chat TTFT", FAST, "ttft", P90),
        latency("chat TTFT", FAST, "ttft", P99, required, aim),
        latency("chat end to end", FAST, "e2e", P50),
        latency("chat end to end", FAST, "e2e", P90),
        latency("chat end to end", FAST, "e2e", P99),
        gap("p50", FAST),
        gap("p99", FAST),
        latency("chat longest gap", FAST, "stall", P99),
        latency("deep TTFT", "deep", "ttft", P99),
        latency("deep end to end", "deep", "e2e", MEAN, 1.15, 1.0),
        latency("deep end to end", "deep", "e2e", P99),
        gap("p99", "deep"),
        latency("doc TTFT", "doc", "ttft", P50),
        latency("doc TTFT", "doc", "ttft", P99, None, 1.5),
        latency("doc end to end", "doc", "e2e", P99),
        tokens_a_second(0.97, 1.0),
        *COUNTERS,
    )


def short() -> tuple[Measure, ...]:
    """Where nobody has anything to win."""
    fields = (("chat TTFT", "ttft"), ("chat end to end", "e2e"), ("chat longest gap", "stall"))
    return (
        *(
            latency(title, FAST, field, statistic, 1.05, 1.02)
            for title, field in fields
            for statistic in (P50, P90, P99)
        ),
        *(gap(name, FAST, 1.05, 1.02) for name in ("p50", "p90", "p99")),
        tokens_a_second(0.97, 1.0),
        *COUNTERS,
    )


def beside_long() -> tuple[Measure, ...]:
    def gaps(quantile: str) -> Measure:
        def of(runs: list[Run]) -> float:
            summary = pooled(run.beside_long for run in runs)
            if summary is None:
                raise LookupError(quantile)
            return float(getattr(summary, quantile).value)

        return Measure(f"chat between tokens meanwhile {quantile}, ms", of, _plainly(of))

    def of_budget(runs: list[Run]) -> float:
        return gaps("p99").of(runs) / STEP_MS

    return (
        gaps("p50"),
        gaps("p99"),
        Measure(
            f"the same over the step budget of {STEP_MS:g} ms",
            of_budget,
            lambda ours, theirs: Interval(of_budget(ours), None, None),
            1.5,
            1.1,
            digits=2,
        ),
        latency("chat TTFT", FAST, "ttft", P50),
        latency("chat TTFT", FAST, "ttft", P99),
        latency("TTFT of the long prompt", "doc", "ttft", MEAN),
        *COUNTERS,
    )


def answers() -> tuple[Measure, ...]:
    return tuple(m for m in mixed(0.1, 0.02) if not m.title.startswith("doc"))


MEASURES: dict[str, tuple[Measure, ...]] = {
    "mixed": mixed(1 / 3, 1 / 8),
    "bursts": mixed(1 / 3, 1 / 8),
    "slots": mixed(0.1, 0.02),
    "kv": mixed(0.1, 0.02),
    "short": short(),
    "long": beside_long(),
    "answers": answers(),
}


def written_number(number: float, digits: int) -> str:
    return f"{number:,.{digits}f}"


def written_ratio(found: Interval) -> str:
    text = f"{found.value:.3f}" if found.value < 0.1 else f"{found.value:.2f}"
    if found.low is None or found.high is None:
        return text
    spec = ".3f" if found.value < 0.1 else ".2f"
    return f"{text} ({found.low:{spec}} to {found.high:{spec}})"


def verdict(measure: Measure, found: float) -> str:
    """What was asked for that was reached; nothing where nothing was."""
    sign = -1.0 if measure.more_is_better else 1.0

    def reached(bound: float | None) -> bool:
        return bound is not None and sign * found <= sign * bound + 5e-4

    if reached(measure.aim):
        return "aim"
    if measure.required is None:
        return "" if measure.aim is None else "not the aim"
    return "required" if reached(measure.required) else "**missed**"


def bound(measure: Measure) -> str:
    """Required and aim, as ratios."""
    sign = "≥" if measure.more_is_better else "≤"
    texts = [
        f"{sign} {number:.3g}" if number is not None else "-"
        for number in (measure.required, measure.aim)
    ]
    return " / ".join(texts) if texts != ["-", "-"] else ""


def line(measure: Measure, runs: dict[str, list[Run]]) -> str:
    """Raises ``LookupError`` if a policy has nothing of it."""
    numbers = [written_number(measure.of(of), measure.digits) for of in runs.values()]
    ratios = ["", ""]
    met = ""
    if measure.against is not None and OURS in runs:
        baselines = [name for name in (TUNED, PLAIN) if name in runs]
        found = [measure.against(runs[OURS], runs[name]) for name in baselines]
        ratios = [written_ratio(one) for one in found] + [""] * (2 - len(found))
        met = verdict(measure, found[0].value) if found else ""
    cells = (measure.title, *numbers, *ratios, bound(measure), met)
    return f"| {' | '.join(cells)} |\n"


def cell_table(document: Document, regime: str, load: float) -> str:
    """All policies in one regime at one load; empty where nothing was measured."""
    runs = document.paired(regime, load, MAIN)
    if len(runs) < 2 or not runs.get(OURS):
        return ""
    titles = {
        PLAIN: "plain FCFS",
        TUNED: f"tuned FCFS ({document.tuned.get(regime, '')})",
        "priority": "priority, true labels",
    }
    heads = [titles.get(name, f"`{name}`") for name in runs]
    columns = ["", *heads, "against tuned", "against plain", "required / aim", "reached"]
    rows = [f"| {' | '.join(columns)} |\n", f"|{'---|' * len(columns)}\n"]
    for measure in MEASURES[regime]:
        try:
            rows.append(line(measure, runs))
        except LookupError:
            continue
    return heading(document, regime, load, runs) + "".join(rows)


def heading(document: Document, regime: str, load: float, runs: dict[str, list[Run]]) -> str:
    first = next(iter(runs.values()))
    num = len(keyed(runs[OURS], FAST, "ttft"))
    shares = [run.others_cpu_share for of in runs.values() for run in of]
    failed = sum(run.failures for of in runs.values() for run in of)
    return (
        f"\n**{REGIMES[regime].title}**, {load:g} of what plain FCFS sustains: "
        f"{first[0].rate:.1f} requests/s, {len(first)} paired traces, {num} chat requests; "
        f"{failed} failed; other processes used {fmean(shares):.0%} of the machine.\n\n"
    )


def ablations(document: Document, regime: str, load: float) -> str:
    """``class_aware`` with something taken away, against all of it."""
    others = [name for name in VARIANTS if name not in MAIN]
    found = document.paired(regime, load, [OURS, *others])
    if len(found) < 2 or not found.get(OURS):
        return ""
    columns = (
        "variant",
        "chat TTFT p50, ms",
        "p99",
        "p99 against the whole",
        "chat gap p99, ms",
        "deep end to end, ms",
        "doc TTFT p99, ms",
        "tokens/s",
        "evictions",
        "parks",
    )
    rows = [f"| {' | '.join(columns)} |\n", f"|{'---|' * len(columns)}\n"]
    rows += [ablation(VARIANTS[name].title, of, found[OURS]) for name, of in found.items()]
    return f"\n*{REGIMES[regime].title}, {load:g}:*\n\n" + "".join(rows)


def ablation(title: str, runs: list[Run], whole: list[Run]) -> str:
    p99 = latency("", FAST, "ttft", P99)
    assert p99.against is not None
    measures = (gap("p99", FAST), latency("", "deep", "e2e", MEAN), latency("", "doc", "ttft", P99))
    cells = (
        title,
        written_number(latency("", FAST, "ttft", P50).of(runs), 1),
        written_number(p99.of(runs), 1),
        written_ratio(p99.against(runs, whole)) if runs is not whole else "",
        *(written_number(measure.of(runs), 1) for measure in measures),
        written_number(fmean(run.tok_s for run in runs), 0),
        written_number(fmean(run.num_preemptions for run in runs), 1),
        written_number(fmean(run.num_parks for run in runs), 1),
    )
    return f"| {' | '.join(cells)} |\n"


def against_simulator(document: Document) -> str:
    """The same ratios on the price list alone."""
    columns = ("regime", "load", "p99 of chat TTFT, class_aware / plain: engine", "simulator")
    rows = []
    for regime, load in dict.fromkeys(run.cell for run in document.runs):
        sides = [
            [s for s in document.simulated if (s.regime, s.load, s.variant) == (regime, load, name)]
            for name in (OURS, PLAIN)
        ]
        real = [document.of(regime, load, name) for name in (OURS, PLAIN)]
        if all(sides) and all(real):
            engine = ratio(keyed(real[0], FAST, "ttft"), keyed(real[1], FAST, "ttft"), P99)
            ours, plain = (fmean(s.ttft_p99 for s in side) for side in sides)
            cells = (
                REGIMES[regime].title,
                f"{load:g}",
                written_ratio(engine),
                f"{ours / plain:.3f}",
            )
            rows.append(f"| {' | '.join(cells)} |\n")
    if not rows:
        return ""
    return f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}\n" + "".join(rows)


def tables(document: Document) -> str:
    """All of it."""
    cells = list(dict.fromkeys(run.cell for run in document.runs))
    order = {name: number for number, name in enumerate(REGIMES)}
    cells.sort(key=lambda cell: (order[cell[0]], cell[1]))
    parts = [cell_table(document, *cell) for cell in cells]
    lost = [text for cell in cells if (text := ablations(document, *cell))]
    if lost:
        parts += ["\n**What each mechanism is worth**: `class_aware` without it.\n", *lost]
    if simulator := against_simulator(document):
        parts += [
            "\n**The simulator beside it**, on the prices that this engine learned:\n",
            simulator,
        ]
    return "".join(parts)


def decisions(path: Path) -> str:
    """What a decision costs, where that was measured."""
    return scheduling_decide.table(json.loads(path.read_text())) if path.exists() else ""


def over_http(folder: Path) -> str:
    """What was measured over HTTP, a table for each model."""
    paths = sorted(folder.glob("scheduling_http*.json"))
    found = [msgspec.json.decode(path.read_bytes(), type=HttpDocument) for path in paths]
    return "".join(map(scheduling_http_table.table, found))


def written(page: str, document: Document, more: str = "") -> str:
    """The page with what is between its marks brought up to date."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}{tables(document)}{more}\n{END}{after}"


def others() -> str:
    """The tables that are not of ``RESULT``."""
    return over_http(HTTP) + decisions(DECISIONS)


def main(argv: Sequence[str] | None = None) -> int:
    path = HERE / "README.md"
    path.write_text(written(path.read_text(), read(RESULT), others()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
