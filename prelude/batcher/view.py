"""What a policy sees and what it keeps: read-only views of the ledger, and small frozen state."""

from collections.abc import Collection, Iterable, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Protocol

from prelude.batcher.rules import Rules
from prelude.graphs.buckets import Buckets
from prelude.types.plan import Plan
from prelude.types.prices import PriceTable
from prelude.types.request import Request, SampleMode
from prelude.types.service import Prediction, ServiceClass


class SequenceView(Protocol):
    """A sequence as a policy may read it; see ``prelude.batcher.sequence.Sequence``."""

    @property
    def seq_id(self) -> int: ...
    @property
    def request(self) -> Request: ...
    @property
    def sample_mode(self) -> SampleMode: ...
    @property
    def embeds(self) -> bool:
        """True if nothing is sampled after its prompt."""
        ...

    @property
    def num_tokens(self) -> int: ...
    @property
    def num_computed(self) -> int: ...
    @property
    def num_pending(self) -> int: ...
    @property
    def num_remaining(self) -> int: ...
    @property
    def is_decoding(self) -> bool: ...
    @property
    def is_held(self) -> bool: ...
    @property
    def num_preemptions(self) -> int: ...
    @property
    def blocks(self) -> Seq[int]: ...
    @property
    def num_output(self) -> int: ...
    @property
    def service_class(self) -> ServiceClass: ...
    @property
    def prediction(self) -> Prediction | None: ...
    @property
    def cost_ms(self) -> float: ...
    @property
    def token_ms(self) -> float: ...
    @property
    def leader(self) -> object | None: ...
    @property
    def queued_s(self) -> float: ...
    @property
    def due_s(self) -> float: ...


@dataclass(frozen=True, slots=True)
class PrefixHit:
    """``num_tokens`` of a waiting sequence need no computing; taking them uses up ``num_warm``
    of the blocks that count as available, and saves ``num_blocks``. ``num_copied`` blocks that are
    not saved come from the host."""

    num_tokens: int = 0
    num_blocks: int = 0
    num_warm: int = 0
    num_copied: int = 0


class SystemView(Protocol):
    """The ledger as a policy may read it, at one instant. Nothing in it may be changed."""

    @property
    def now_s(self) -> float: ...
    @property
    def running(self) -> Iterable[SequenceView]: ...
    @property
    def waiting(self) -> Iterable[SequenceView]: ...
    def line(self, name: ServiceClass) -> Seq[SequenceView]:
        """The waiting of a class, by when they are due."""
        ...

    @property
    def parked(self) -> Collection[SequenceView]:
        """Those of ``waiting`` that hold blocks: they go on as soon as they have a slot."""
        ...

    @property
    def num_available_blocks(self) -> int: ...
    @property
    def num_usable_blocks(self) -> int: ...
    @property
    def num_free_host_blocks(self) -> int: ...
    @property
    def num_free_slots(self) -> int: ...
    @property
    def block_size(self) -> int: ...
    def match(self, seq: SequenceView) -> PrefixHit: ...
    @property
    def is_contested(self) -> bool:
        """True if more than one client has work here."""
        ...

    def is_ahead(self, seq: SequenceView) -> bool:
        """True if its client has used more of the device than its share, while others wait."""
        ...

    def reclaimable(self, seq: SequenceView) -> int:
        """Blocks that would become available if this resident or parked sequence were preempted."""
        ...


@dataclass(frozen=True, slots=True)
class ScheduleConfig:
    """The knobs of ``BatcherConfig`` that a policy reads, and what the device implies.

    ``mix`` puts decode rows and prefill chunks into one launch (one pass over the weights), which
    pays wherever a launch is ragged anyway; without it a step is a decode launch and a prefill
    launch. ``headroom`` tokens of growth are kept free for every resident when others are admitted.
    ``buckets`` are the sizes that launches are padded to, where they are static. To copy a block to
    the host or back takes ``swap_ms``. ``rules`` are for policies that know classes.
    """

    max_step_tokens: int
    step_ms: float
    idle_step_ms: float
    min_chunk: int
    max_bypass: int
    headroom: int = 64
    mix: bool = True
    swap_ms: float = 0.0
    buckets: Buckets = field(default_factory=Buckets)
    rules: Rules = field(default_factory=Rules)


@dataclass(frozen=True, slots=True)
class PolicyState:
    """What a policy remembers between steps. ``bypassed`` says of waiting sequences that
    were overtaken for lack of memory how often; ``rotor`` is who had the last turn; ``owed_ms``
    what long prompts lack of their share."""

    bypassed: Mapping[int, int] = field(default_factory=dict)
    rotor: int = -1
    owed_ms: float = 0.0


class Policy(Protocol):
    """The one place where it is decided who gets into a step. Pure: time, prices and state are
    arguments; no clock, no randomness, no torch."""

    def __call__(
        self, view: SystemView, state: PolicyState, prices: PriceTable, config: ScheduleConfig
    ) -> tuple[Plan, PolicyState]: ...
