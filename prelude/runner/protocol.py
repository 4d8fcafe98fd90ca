"""What the engine asks of a runner: run plans in the order they come, never decide. No torch
here."""

from typing import Protocol

from prelude.types.plan import Plan, ProgramCount, StepOutput
from prelude.types.prices import PriceTable


class Runner(Protocol):
    """Weights, KV pool and programs of one model on one device group.

    ``submit`` takes a bound plan and returns when the host's part is done; ``collect`` waits for
    the oldest plan submitted and returns what it sampled. Up to ``depth`` plans may be under way
    at once: 1 is synchronous, 2 lets the engine plan a step while another runs. Plans run one
    after the other, so a plan may rely on what earlier ones write (KV, a slot's last token), and
    its admits and grants must not reach host state that an earlier one still reads. A plan's
    copies out read what earlier ones have written, before anything of its own is.

    ``num_host_blocks`` KV blocks have room in host memory; to copy one takes ``swap_ms`` each way.

    ``upkeep`` is called between submissions: the place to swap in a program that has been compiled
    meanwhile; it must return within a quarter of a second.
    """

    @property
    def depth(self) -> int: ...
    @property
    def num_blocks(self) -> int: ...
    @property
    def block_size(self) -> int: ...
    @property
    def num_host_blocks(self) -> int: ...
    @property
    def swap_ms(self) -> float: ...
    @property
    def max_len(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def prices(self) -> PriceTable: ...
    @property
    def programs(self) -> ProgramCount: ...
    def submit(self, plan: Plan) -> None: ...
    def collect(self) -> StepOutput: ...
    def upkeep(self) -> None: ...
    def close(self) -> None: ...
