"""Counts by class: who waits, who runs, and that nobody does once all have left."""

from prelude.engine.gauges import count_classes
from prelude.types.service import SERVICE_CLASSES
from prelude.types.wire import ClassStats
from tests.engines import Clock, make_core, request, run

NOBODY = (ClassStats(),) * len(SERVICE_CLASSES)


def test_each_is_counted_once_in_its_class() -> None:
    core = make_core(max_seqs=2, doc_ms=1e9)
    for uid in range(5):
        core.add(request([3] * 6, uid=uid, max_tokens=9, ignore_eos=True))
    assert count_classes(core.ledger)[0] == ClassStats(num_waiting=5)
    core.step()
    fast, *others = count_classes(core.ledger)
    assert (fast.num_waiting, fast.num_running, fast.num_parked) == (3, 2, 0)
    assert fast.num_blocks >= 2
    assert tuple(others) == NOBODY[1:]
    run(core)
    assert count_classes(core.ledger) == NOBODY


def test_documents_have_a_line_of_their_own() -> None:
    core = make_core(doc_ms=1e-6)
    core.add(request([3] * 40, max_tokens=9))
    assert count_classes(core.ledger)[SERVICE_CLASSES.index("doc")].num_waiting == 1


def test_statistics_count_rarely_and_still_do_when_nothing_runs() -> None:
    clock = Clock()
    core = make_core(clock=clock)
    core.add(request([3] * 6, uid=1, max_tokens=99, ignore_eos=True))
    clock.now_s += 1.0
    assert core.stats().classes[0].num_waiting == 1
    core.abort(1)
    assert core.stats().classes[0].num_waiting == 1
    clock.now_s += 1.0
    assert core.stats().classes == NOBODY
