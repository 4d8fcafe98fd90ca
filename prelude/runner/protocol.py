"""What the engine asks of a runner: execute plans, never decide. No torch here."""

from typing import Protocol

from prelude.types.plan import Plan, ProgramCount, StepOutput
from prelude.types.prices import PriceTable


class Runner(Protocol):
    """Weights, KV pool and programs of one model on one device group.

    ``execute`` runs a bound plan to its end and returns what it sampled. ``upkeep`` is called at
    step boundaries: the place to swap in a program that has been compiled meanwhile; it must
    return within a quarter of a second.
    """

    @property
    def num_blocks(self) -> int: ...
    @property
    def block_size(self) -> int: ...
    @property
    def max_len(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def prices(self) -> PriceTable: ...
    @property
    def programs(self) -> ProgramCount: ...
    def execute(self, plan: Plan) -> StepOutput: ...
    def upkeep(self) -> None: ...
    def close(self) -> None: ...
