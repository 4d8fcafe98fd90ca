"""The scheduling tables say what the results say; ratios are of the same requests."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import scheduling_table
from benchmarks.scheduling_cells import OURS, REGIMES, STEP_MS, TUNED
from benchmarks.scheduling_record import Document, Kind, Run, Simulated, Tried, read
from benchmarks.scheduling_stats import MEAN, MOST, P50, P99, ratio, value
from benchmarks.scheduling_table import (
    HERE,
    MEASURES,
    RESULT,
    Measure,
    bound,
    others,
    tables,
    verdict,
    written,
    written_ratio,
)
from prelude.bench.result import Interval
from prelude.simulate.records import Gaps

PLAIN = "plain"


def bins(ms: float, count: int) -> dict[int, int]:
    gaps = Gaps()
    gaps.add(ms, count)
    return {int(i): int(gaps.bins[i]) for i in np.flatnonzero(gaps.bins)}


def kind(ttft_ms: list[float], e2e_ms: float, gap_ms: float = 10.0) -> Kind:
    return Kind(
        uids=list(range(len(ttft_ms))),
        ttft=[round(10 * ms) for ms in ttft_ms],
        e2e=[round(10 * e2e_ms)] * len(ttft_ms),
        stall=[200] * len(ttft_ms),
        gaps=bins(gap_ms, 50),
        num_preemptions=0,
    )


def run(variant: str, seed: int, chat_ms: float, deep_ms: float, **changes: Any) -> Run:
    chat = kind([chat_ms * (1 + i / 100) for i in range(100)], chat_ms + 50.0)
    kinds = {"chat": chat, "deep": kind([90.0] * 10, deep_ms), "doc": kind([300.0] * 3, 400.0)}
    fields: dict[str, Any] = {
        "regime": "mixed",
        "load": 0.95,
        "rate": 12.34,
        "at_s": 0.0,
        "wall_s": 30.0,
        "busy_s": 28.0,
        "num_steps": 1000,
        "step_ms": (5.0, 11.0),
        "schedule_us": (80.0, 190.0),
        "tok_s": 2000.0,
        "num_preemptions": 3,
        "num_parks": 5,
        "failures": 0,
        "price_error": 0.1,
        "others_cpu_share": 0.02,
        "kinds": kinds,
    }
    return Run(variant=variant, seed=seed, **(fields | changes))


def document() -> Document:
    runs = [
        one
        for seed in (1, 2)
        for one in (
            run(PLAIN, seed, 400.0, 1000.0),
            run(TUNED, seed, 200.0, 1000.0, tok_s=2010.0),
            run(OURS, seed, 20.0, 1200.0, tok_s=1990.0),
            run("no park", seed, 40.0, 1100.0),
        )
    ]
    return Document(runs=runs, tuned={"mixed": "open 512"})


def test_percentiles_are_of_all_requests() -> None:
    found = {(seed, uid): float(10 * seed + uid) for seed in (1, 2) for uid in range(10)}
    assert value(found, P50) == 19.5
    assert value(found, MOST) == 29.0
    assert value(found, MEAN) == 19.5
    with pytest.raises(LookupError):
        value({}, P50)


def test_a_ratio_is_of_the_requests_that_both_served() -> None:
    ours = {(1, uid): 5.0 for uid in range(50)}
    theirs = {(1, uid): 10.0 for uid in range(40)} | {(2, uid): 1.0 for uid in range(100)}
    found = ratio(ours, theirs, P99)
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)
    with pytest.raises(LookupError):
        ratio(ours, {(3, 0): 1.0}, P99)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.floats(0.1, 100.0), st.floats(0.1, 100.0)), min_size=5, max_size=60))
def test_an_interval_holds_what_it_is_about_and_knows_no_order(
    pairs: list[tuple[float, float]],
) -> None:
    ours = {(1, uid): mine for uid, (mine, _) in enumerate(pairs)}
    theirs = {(1, uid): other for uid, (_, other) in enumerate(pairs)}
    found = ratio(ours, theirs, MEAN, resamples=200)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.high
    assert found.value == pytest.approx(value(ours, MEAN) / value(theirs, MEAN))
    same = ratio(ours, ours, P50, resamples=20)
    assert (same.value, same.low, same.high) == (1.0, 1.0, 1.0)


def test_one_table_has_wins_and_losses() -> None:
    text = tables(document())
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in text.splitlines()}
    assert "12.3 requests/s, 2 paired traces, 200 chat requests; 0 failed" in text
    assert "other processes used 2% of the machine" in text
    assert "tuned FCFS (open 512)" in text
    won = lines["chat TTFT p99, ms"]
    assert "| 39.6 |" in won
    assert "0.100 (0.100 to 0.100)" in won
    assert "0.050" in won
    assert won.rstrip(" |").endswith("aim")
    assert "1.20" in lines["deep end to end mean, ms"]
    assert "**missed**" in lines["deep end to end mean, ms"]
    assert lines["tokens/s, prompts included"].rstrip(" |").endswith("required")
    assert "| 1,990 |" in lines["tokens/s, prompts included"]


def test_what_nobody_measured_is_not_there() -> None:
    assert tables(Document()) == ""
    alone = Document(runs=[run(OURS, 1, 20.0, 1200.0)])
    assert tables(alone) == ""


def test_an_ablation_stands_beside_the_whole() -> None:
    text = tables(document())
    part = text[text.index("What each mechanism is worth") :]
    rows = [line for line in part.splitlines() if line.startswith("| ")]
    assert rows[1].startswith("| class_aware | ")
    assert rows[2].startswith("| without park | ")
    assert "2.00 (2.00 to 2.00)" in rows[2]


def test_an_ablation_is_compared_on_the_seeds_it_has() -> None:
    found = document()
    found.runs = [r for r in found.runs if (r.variant, r.seed) != ("no park", 2)]
    assert "2.00 (2.00 to 2.00)" in tables(found)


def test_only_traces_that_all_policies_have_are_in_a_table() -> None:
    found = document()
    found.runs = [r for r in found.runs if (r.variant, r.seed) != (TUNED, 2)]
    paired = found.paired("mixed", 0.95, (PLAIN, TUNED, OURS, "priority"))
    assert {name: [r.seed for r in of] for name, of in paired.items()} == {
        PLAIN: [1],
        TUNED: [1],
        OURS: [1],
    }
    assert "1 paired traces" in tables(found)
    assert found.paired("mixed", 0.7, (OURS,)) == {}


def test_the_simulator_stands_beside_the_engine() -> None:
    found = document()
    found.simulated = [
        Simulated("mixed", 0.95, seed, name, 1.0, p99, None, 1.0)
        for seed in (1, 2)
        for name, p99 in ((OURS, 30.0), (PLAIN, 600.0))
    ]
    text = tables(found)
    assert "The simulator beside it" in text
    assert "| 0.050 |" in text


def test_gaps_beside_a_long_prompt_are_held_against_the_budget() -> None:
    runs = [
        run(name, 1, 20.0, 100.0, regime="long", load=0.3, beside_long=bins(ms, 100))
        for name, ms in ((PLAIN, 500.0), (TUNED, 60.0), (OURS, 1.2 * STEP_MS))
    ]
    text = tables(Document(runs=runs))
    line = next(line for line in text.splitlines() if "over the step budget" in line)
    assert "| 1.20" in line
    assert line.rstrip(" |").endswith("required")


@pytest.mark.parametrize(
    ("required", "aim", "found", "more", "expected"),
    [
        (1.15, 1.0, 1.0, False, "aim"),
        (1.15, 1.0, 1.1, False, "required"),
        (1.15, 1.0, 1.2, False, "**missed**"),
        (None, 1.5, 1.4, False, "aim"),
        (None, 1.5, 1.6, False, "not the aim"),
        (None, None, 9.0, False, ""),
        (0.97, 1.0, 0.98, True, "required"),
        (0.97, 1.0, 0.96, True, "**missed**"),
        (0.97, 1.0, 1.01, True, "aim"),
    ],
)
def test_verdicts(
    required: float | None, aim: float | None, found: float, more: bool, expected: str
) -> None:
    measure = Measure("", lambda runs: 0.0, None, required, aim, more)
    assert verdict(measure, found) == expected


def test_bounds_and_ratios_are_short() -> None:
    assert bound(Measure("", lambda runs: 0.0, None, 1 / 3, 1 / 8)) == "≤ 0.333 / ≤ 0.125"
    assert bound(Measure("", lambda runs: 0.0, None, 0.97, 1.0, True)) == "≥ 0.97 / ≥ 1"
    assert bound(Measure("", lambda runs: 0.0)) == ""
    assert written_ratio(Interval(0.0512, 0.04, 0.06)) == "0.051 (0.040 to 0.060)"
    assert written_ratio(Interval(1.5, None, None)) == "1.50"


def test_every_regime_has_its_measures() -> None:
    assert set(MEASURES) == set(REGIMES)
    for measures in MEASURES.values():
        assert len({measure.title for measure in measures}) == len(measures)


def test_only_what_is_between_the_marks_is_written() -> None:
    page = "before\n<!-- scheduling -->\nold\n<!-- end of scheduling -->\nafter\n"
    text = written(page, document())
    assert text.startswith("before\n<!-- scheduling -->\n")
    assert text.endswith("<!-- end of scheduling -->\nafter\n")
    assert "old" not in text
    assert written(text, document()) == text


def test_the_page_is_up_to_date() -> None:
    page = (HERE / "README.md").read_text()
    assert written(page, read(RESULT), others()) == page, (
        "run python -m benchmarks.scheduling_table"
    )


def test_the_result_is_small_enough_to_keep() -> None:
    assert not RESULT.exists() or RESULT.stat().st_size < 3_000_000


def test_the_command_writes_the_page(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "README.md"
    page.write_text("<!-- scheduling -->\n<!-- end of scheduling -->\n")
    monkeypatch.setattr(scheduling_table, "HERE", tmp_path)
    monkeypatch.setattr(scheduling_table, "RESULT", tmp_path / "none.json")
    monkeypatch.setattr(scheduling_table, "DECISIONS", tmp_path / "none.json")
    monkeypatch.setattr(scheduling_table, "HTTP", tmp_path)
    assert scheduling_table.main() == 0
    assert page.read_text() == written(page.read_text(), Document())


def test_a_candidate_needs_no_gaps() -> None:
    empty = run(PLAIN, 1, 20.0, 100.0)
    assert Tried.of(empty, "open 128").gap_p99 == pytest.approx(10.0, rel=0.01)
