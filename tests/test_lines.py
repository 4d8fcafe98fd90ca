"""Who waits, by age and by class: whatever comes and goes, the orders are those of a plain sort."""

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from prelude.batcher.lines import Lines
from prelude.batcher.sequence import Sequence
from prelude.types.request import Request, SamplingParams
from prelude.types.service import SERVICE_CLASSES, ServiceClass

_REQUEST = Request(uid=0, prompt_ids=[1], params=SamplingParams(temperature=0.0))


def waiting(
    seq_id: int,
    name: ServiceClass = "fast",
    *,
    queued_s: float = 0.0,
    cost_ms: float = 0.0,
    patience: float = 1.0,
) -> Sequence:
    seq = Sequence(seq_id, _REQUEST, 0, seed=0, max_tokens=5, eos_ids=())
    seq.service_class = name
    seq.queued_s, seq.cost_ms, seq.patience = queued_s, cost_ms, patience
    return seq


def ids(seqs: object) -> list[int]:
    return [seq.seq_id for seq in seqs]  # type: ignore[attr-defined]


def line_of(*seqs: Sequence) -> Lines:
    lines = Lines()
    for seq in seqs:
        lines.add(seq)
    return lines


def test_a_cheap_one_overtakes_a_dear_one_that_came_just_before() -> None:
    dear = waiting(0, cost_ms=2000.0)
    soon = waiting(1, queued_s=1.9, cost_ms=50.0)
    late = waiting(2, queued_s=2.1, cost_ms=1.0)
    assert ids(line_of(dear, soon, late).line("fast")) == [1, 0, 2]


def test_patience_says_for_how_many_times_its_price() -> None:
    for patience, order in ((0.0, [0, 1]), (1.0, [0, 1]), (3.0, [1, 0])):
        dear = waiting(0, cost_ms=2000.0, patience=patience)
        cheap = waiting(1, queued_s=4.0, patience=patience)
        assert ids(line_of(dear, cheap).line("fast")) == order


def test_equals_are_served_as_they_came() -> None:
    lines = line_of(*(waiting(i) for i in (3, 1, 2)))
    assert ids(lines.line("fast")) == ids(lines) == [1, 2, 3]


def test_who_does_not_wait_cannot_be_found_or_removed() -> None:
    lines = line_of(waiting(1))
    for there in (lines.find(1), None):
        missing = waiting(1) if there else waiting(2)
        with pytest.raises(ValueError, match="does not wait"):
            lines.remove(missing)
    with pytest.raises(ValueError, match="sequence 2 does not wait"):
        lines.find(2)


@dataclass
class _Model:
    seqs: list[Sequence] = field(default_factory=list)

    def line(self, name: str) -> list[int]:
        mine = [seq for seq in self.seqs if seq.service_class == name]
        due = [(s.queued_s + 1e-3 * s.patience * s.cost_ms, s.seq_id) for s in mine]
        return [seq_id for _, seq_id in sorted(due)]


class LinesMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.lines = Lines()
        self.model = _Model()
        self.num_made = 0

    @rule(
        name=st.sampled_from(SERVICE_CLASSES),
        queued_s=st.sampled_from([0.0, 1.0, 1.5]) | st.floats(0.0, 100.0),
        cost_ms=st.sampled_from([0.0, 500.0, 1000.0]) | st.floats(0.0, 1e5),
        patience=st.sampled_from([0.0, 1.0, 4.0]),
    )
    def come(self, name: ServiceClass, queued_s: float, cost_ms: float, patience: float) -> None:
        seq = waiting(self.num_made, name, queued_s=queued_s, cost_ms=cost_ms, patience=patience)
        self.num_made += 1
        self.model.seqs.append(seq)
        self.lines.add(seq)

    @precondition(lambda self: self.model.seqs)
    @rule(data=st.data())
    def go(self, data: st.DataObject) -> None:
        seq = data.draw(st.sampled_from(self.model.seqs))
        assert self.lines.find(seq.seq_id) is seq
        self.lines.remove(seq)
        self.model.seqs.remove(seq)

    @precondition(lambda self: self.model.seqs)
    @rule(data=st.data(), name=st.sampled_from(SERVICE_CLASSES), queued_s=st.floats(0.0, 100.0))
    def come_again(self, data: st.DataObject, name: ServiceClass, queued_s: float) -> None:
        """In another class, and at another time, as who is preempted."""
        seq = data.draw(st.sampled_from(self.model.seqs))
        self.lines.remove(seq)
        seq.service_class, seq.queued_s = name, queued_s
        self.lines.add(seq)

    @invariant()
    def orders_are_those_of_a_sort(self) -> None:
        assert len(self.lines) == len(self.model.seqs)
        assert ids(self.lines) == sorted(ids(self.model.seqs))
        for name in SERVICE_CLASSES:
            assert ids(self.lines.line(name)) == self.model.line(name)
        self.lines.check()


TestLines = LinesMachine.TestCase
TestLines.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
