"""The report of a start adds up, and says why."""

import mmap
import os
from pathlib import Path

import pytest

from prelude.engine import startup
from prelude.engine.startup import Startup, process_age_s
from tests.engines import Clock


def report(before_s: float = 0.0) -> Startup:
    return Startup(lambda phase, fraction: None, before_s)


def test_phases_and_the_rest_add_up_to_the_wall_clock() -> None:
    clock = Clock()
    start = Startup(lambda phase, fraction: None, 2.0, clock=clock)
    with start.phase("one"):
        clock.sleep_ms(20.0)
    clock.sleep_ms(10.0)
    with start.phase("two"):
        pass
    start.finish()
    assert list(start.seconds) == ["imports", "one", "two", "other"]
    assert start.seconds["one"] == pytest.approx(0.02)
    assert start.seconds["other"] == pytest.approx(0.01)
    assert sum(start.seconds.values()) == pytest.approx(2.03)


def test_progress_is_told_of_every_phase() -> None:
    told: list[tuple[str, float]] = []
    start = Startup(lambda phase, fraction: told.append((phase, fraction)))
    with start.phase("loading weights"):
        start.progress("loading weights", 0.5)
    assert told == [("loading weights", 0.0), ("loading weights", 0.5)]


@pytest.mark.skipif(not startup._allocated_bytes(), reason="needs /proc")
def test_memory_that_grew_is_seen_and_mapped_files_are_added() -> None:
    start = report()
    with start.phase("loading weights") as phase:
        # Not from the heap, which may have room that is already this process's.
        kept = mmap.mmap(-1, 16_000_000, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        kept.write(b"x" * 16_000_000)
        phase.read_bytes += 123_000_000
    kept.close()
    assert phase.allocated_bytes >= 12_000_000
    assert phase.read_bytes >= 123_000_000


def test_the_table_has_a_sum_and_the_rules() -> None:
    start = report()
    with start.phase("loading weights") as phase:
        phase.read_bytes += 3 * 2**20
    start.rule("threads", 2, "all cores")
    start.finish()
    lines = list(start.lines())
    assert lines[0].split() == ["start-up", "seconds", "read", "MiB", "new", "MiB"]
    assert [line.split()[0] for line in lines[1:]] == ["loading", "other", "sum", "threads"]
    assert lines[1].split()[3] == "3"
    assert lines[-1] == "  threads  2 (all cores)"


def test_a_process_knows_its_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started_s = 100.25
    ticks = int(started_s * os.sysconf("SC_CLK_TCK"))
    (tmp_path / "self").mkdir()
    # Field 22 is when it started; the name before it may have spaces and brackets.
    (tmp_path / "self/stat").write_text(f"7 (a (b) c) S {' '.join('0' * 18)} {ticks} 0 0")
    (tmp_path / "uptime").write_text("103.50 400.00")
    monkeypatch.setattr(startup, "_PROC", tmp_path)
    assert process_age_s() == pytest.approx(3.25, abs=0.011)


def test_without_proc_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "_PROC", Path("/nonexistent"))
    assert (process_age_s(), startup._read_bytes(), startup._allocated_bytes()) == (0.0, 0, 0)
