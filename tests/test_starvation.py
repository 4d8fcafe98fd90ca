"""The starvation bound that ``docs/scheduling.md`` states, under floods on a simulated clock: a
launch costs 1 ms, a token half of one, and steps should last 50 ms."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prelude.batcher.class_aware import class_aware
from prelude.batcher.sequence import Sequence
from prelude.batcher.view import PolicyState, ScheduleConfig, SystemView
from prelude.conf.schema import ClassConfig, ClassesConfig, Policy
from prelude.engine.core import EngineCore
from prelude.runner.fake import FakeRunner
from prelude.types.plan import Plan
from prelude.types.prices import PriceTable, flat_prices
from prelude.types.service import Hints, ServiceClass
from tests.engines import VOCAB, Clock, make_core, request

_STEP_MS = 50.0
_TOKEN_MS = 0.5
_MIN_CHUNK = 2
_PROMPT_SHARE = 0.2
_QUANTUM = 10


@dataclass
class World:
    """An engine with memory for everybody. ``plans`` are all steps so far, ``turns`` the deep
    sequences that decoded in each, and those that could have."""

    core: EngineCore
    clock: Clock
    rng: random.Random
    plans: list[Plan] = field(default_factory=list)
    turns: list[tuple[set[int], set[int]]] = field(default_factory=list)

    @classmethod
    def make(cls, seed: int = 0, **batcher: Any) -> "World":
        clock = Clock()
        runner = FakeRunner(
            num_blocks=6000,
            block_size=4,
            max_len=512,
            vocab_size=VOCAB,
            prices=flat_prices(1.0, _TOKEN_MS),
            sleep=clock.sleep_ms,
            clock=clock,
        )
        values: dict[str, Any] = {
            "policy": Policy.class_aware,
            "step_ms": _STEP_MS,
            "doc_ms": 55.0,
            "probation_ms": 1.5 * _QUANTUM,
            "max_step_tokens": 512,
            "max_seqs": 64,
        }
        world: World
        core = make_core(
            runner=runner,
            clock=clock,
            prefix=False,
            decide=lambda *seen: world._recorded(*seen),
            **(values | batcher),
        )
        world = cls(core, clock, random.Random(seed))
        return world

    def _recorded(
        self, view: SystemView, state: PolicyState, prices: PriceTable, config: ScheduleConfig
    ) -> tuple[Plan, PolicyState]:
        deep = {s.seq_id for s in view.running if s.is_decoding and s.service_class == "deep"}
        plan, state = class_aware(view, state, prices, config)
        served = {row.seq_id for launch in plan.launches for row in launch.rows}
        self.plans.append(plan)
        self.turns.append((deep - {*plan.park, *plan.preempt}, deep & served))
        return plan, state

    def add(self, num_prompt: int, num_output: int, wish: ServiceClass | None = None) -> Sequence:
        prompt = [self.rng.randrange(1, VOCAB) for _ in range(num_prompt)]
        made = request(prompt, max_tokens=num_output, ignore_eos=True)
        made = msgspec.structs.replace(made, hints=Hints(service_class=wish, is_assigned=True))
        assert self.core.add(made) == []
        return self.core.ledger.group(made.uid)[0]

    def flood(self, count: int, longest: int, num_output: int) -> None:
        """As many fast ones as it takes, so that so many wait."""
        for _ in range(count - len(self.core.ledger.line("fast"))):
            self.add(self.rng.randint(2, longest), self.rng.randint(1, num_output))

    def steps_until(self, done: Callable[[], bool], flood: Callable[[], None]) -> int:
        for number in range(3000):
            if done():
                return number
            flood()
            self.core.step()
        raise AssertionError("it has starved")


def test_a_deep_sequence_has_its_turn_once_in_a_round() -> None:
    world = World.make(1, step_ms=12.0)
    for _ in range(30):
        world.add(3, 200, "deep")
    world.steps_until(lambda: len(world.plans) > 150, lambda: world.flood(3, 80, 8))
    since: dict[int, list[int]] = {}
    waited: dict[int, int] = {}
    least = 99
    for there, served in world.turns[20:]:
        least = min(least, len(served))
        since = {seq_id: since.get(seq_id, []) for seq_id in there}
        for seq_id in there:
            waited[seq_id] = 0 if seq_id in served else waited.get(seq_id, 0) + 1
            since[seq_id] = [] if seq_id in served else [*since[seq_id], *served]
            assert len(set(since[seq_id])) == len(since[seq_id]), "somebody had two turns"
            assert waited[seq_id] < ceil(30 / least)
    assert 1 <= least < 30


@settings(max_examples=15)
@given(
    seed=st.integers(0, 2**31),
    lengths=st.lists(st.integers(115, 300), min_size=1, max_size=3),
    num_deep=st.integers(0, 12),
    longest=st.integers(40, 100),
    num_output=st.integers(1, 6),
)
def test_documents_wait_in_proportion_to_the_work_before_them(
    seed: int, lengths: list[int], num_deep: int, longest: int, num_output: int
) -> None:
    world = World.make(seed)
    for _ in range(num_deep):
        world.add(3, 400, "deep")
    world.flood(5, longest, num_output)
    world.core.step()
    begun = len(world.plans)
    docs = [world.add(length, 1) for length in lengths]
    assert {doc.service_class for doc in docs} == {"doc"}
    steps = world.steps_until(
        lambda: all(doc.first_token_s is not None for doc in docs),
        lambda: world.flood(5, longest, num_output),
    )
    tokens_a_step = int(_PROMPT_SHARE * 0.3 * _STEP_MS / _TOKEN_MS)
    owed = _STEP_MS / _TOKEN_MS
    assert steps <= ceil((sum(lengths) + owed) / (tokens_a_step - 1)) + 1
    for plan in world.plans[begun:]:
        assert plan.price_ms <= plan.budget_ms + _MIN_CHUNK * _TOKEN_MS


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**31),
    max_seqs=st.integers(1, 4),
    patience=st.sampled_from([0.0, 1.0, 4.0]),
)
def test_a_prompt_is_overtaken_only_by_those_that_come_soon_after(
    seed: int, max_seqs: int, patience: float
) -> None:
    classes = ClassesConfig(fast=ClassConfig(patience=patience))
    world = World.make(seed, max_seqs=max_seqs, classes=classes, doc_ms=1e6)
    seqs = []
    for _ in range(30):
        seqs.append(world.add(world.rng.choice([2, 10, 300]), world.rng.randint(1, 12)))
        for _ in range(world.rng.randrange(3)):
            world.core.step()
    while world.core.has_work:
        world.core.step()
    for first in seqs:
        due_s = first.arrival_s + patience * 1e-3 * _prompt_ms(first)
        for other in seqs:
            if other.arrival_s > due_s + 1e-9:
                assert other.scheduled_s is not None and first.scheduled_s is not None
                assert other.scheduled_s >= first.scheduled_s


def _prompt_ms(seq: Sequence) -> float:
    return 1.0 + _TOKEN_MS * seq.num_prompt


@pytest.mark.parametrize("wish", ["doc", "deep", "batch"])
def test_fast_ones_that_take_every_slot_do_so_until_others_are_late(wish: ServiceClass) -> None:
    classes = ClassesConfig(**{wish: ClassConfig(max_wait_s=2.0)})
    world = World.make(3, max_seqs=2, classes=classes)
    world.flood(6, 10, 8)
    world.core.step()
    other = world.add(20, _QUANTUM + 1, wish)
    world.steps_until(lambda: other.first_token_s is not None, lambda: world.flood(6, 10, 8))
    assert other.scheduled_s is not None
    an_answer_s = 8 * _STEP_MS * 1e-3
    assert other.scheduled_s - other.arrival_s <= 2.0 + an_answer_s


def test_deep_ones_change_places_when_one_has_waited_too_long() -> None:
    classes = ClassesConfig(deep=ClassConfig(max_wait_s=0.2))
    world = World.make(4, max_seqs=2, classes=classes)
    for _ in range(2):
        world.add(3, 400, "deep")
    world.core.step()
    third = world.add(3, 15, "deep")
    world.steps_until(lambda: third.finish_reason is not None, lambda: None)
    assert third.scheduled_s is not None and third.first_token_s is not None
    assert 0.2 <= third.scheduled_s - third.arrival_s <= 0.2 + 2 * _STEP_MS * 1e-3
    lasted_s = world.clock() - third.arrival_s
    assert 0 < world.core.ledger.num_parks <= lasted_s / 0.2 + 1, "who is parked waits anew"


def test_everybody_is_served_in_the_end_under_any_flood() -> None:
    """Of each class some, while fast ones always wait and slots are few. Who has a slot for a
    step only has a token of it at least."""
    classes = ClassesConfig(
        deep=ClassConfig(max_wait_s=1.0),
        doc=ClassConfig(max_wait_s=1.0),
        batch=ClassConfig(max_wait_s=5.0),
    )
    world = World.make(5, max_seqs=4, classes=classes)
    wishes: list[ServiceClass] = ["deep", "doc", "batch"]
    seqs = [world.add(20, 12, wish) for wish in wishes[:2] for _ in range(3)]
    seqs += [world.add(20, 3, wishes[2]) for _ in range(3)]
    world.steps_until(lambda: all(seq.finish_reason for seq in seqs), lambda: world.flood(4, 30, 8))
