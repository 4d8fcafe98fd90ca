"""The batcher's decision for a step, in the words the runner, the prices and the log share.

What is made for every row of every step is a msgspec struct: it costs a twentieth of a frozen
dataclass, and the garbage collector need not look at it.
"""

from collections.abc import Sequence as Ids
from dataclasses import dataclass
from typing import Literal, NamedTuple

import msgspec

from prelude.types.constraint import MatchEnd, Matcher
from prelude.types.request import SampleMode, SamplingParams

LaunchKind = Literal["decode", "prefill", "verify"]


class BucketKey(NamedTuple):
    """A compiled program's name: static shape on CUDA, price key and upper bound on CPU."""

    kind: LaunchKind
    num_tokens: int
    num_rows: int
    k: int = 0
    mode: SampleMode = "greedy"

    def __str__(self) -> str:
        return f"{self.kind}[{self.num_tokens}x{self.num_rows},k={self.k},{self.mode}]"


class Row(msgspec.Struct, frozen=True, gc=False):
    """``num_tokens`` new tokens of one sequence, starting at KV position ``start``.

    ``token_ids`` is empty when the only new token is the one the slot sampled last, which then
    never leaves the device. ``samples`` says that the last new token's logits are sampled.
    """

    seq_id: int
    slot: int
    start: int
    num_tokens: int
    token_ids: Ids[int] = ()
    samples: bool = True


@dataclass(frozen=True, slots=True)
class Launch:
    """One run of one program. ``price_ms`` is what the batcher paid for it."""

    key: BucketKey
    rows: tuple[Row, ...]
    price_ms: float


@dataclass(frozen=True, slots=True)
class SlotAdmit:
    """A sequence takes a slot (first time or again): everything the device must know of it.

    ``seed`` is already resolved. ``token_ids`` are prompt and output so far, which penalties and
    resumed sequences need; ``num_prompt`` splits them. ``eos_ids`` are the tokens that
    ``min_tokens`` forbids. ``scores_prompt`` asks for the prompt's logprobs, ``embeds`` for its
    embedding instead of an answer. ``matcher`` says which tokens it may have, and is told what it
    gets.
    """

    slot: int
    seq_id: int
    params: SamplingParams
    seed: int
    token_ids: tuple[int, ...]
    num_prompt: int
    eos_ids: tuple[int, ...]
    scores_prompt: bool = False
    embeds: bool = False
    matcher: Matcher | None = None


class BlockGrant(msgspec.Struct, frozen=True, gc=False):
    """Blocks appended to a slot's block table, from table position ``first``."""

    slot: int
    first: int
    block_ids: tuple[int, ...]


class BlockCopy(msgspec.Struct, frozen=True, gc=False):
    """One sequence's KV between the device and the host, block by block."""

    device_ids: tuple[int, ...]
    host_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """One step. The policy fills ``launches`` (rows without slots), ``admit``, ``preempt`` (slot
    and blocks go), ``swap_out`` (they go too, the KV is kept on the host) and ``park`` (the slot
    goes, the blocks stay); binding it to memory fills slots, tokens, ``admits``, ``grants`` and
    the copies. Those out are made before anything of the step is written, for their blocks may be
    used again at once; then those in, then the launches run.

    ``holds_for`` is the number of steps for which the same decision would be taken again if
    nothing arrives and nothing finishes (pure decode), so that a simulator may repeat it.
    """

    launches: tuple[Launch, ...] = ()
    admit: tuple[int, ...] = ()
    preempt: tuple[int, ...] = ()
    park: tuple[int, ...] = ()
    swap_out: tuple[int, ...] = ()
    admits: tuple[SlotAdmit, ...] = ()
    grants: tuple[BlockGrant, ...] = ()
    copies_out: tuple[BlockCopy, ...] = ()
    copies_in: tuple[BlockCopy, ...] = ()
    price_ms: float = 0.0
    budget_ms: float = 0.0
    holds_for: int = 1

    @property
    def leaves(self) -> bool:
        """True if somebody loses its slot."""
        return bool(self.preempt or self.park or self.swap_out)

    @property
    def runs(self) -> bool:
        """True if there is anything for the device to do."""
        return bool(self.launches or self.copies_out)

    @property
    def num_copies(self) -> int:
        """Blocks copied, either way."""
        return sum([len(copy.host_ids) for copy in (*self.copies_out, *self.copies_in)])


class Sampled(msgspec.Struct, frozen=True, gc=False):
    """One sampled token of one sequence, with logprobs where they were asked for. ``ends`` says
    that its matcher has come to an end with it."""

    seq_id: int
    token_id: int
    logprob: float | None = None
    top_ids: tuple[int, ...] = ()
    top_logprobs: tuple[float, ...] = ()
    ends: MatchEnd | None = None


@dataclass(frozen=True, slots=True)
class PromptLogprobs:
    """Logprobs of the prompt tokens at positions ``first`` and up, computed by one prefill row."""

    seq_id: int
    first: int
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    top_ids: tuple[tuple[int, ...], ...]
    top_logprobs: tuple[tuple[float, ...], ...]


class Embedding(msgspec.Struct, frozen=True, gc=False):
    """The normed hidden state of a prompt's last token: float32 in the machine's byte order."""

    seq_id: int
    data: bytes


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What a step produced. ``actual_ms`` is one wall time per launch of the plan, ``copy_ms``
    that of its copies."""

    sampled: tuple[Sampled, ...]
    actual_ms: tuple[float, ...]
    prompt_logprobs: tuple[PromptLogprobs, ...] = ()
    copy_ms: float = 0.0
    embeddings: tuple[Embedding, ...] = ()

    @property
    def run_ms(self) -> float:
        return sum(self.actual_ms) + self.copy_ms


@dataclass(frozen=True, slots=True)
class ProgramCount:
    """How many of the compiled programs of a runner are in use already, and how many launches
    after that found none for their size."""

    ready: int = 0
    total: int = 0
    missed: int = 0
