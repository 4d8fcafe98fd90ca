"""Sequences and ledgers as policies see them, made by hand."""

from dataclasses import dataclass, field

from prelude.batcher.view import PrefixHit, SequenceView
from prelude.types.request import Request, SampleMode, SamplingParams
from prelude.types.service import Prediction, ServiceClass


@dataclass
class Seq:
    """A sequence as policies see it."""

    seq_id: int
    num_tokens: int
    num_computed: int = 0
    num_blocks: int = 0
    is_decoding: bool = False
    is_held: bool = False
    embeds: bool = False
    num_remaining: int = 50
    num_preemptions: int = 0
    num_output: int = 0
    service_class: ServiceClass = "fast"
    prediction: Prediction | None = None
    cost_ms: float = 1.0
    token_ms: float = 0.1
    leader: object | None = None
    queued_s: float = 0.0
    due_s: float = 0.0
    request: Request = field(
        default_factory=lambda: Request(uid=0, prompt_ids=[1], params=SamplingParams(temperature=0))
    )

    @property
    def sample_mode(self) -> SampleMode:
        return self.request.params.sample_mode

    @property
    def num_pending(self) -> int:
        return self.num_tokens - self.num_computed

    @property
    def blocks(self) -> list[int]:
        return list(range(self.num_blocks))


@dataclass
class View:
    running: list[Seq] = field(default_factory=list)
    waiting: list[Seq] = field(default_factory=list)
    parked: list[Seq] = field(default_factory=list)
    num_available_blocks: int = 1000
    num_usable_blocks: int = 1000
    num_free_host_blocks: int = 0
    num_free_slots: int = 8
    block_size: int = 4
    now_s: float = 0.0
    ahead: set[int] = field(default_factory=set)
    hits: dict[int, PrefixHit] = field(default_factory=dict)

    def line(self, name: ServiceClass) -> list[Seq]:
        found = [seq for seq in self.waiting if seq.service_class == name]
        return sorted(found, key=lambda seq: (seq.due_s, seq.seq_id))

    def match(self, seq: SequenceView) -> PrefixHit:
        return self.hits.get(seq.seq_id, PrefixHit())

    @property
    def is_contested(self) -> bool:
        return bool(self.ahead)

    def is_ahead(self, seq: SequenceView) -> bool:
        return seq.seq_id in self.ahead

    def reclaimable(self, seq: SequenceView) -> int:
        return len(seq.blocks)


def decoding(seq_id: int, tokens: int) -> Seq:
    return Seq(seq_id, tokens, tokens - 1, -(-(tokens - 1) // 4), is_decoding=True)
