"""What tests of the class-aware policies share: prices that are easy to reckon with, rules, and
engines that are watched while they serve."""

import random
from typing import Any

import msgspec

from prelude.batcher.rules import Rules
from prelude.batcher.view import ScheduleConfig
from prelude.conf.schema import ClassConfig, MechanismsConfig
from prelude.engine.core import EngineCore
from prelude.types.plan import Plan
from prelude.types.prices import Curve, PriceTable
from prelude.types.request import Request, TokenEvent
from prelude.types.service import SERVICE_CLASSES, Hints, ServiceClass
from tests.views import Seq

# One millisecond a launch and one for each new token.
PRICES = PriceTable(Curve((1, 1000), (2.0, 1001.0)))

_MAX_QUIET_STEPS = 200


def rules(
    *,
    target_ms: float = 21.0,
    off: str = "",
    classes: dict[ServiceClass, ClassConfig] | None = None,
    **changes: Any,
) -> Rules:
    """``off`` names mechanisms that are switched off; ``target_ms`` is every class's target."""
    values: dict[str, Any] = {
        "quantum": 8,
        "doc_ms": 50.0,
        "idle_ms": 101.0,
        "itl_ms": dict.fromkeys(SERVICE_CLASSES, target_ms),
        "classes": {name: ClassConfig() for name in SERVICE_CLASSES} | (classes or {}),
        "use": MechanismsConfig(**dict.fromkeys(off.split(), False)),
    }
    return Rules(**(values | changes))


def config(made: Rules | None = None, **changes: Any) -> ScheduleConfig:
    values: dict[str, Any] = {
        "max_step_tokens": 512,
        "step_ms": 21.0,
        "idle_step_ms": 101.0,
        "min_chunk": 4,
        "max_bypass": 2,
        "headroom": 1,
        "rules": made or rules(),
    }
    return ScheduleConfig(**(values | changes))


def rows(plan: Plan) -> dict[int, tuple[int, int]]:
    """First position and new tokens of each row, in the order in which they were picked."""
    return {row.seq_id: (row.start, row.num_tokens) for x in plan.launches for row in x.rows}


def stream(seq_id: int, name: ServiceClass = "fast", tokens: int = 9, **changes: Any) -> Seq:
    """A resident that decodes."""
    blocks = -(-(tokens - 1) // 4)
    return Seq(seq_id, tokens, tokens - 1, blocks, is_decoding=True, service_class=name, **changes)


def streams(count: int, name: ServiceClass = "fast", first: int = 0) -> list[Seq]:
    return [stream(first + i, name) for i in range(count)]


def prompt(seq_id: int, tokens: int, name: ServiceClass = "fast", **changes: Any) -> Seq:
    """One that waits."""
    return Seq(seq_id, tokens, service_class=name, **changes)


def partial(seq_id: int, tokens: int, done: int, name: ServiceClass = "doc", **other: Any) -> Seq:
    """A resident with a part of its prompt computed."""
    return Seq(seq_id, tokens, done, -(-done // 4), service_class=name, **other)


def with_hints(requests: list[Request], seed: int) -> list[Request]:
    """Wishes, priorities, clients and contracts at random."""
    rng = random.Random(seed)
    return [
        msgspec.structs.replace(
            request,
            hints=Hints(
                service_class=rng.choice([None, None, None, *SERVICE_CLASSES]),
                priority=rng.randint(-1, 2),
                client=rng.choice("abc"),
                reasoning=rng.choice(["", "", "none", "high"]),
                is_bounded=rng.random() < 0.1,
            ),
        )
        for request in requests
    ]


class Patient:
    """Steps an engine, and fails where it makes no progress any more."""

    def __init__(self, core: EngineCore) -> None:
        self._core = core
        self._step = core.step
        self._quiet = 0

    def __call__(self) -> list[TokenEvent]:
        events = self._step()
        self._quiet = 0 if events else self._quiet + 1
        assert self._quiet < _MAX_QUIET_STEPS, "nothing comes of so many steps"
        return events


def watched(core: EngineCore) -> EngineCore:
    """The same engine, whose ``step`` fails in a livelock."""
    core.step = Patient(core)  # type: ignore[method-assign]
    return core
