"""What a client asks for and what it gets back, token by token.

These structs cross the process boundary, so they are frozen msgspec structs; they validate
themselves, because both the Python API and the HTTP server build them from user input.
"""

from typing import Literal

import msgspec

from prelude.types.constraint import Constraint
from prelude.types.errors import Refusal
from prelude.types.service import Hints, ServiceClass

SampleMode = Literal["greedy", "filtered", "full"]
FinishReason = Literal["stop", "length", "abort", "error"]

MAX_TOP_LOGPROBS = 20
_SEED_LIMIT = 2**63


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How to choose tokens and when to stop.

    ``max_tokens=None`` means "until the context is full". ``temperature=0`` is greedy.
    ``top_k=0``, ``top_p=1`` and ``min_p=0`` switch those filters off. Penalties follow OpenAI
    (presence, frequency: output tokens) and CTRL (repetition: prompt and output, arXiv:1909.05858).
    ``allowed_token_ids`` are the only ones that may be chosen, where there are any.
    ``logprobs=k`` returns the sampled token's logprob and the k most likely alternatives;
    ``prompt_logprobs=k`` the same for every prompt position but the first. Logprobs are those of
    the raw logits, before temperature and penalties. ``constraint`` leaves only answers of a form.
    Raises ``ValueError`` naming the field.
    """

    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = {}
    allowed_token_ids: tuple[int, ...] = ()
    seed: int | None = None
    n: int = 1
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    constraint: Constraint | None = None

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            raise ValueError("stop: pass a tuple of strings, as in stop=('\\n',)")
        _require(self.max_tokens is None or self.max_tokens >= 1, "max_tokens", "at least 1")
        _require(self.min_tokens >= 0, "min_tokens", "at least 0")
        _require(
            self.max_tokens is None or self.min_tokens <= self.max_tokens,
            "min_tokens",
            "no greater than max_tokens",
        )
        _require(0.0 <= self.temperature <= 100.0, "temperature", "between 0 and 100")
        _require(self.top_k >= 0, "top_k", "0 (off) or a positive number of tokens")
        _require(0.0 < self.top_p <= 1.0, "top_p", "in (0, 1]")
        _require(0.0 <= self.min_p <= 1.0, "min_p", "in [0, 1]")
        _require(-2.0 <= self.presence_penalty <= 2.0, "presence_penalty", "between -2 and 2")
        _require(-2.0 <= self.frequency_penalty <= 2.0, "frequency_penalty", "between -2 and 2")
        _require(0.0 < self.repetition_penalty <= 10.0, "repetition_penalty", "in (0, 10]")
        _require(1 <= self.n <= 128, "n", "between 1 and 128")
        _require(all(self.stop), "stop", "non-empty strings")
        _require(
            all(-100.0 <= b <= 100.0 for b in self.logit_bias.values()),
            "logit_bias",
            "between -100 and 100 for every token id",
        )
        _require(
            self.seed is None or -_SEED_LIMIT <= self.seed < _SEED_LIMIT, "seed", "a 64-bit integer"
        )
        for name in ("logprobs", "prompt_logprobs"):
            value = getattr(self, name)
            _require(
                value is None or 0 <= value <= MAX_TOP_LOGPROBS,
                name,
                f"between 0 and {MAX_TOP_LOGPROBS}",
            )

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0.0

    @property
    def has_penalties(self) -> bool:
        return bool(
            self.presence_penalty
            or self.frequency_penalty
            or self.repetition_penalty != 1.0
            or self.logit_bias
            or self.allowed_token_ids
        )

    @property
    def sample_mode(self) -> SampleMode:
        """The cheapest sampling program that serves these parameters."""
        if (
            self.has_penalties
            or self.min_tokens
            or self.logprobs is not None
            or self.constraint is not None
        ):
            return "full"
        return "greedy" if self.is_greedy else "filtered"


def _require(condition: bool, field: str, expected: str) -> None:
    if not condition:
        raise ValueError(f"{field}: must be {expected}")


class Request(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One prompt to continue. ``uid`` is unique per client connection to an engine.

    ``arrival_s`` is seconds of the host's monotonic clock, 0 when unknown. ``cache_salt``
    partitions the prefix cache by tenant. ``embeds`` asks for the prompt's embedding and for no
    tokens; ``params`` then say ``max_tokens=1`` and ``n=1``.
    """

    uid: int
    prompt_ids: list[int]
    params: SamplingParams
    arrival_s: float = 0.0
    cache_salt: str = ""
    hints: Hints = Hints()
    embeds: bool = False


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """Logprob of one token and of the most likely alternatives, best first."""

    token_id: int
    logprob: float
    top_ids: list[int]
    top_logprobs: list[float]


class RequestTimings(msgspec.Struct, frozen=True, array_like=True):
    """Milliseconds of a sequence's life as the engine saw it; sent with its first token (when
    ``decode_ms`` is 0), with its last event, and whenever its class has changed.
    ``service_class`` is the one it is in then, ``waited_as`` the one it waited for its first
    token in, ``predicted_tokens`` the output tokens expected when it came, 0 where nothing was."""

    queue_ms: float
    prefill_ms: float
    decode_ms: float
    num_preemptions: int
    service_class: ServiceClass = "fast"
    predicted_tokens: float = 0.0
    waited_as: ServiceClass = "fast"


class TokenEvent(msgspec.Struct, frozen=True, array_like=True):
    """What one step produced for one sequence (choice ``index`` of request ``uid``).

    A sequence ends with exactly one event that has a ``finish_reason``; ``error`` then says why
    when the reason is "error", and ``refusal`` where another time would have been better.
    ``stop_reason`` is the stop token id, where one stopped it. ``embedding`` is the normed hidden
    state of the prompt's last token, float32 in the machine's byte order.
    """

    uid: int
    index: int
    token_ids: list[int]
    finish_reason: FinishReason | None = None
    stop_reason: int | None = None
    logprobs: list[TokenLogprobs] | None = None
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    num_cached_tokens: int = 0
    timings: RequestTimings | None = None
    error: str | None = None
    refusal: Refusal | None = None
    embedding: bytes | None = None
