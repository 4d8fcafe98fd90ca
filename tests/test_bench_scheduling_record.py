"""What is kept of a run of the scheduling benchmark."""

from pathlib import Path

import msgspec
import pytest

from benchmarks import scheduling
from benchmarks.scheduling_record import Document, Tried, bins_of, keyed, pooled, read, write
from prelude.simulate.records import Gaps
from prelude.types.prices import flat_prices
from tests.scheduling_runs import played_run


def test_a_run_keeps_every_request_and_every_gap() -> None:
    run = played_run()
    assert run.kinds["chat"].uids == [0, 2]
    assert run.kinds["chat"].ttft == [100, 100]
    assert run.kinds["chat"].e2e == [500, 500]
    assert run.kinds["deep"].e2e == [200]
    assert sum(run.kinds["chat"].gaps.values()) == 8
    assert run.schedule_us[0] == 20.0
    assert run.failures == 0
    assert keyed([run], "deep", "e2e") == {(1, 1): 20.0}
    assert keyed([run], "doc", "e2e") == {}


def test_runs_are_pooled_by_seed_and_bins_add_up() -> None:
    runs = [played_run(1), played_run(2)]
    assert keyed(runs, "chat", "ttft") == {(s, u): 10.0 for s in (1, 2) for u in (0, 2)}
    summary = pooled(run.kinds["chat"].gaps for run in runs)
    assert summary is not None
    assert summary.count == 16
    assert summary.p99.value == pytest.approx(10.0, rel=0.01)
    assert pooled([]) is None


def test_bins_are_those_of_the_histogram() -> None:
    gaps = Gaps()
    gaps.add(3.0, 5)
    gaps.add(700.0)
    assert sorted(bins_of(gaps).values()) == [1, 5]
    assert pooled([bins_of(gaps)]) is not None


def test_a_document_comes_back_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "below" / "result.json"
    assert read(path) == Document()
    document = Document(runs=[played_run(1), played_run(2)], saturation={"mixed": 3.5})
    document.prices = flat_prices(1.0, 0.5)
    write(path, document)
    assert read(path) == document
    assert len(path.read_text().splitlines()) == 3
    assert document.has(("mixed", 0.95, 2, "plain"))
    assert not document.has(("mixed", 0.95, 3, "plain"))
    assert [run.seed for run in document.of("mixed", 0.95, "plain")] == [1, 2]


def test_a_candidate_is_judged_by_the_first_token_or_beside_a_long_prompt_by_gaps() -> None:
    slow = Tried.of(played_run(), "open 128")
    assert slow.ttft_p99 == 10.0
    assert slow.gap_p99 == pytest.approx(10.0, rel=0.01)
    other = msgspec.structs.replace(slow, name="budget 128", ttft_p99=5.0, gap_p99=20.0)
    assert scheduling.best([slow, other], is_long=False) is other
    assert scheduling.best([slow, other], is_long=True) is slow
