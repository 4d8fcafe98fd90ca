"""Deadlines are found when they pass, each sequence once, and forgotten with what they were for."""

from hypothesis import given
from hypothesis import strategies as st

from prelude.batcher.deadlines import Deadlines
from prelude.batcher.sequence import Sequence
from prelude.types.request import Request, SamplingParams
from prelude.types.service import Hints


def sequence(
    seq_id: int = 0,
    *,
    ttft_ms: float | None = None,
    total_ms: float | None = None,
    arrival_s: float = 10.0,
) -> Sequence:
    hints = Hints(ttft_deadline_ms=ttft_ms, deadline_ms=total_ms)
    request = Request(uid=seq_id, prompt_ids=[1, 2], params=SamplingParams(), hints=hints)
    return Sequence(seq_id, request, 0, 0, 9, (), arrival_s=arrival_s)


def watched(*seqs: Sequence) -> Deadlines:
    deadlines = Deadlines()
    for seq in seqs:
        deadlines.watch(seq)
    return deadlines


def test_who_promises_nothing_never_expires() -> None:
    deadlines = watched(sequence())
    assert len(deadlines) == 0
    assert deadlines.expired(1e9) == []


def test_a_deadline_counts_from_the_arrival() -> None:
    seq = sequence(ttft_ms=500.0)
    deadlines = watched(seq)
    assert deadlines.expired(10.4) == []
    ((late, refusal),) = deadlines.expired(10.6)
    assert late is seq
    assert (refusal.code, refusal.limit_ms, refusal.service_class) == (
        "ttft_expired",
        500.0,
        "fast",
    )
    assert 599.0 < refusal.estimate_ms < 601.0
    assert deadlines.expired(10.7) == []


def test_a_first_token_is_late_only_for_who_has_not_begun() -> None:
    resident = sequence(1, ttft_ms=5.0)
    resident.slot = 0
    answered = sequence(2, ttft_ms=5.0)
    answered.token_ids.append(7)  # preempted after its first token
    assert watched(resident, answered).expired(11.0) == []


def test_a_whole_answer_is_late_wherever_it_is() -> None:
    resident, waiting = sequence(1, total_ms=5.0), sequence(2, total_ms=7.0)
    resident.slot = 0
    found = watched(waiting, resident).expired(11.0)
    assert [(seq.seq_id, refusal.code) for seq, refusal in found] == [
        (1, "deadline_expired"),
        (2, "deadline_expired"),
    ]


def test_both_deadlines_end_a_sequence_once() -> None:
    deadlines = watched(sequence(ttft_ms=5.0, total_ms=6.0))
    assert [refusal.code for _, refusal in deadlines.expired(11.0)] == ["ttft_expired"]
    assert deadlines.expired(12.0) == []


def test_what_has_ended_does_not_expire() -> None:
    seq = sequence(total_ms=5.0)
    deadlines = watched(seq)
    seq.finish_reason = "stop"
    assert deadlines.expired(11.0) == []


def test_ended_sequences_with_distant_deadlines_are_forgotten() -> None:
    deadlines = Deadlines()
    alive = sequence(0, total_ms=1e9)
    deadlines.watch(alive)
    for number in range(1, 5000):
        seq = sequence(number, ttft_ms=1e9, total_ms=1e9)
        deadlines.watch(seq)
        seq.finish_reason = "stop"
        assert len(deadlines) < 600
    assert [seq for seq, _ in deadlines.expired(1e9)] == [alive]


@given(
    st.lists(st.tuples(st.integers(1, 50), st.booleans(), st.booleans()), max_size=30),
    st.lists(st.integers(0, 60), max_size=10).map(sorted),
)
def test_all_that_is_due_is_found_once_and_nothing_else(
    jobs: list[tuple[int, bool, bool]], times: list[int]
) -> None:
    seqs = [
        sequence(n, arrival_s=0.0, **{"total_ms" if is_total else "ttft_ms": due * 1e3})
        for n, (due, is_total, _) in enumerate(jobs)
    ]
    for seq, (_, _, has_slot) in zip(seqs, jobs, strict=True):
        seq.slot = 0 if has_slot else -1
    deadlines = watched(*seqs)
    found: list[int] = []
    for now_s in times:
        found += [seq.seq_id for seq, _ in deadlines.expired(float(now_s))]
        due = [
            n
            for n, (due_s, is_total, has_slot) in enumerate(jobs)
            if due_s <= now_s and (is_total or not has_slot)
        ]
        assert sorted(found) == due
