"""The one mutable record of a sequence, and what the batcher may read of it."""

from dataclasses import dataclass, field

from prelude.batcher.fairness import Account
from prelude.cache.pool import Digest, extend_digest, root_digest
from prelude.types.constraint import Matcher
from prelude.types.request import (
    FinishReason,
    Request,
    SampleMode,
    SamplingParams,
    TokenLogprobs,
)
from prelude.types.service import Prediction, ServiceClass

NO_SLOT = -1


@dataclass(slots=True, eq=False)
class Sequence:
    """Choice ``index`` of a request. ``token_ids`` is prompt and output as far as it is known; the
    rest of the ``num_tokens`` is being sampled by steps under way. The first ``num_computed``
    tokens have KV in ``blocks``, or will have once those steps have run; of the first
    ``num_settled`` it is certain. A sequence without a slot has no KV, unless
    it is parked or its KV is in ``host_blocks``.

    One that ``embeds`` has no output: a token that is never known stands for its embedding while
    that is under way.

    ``leader`` is the choice whose prompt blocks this one will share (``n > 1``); it waits until
    the leader has computed them. A sequence is resident while it has a slot; one that has blocks
    and no slot is parked.

    ``service_class`` is kept by ``prelude.batcher.classes``; ``waited_as`` is what it was before
    the first output token, once that is here; ``quantum_end`` is the output tokens
    at which its probation ends, ``queued_s`` when it began to wait, the last time, ``cost_ms`` the
    price of what had to be computed then before its next token, ``token_ms`` that of one token;
    ``account`` is its client's; ``wait_ms`` and ``own_ms`` are what was foretold of its wait for
    others, and of its own time to the first token, when it came.
    """

    seq_id: int
    request: Request
    index: int
    seed: int
    max_tokens: int
    eos_ids: tuple[int, ...]
    leader: "Sequence | None" = None
    matcher: Matcher | None = None  # of its constraint; kept when it loses its slot
    params: SamplingParams = field(init=False)
    sample_mode: SampleMode = field(init=False)
    embeds: bool = field(init=False)
    stop_ids: frozenset[int] = field(init=False)
    end: int = field(init=False)  # tokens of prompt and output, when it has all it may have
    token_ids: list[int] = field(init=False)
    num_prompt: int = field(init=False)
    num_tokens: int = field(init=False)  # of prompt and output, those being sampled included
    num_computed: int = 0
    num_settled: int = 0
    slot: int = NO_SLOT
    blocks: list[int] = field(default_factory=list)
    host_blocks: list[int] = field(default_factory=list)
    digests: list[Digest] = field(default_factory=list)
    num_published: int = 0
    num_cached_tokens: int = 0
    num_preemptions: int = 0
    scheduled_s: float | None = None
    first_token_s: float | None = None
    finish_reason: FinishReason | None = None
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)
    hit: list[int] = field(default_factory=list)  # cached blocks found for it when it last waited
    hit_version: int = -1
    service_class: ServiceClass = "fast"
    waited_as: ServiceClass | None = None
    prediction: Prediction | None = None
    token_ms: float = 0.0
    cost_ms: float = 0.0
    patience: float = 0.0
    due_s: float = 0.0
    quantum_end: int = 0
    queued_s: float = 0.0
    arrival_s: float = 0.0
    wait_ms: float = 0.0
    own_ms: float = 0.0
    account: Account = field(default_factory=Account)

    def __post_init__(self) -> None:
        self.params = self.request.params
        self.sample_mode = self.params.sample_mode
        self.embeds = self.request.embeds
        self.stop_ids = frozenset((*self.eos_ids, *self.params.stop_token_ids))
        self.token_ids = list(self.request.prompt_ids)
        self.num_prompt = self.num_tokens = len(self.token_ids)
        self.end = self.num_prompt + self.max_tokens

    @property
    def num_output(self) -> int:
        """Output tokens that are known."""
        return len(self.token_ids) - self.num_prompt

    @property
    def num_pending(self) -> int:
        """Tokens whose KV no step computes yet; 1 for a sequence that decodes."""
        return self.num_tokens - self.num_computed

    @property
    def is_decoding(self) -> bool:
        num_tokens = self.num_tokens
        return (
            num_tokens - self.num_computed == 1
            and num_tokens > self.num_prompt
            and self.slot != NO_SLOT
        )

    @property
    def num_remaining(self) -> int:
        """Output tokens it may still produce, beyond those being sampled; 0 for a sequence that
        ends when the steps under way have run."""
        return self.end - self.num_tokens

    @property
    def wants_prompt_logprobs(self) -> bool:
        """True while its prompt must be computed in full, scored token by token. Of ``n`` choices
        one is enough, and a sequence that has an output token has them already."""
        return self.params.prompt_logprobs is not None and self.index == 0 and not self.num_output

    @property
    def is_held(self) -> bool:
        """True while no step computes the end of the prompt that this choice will share."""
        leader = self.leader
        return (
            leader is not None
            and leader.finish_reason is None
            and leader.num_computed < leader.num_prompt
        )

    def chain(self, block_size: int) -> list[Digest]:
        """Digests of all full blocks of ``token_ids``; computed once per block."""
        digests = self.digests
        parent = digests[-1] if digests else root_digest(self.request.cache_salt)
        for i in range(len(digests), len(self.token_ids) // block_size):
            parent = extend_digest(parent, self.token_ids[i * block_size : (i + 1) * block_size])
            digests.append(parent)
        return digests
