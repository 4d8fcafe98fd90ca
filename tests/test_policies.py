"""Whole engines under every policy, with little memory and few slots: whatever is parked, evicted
and overtaken, every request is answered as it would be alone, ends once and leaves nothing."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prelude.conf.schema import ClassConfig, ClassesConfig, MechanismsConfig, Policy
from prelude.engine.core import EngineCore
from prelude.types.request import TokenEvent
from prelude.types.service import SERVICE_CLASSES
from tests.engines import make_core, moody
from tests.policies import watched, with_hints
from tests.test_engine_overlap import some_requests, stories

MECHANISMS = tuple(MechanismsConfig.__dataclass_fields__)


def some_classes(rng: random.Random) -> ClassesConfig:
    return ClassesConfig(
        **{
            name: ClassConfig(
                itl_ms=rng.choice([None, 1.5, 5.0]),
                kv_share=rng.choice([0.3, 1.0]),
                max_wait_s=rng.choice([0.01, 0.1, 60.0]),
                patience=rng.choice([0.0, 1.0, 5.0]),
            )
            for name in SERVICE_CLASSES
        }
    )


def tight_core(policy: Policy, rng: random.Random, **changes: Any) -> EngineCore:
    """Hardly room for one long request (128 tokens are 32 blocks)."""
    settings: dict[str, Any] = {
        "num_blocks": rng.choice([34, 40, 56]),
        "max_seqs": rng.choice([1, 2, 3, 8]),
        "depth": rng.choice([1, 2]),
        "prefix": rng.random() < 0.5,
        "probation_ms": rng.choice([3.0, 10.0, 1000.0]),
        "doc_ms": rng.choice([1.1, 5.0]),
        "step_ms": rng.choice([1.0, 2.0, 50.0]),
        "reserve": rng.choice([0.0, 0.1, 0.5]),
        "deep_share": rng.choice([0.0, 0.2, 0.5]),
        "prompt_share": rng.choice([0.0, 0.2, 0.5]),
        "max_partials": rng.choice([1, 4]),
        "headroom": rng.choice([1, 8]),
        "fair_ms": rng.choice([None, 1.0]),
        "classes": some_classes(rng),
    }
    return watched(make_core(policy=policy, model=moody, **(settings | changes)))


def check(core: EngineCore, seed: int, count: int = 16) -> None:
    """Answers are those of an engine with room for everybody, first come first served."""
    requests = with_hints(some_requests(count, seed), seed)
    alone = stories(make_core(num_blocks=2000, max_seqs=64, model=moody), requests, seed)
    num_slots = core.ledger.num_free_slots
    told = stories(core, requests, seed)
    assert told == alone
    assert all(sum(bool(event[1]) for event in story) == 1 for story in told.values())
    ledger = core.ledger
    assert (ledger.num_running, ledger.num_waiting) == (0, 0)
    assert ledger.num_free_slots == num_slots
    assert ledger.pool.num_available == ledger.num_usable_blocks


@pytest.mark.parametrize("policy", list(Policy))
def test_answers_do_not_depend_on_the_policy(policy: Policy) -> None:
    parks = evictions = 0
    for seed in range(12):
        core = tight_core(policy, random.Random(seed))
        check(core, seed)
        parks += core.ledger.num_parks
        evictions += core.ledger.num_preemptions
    assert (parks > 0) == (policy in (Policy.class_aware, Policy.srpt_oracle))
    assert evictions > 0


@settings(max_examples=20)
@given(
    seed=st.integers(0, 2**31),
    off=st.sets(st.sampled_from(MECHANISMS)),
    policy=st.sampled_from([Policy.class_aware] * 3 + [Policy.priority, Policy.srpt_oracle]),
)
def test_whatever_is_switched_off_every_request_is_answered(
    seed: int, off: set[str], policy: Policy
) -> None:
    use = MechanismsConfig(**dict.fromkeys(off, False))
    check(tight_core(policy, random.Random(seed), use=use), seed, count=8)


@pytest.mark.parametrize("mechanism", ["park", "evict"])
def test_what_is_switched_off_does_not_happen(mechanism: str) -> None:
    use = MechanismsConfig(**{mechanism: False})
    for seed in range(4):
        rng = random.Random(seed)
        core = tight_core(Policy.class_aware, rng, use=use, num_blocks=34, max_seqs=3)
        check(core, seed)
        assert mechanism != "park" or core.ledger.num_parks == 0


@pytest.mark.parametrize("depth", [1, 2])
def test_aborts_at_any_moment_leave_nothing(depth: int) -> None:
    rng = random.Random(depth)
    core = tight_core(Policy.class_aware, rng, depth=depth, num_blocks=40, max_seqs=2)
    requests = with_hints(some_requests(40, 9), 9)
    events: list[TokenEvent] = []
    for request in requests:
        events += core.add(request)
        for _ in range(rng.randrange(6)):
            events += core.step()
        if rng.random() < 0.4:
            events += core.abort(rng.choice(requests).uid)
        core.ledger.check()
    while core.has_work:
        events += core.step()
    ends = [(event.uid, event.index) for event in events if event.finish_reason]
    assert len(ends) == len(set(ends)) == sum(request.params.n for request in requests)
    assert core.ledger.pool.num_referenced == 0
