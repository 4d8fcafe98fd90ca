"""A decision that is taken again leads where asking again would have led."""

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelude.batcher.view import Policy, PolicyState, ScheduleConfig, SystemView
from prelude.conf.schema import Policy as PolicyName
from prelude.engine.core import EngineCore
from prelude.engine.policies import POLICIES
from prelude.types.plan import Plan
from prelude.types.prices import PriceTable
from tests.engines import make_core, request, run


@dataclass
class Asked:
    """A policy that counts; one that ``forgets`` says that nothing holds."""

    policy: Policy
    forgets: bool = False
    num: int = field(default=0)

    def __call__(
        self, view: SystemView, state: PolicyState, prices: PriceTable, config: ScheduleConfig
    ) -> tuple[Plan, PolicyState]:
        self.num += 1
        plan, state = self.policy(view, state, prices, config)
        return (replace(plan, holds_for=1) if self.forgets else plan), state


def engine(name: PolicyName, *, forgets: bool = False, depth: int = 1) -> tuple[EngineCore, Asked]:
    asked = Asked(POLICIES[name], forgets)
    core = make_core(decide=asked, policy=name, num_blocks=64, depth=depth, step_ms=1e6)
    return core, asked


@pytest.mark.parametrize("name", list(PolicyName))
@pytest.mark.parametrize("depth", [1, 2])
def test_an_undisturbed_answer_needs_few_decisions(name: PolicyName, depth: int) -> None:
    core, asked = engine(name, depth=depth)
    assert core.add(request([1, 2, 3], max_tokens=65, ignore_eos=True)) == []
    assert len(run(core)) == 65
    assert asked.num < 20
    core.ledger.check()


def test_news_are_decided_upon_at_once() -> None:
    core, asked = engine(PolicyName.class_aware)
    first = request([1, 2, 3], max_tokens=60, ignore_eos=True)
    assert core.add(first) == []
    for _ in range(4):
        core.step()
    before = asked.num
    core.step()
    assert asked.num == before
    assert core.add(request([4, 5, 6], max_tokens=2, ignore_eos=True)) == []
    core.step()
    assert asked.num == before + 1
    assert core.ledger.num_running == 2
    core.abort(first.uid)
    core.step()
    assert asked.num == before + 2


Arrivals = st.lists(
    st.tuples(st.integers(0, 6), st.integers(1, 40), st.integers(1, 50), st.booleans()),
    min_size=1,
    max_size=12,
)


@given(
    name=st.sampled_from(list(PolicyName)),
    arrivals=Arrivals,
    aborted=st.sets(st.integers(0, 11), max_size=3),
)
def test_the_same_story_as_with_a_decision_a_step(
    name: PolicyName, arrivals: list[tuple[int, int, int, bool]], aborted: set[int]
) -> None:
    """Time passes with the steps: which are the same, so are all times, answers and ends."""
    stories = []
    for forgets in (False, True):
        core, _ = engine(name, forgets=forgets)
        stories.append(story(core, arrivals, aborted))
    assert stories[0] == stories[1]


def story(
    core: EngineCore, arrivals: list[tuple[int, int, int, bool]], aborted: set[int]
) -> list[object]:
    told: list[object] = []
    for uid, (steps, num_prompt, num_output, heeds_eos) in enumerate(arrivals):
        prompt = [(uid * 7 + i) % 500 + 1 for i in range(num_prompt)]
        asked = request(prompt, uid=uid, max_tokens=num_output, ignore_eos=not heeds_eos)
        told += core.add(asked)
        for _ in range(steps):
            told += turn(core)
        if uid in aborted:
            told += core.abort(uid)
    while core.has_work:
        told += turn(core)
    assert core.ledger.pool.num_referenced == 0
    return told


def turn(core: EngineCore) -> list[object]:
    if not core.has_work:
        return []
    events = [(e.uid, e.token_ids, e.finish_reason) for e in core.step()]
    core.ledger.check()
    return [*sorted(events), core.ledger.now_s, core.ledger.num_waiting]
