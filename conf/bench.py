"""What ``prelude bench`` can be asked for. The presets in ``conf/bench/`` are named workloads;
everything a run depends on is in these records, so a result that carries them can be repeated.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from prelude.conf.schema import Config


class Arrival(StrEnum):
    """When requests are sent: open loop (the first four) or a fixed number in flight."""

    poisson = "poisson"
    gamma = "gamma"
    constant = "constant"
    trace = "trace"
    closed = "closed"


class Endpoint(StrEnum):
    chat = "chat"
    completions = "completions"


class LengthKind(StrEnum):
    fixed = "fixed"
    uniform = "uniform"
    lognormal = "lognormal"


class PromptSource(StrEnum):
    words = "words"  # units that are one token each in the common tokenizers; length in units
    chars = "chars"  # random characters; length in characters
    ids = "ids"  # random token ids (completions only); length in tokens
    file = "file"  # JSON lines with prompt or messages, and optionally max_tokens


@dataclass(slots=True)
class Lengths:
    """A distribution of lengths. ``value`` is the length (fixed) or the median (lognormal)."""

    kind: LengthKind = LengthKind.fixed
    value: int = 128
    low: int = 1  # bounds of uniform, and where lognormal is cut off
    high: int = 8192
    sigma: float = 0.9  # of the logarithm (lognormal)


@dataclass(slots=True)
class Slo:
    """Latency targets in milliseconds; a request is good when it meets every one that is set."""

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    stall_ms: float | None = None  # longest gap between two chunks
    e2e_ms: float | None = None


@dataclass(slots=True)
class TrafficClass:
    """One kind of request in a mix."""

    weight: float = 1.0
    source: PromptSource = PromptSource.words
    path: str | None = None  # of the JSON lines, for source=file
    vocab_size: int | None = None  # for source=ids
    prompt: Lengths = field(default_factory=lambda: Lengths(value=128))
    output: Lengths = field(default_factory=lambda: Lengths(value=64))
    prefix_len: int = 0  # beginning shared by the requests of the class, in units of the source
    num_prefixes: int = 1  # how many different such beginnings
    slo: Slo = field(default_factory=Slo)
    body: dict[str, Any] = field(default_factory=dict)  # extra request fields of this class


@dataclass(slots=True)
class ServeBenchConfig:
    """``prelude bench serve``: load on an OpenAI-compatible server, bounded in count and time."""

    base_url: str = "http://127.0.0.1:8000/v1"
    model: str | None = None  # default: the first of GET /models
    api_key: str | None = None
    endpoint: Endpoint = Endpoint.completions
    stream: bool = True
    arrival: Arrival = Arrival.poisson
    rate: float = 2.0  # requests a second (poisson, gamma, constant)
    burstiness: float = 1.0  # shape of gamma: 1 is poisson, smaller is burstier, CV = shape^-1/2
    concurrency: int = 8  # requests in flight (closed)
    trace: str | None = None  # JSON lines with arrival in seconds (trace)
    trace_speed: float = 1.0  # 2 plays the trace in half the time
    classes: dict[str, TrafficClass] = field(default_factory=dict)
    num_requests: int = 100
    duration_s: float = 120.0  # then nothing more is sent, and what is open is cut off
    request_timeout_s: float = 60.0
    warmup: int = 2  # requests sent one after another before, not counted
    temperature: float = 0.0
    ignore_eos: bool = True  # outputs of exactly the drawn length
    body: dict[str, Any] = field(default_factory=dict)  # extra fields of every request
    keepalive: bool = True  # false: a new connection for each request
    seed: int = 0
    resamples: int = 1000  # of the bootstrap
    probe: bool = True  # measure memory bandwidth and GEMM peak first (local servers)
    threads: int | None = None  # of the probe; default: the cores this process may use
    pids: list[int] = field(default_factory=list)  # of the server; default: who listens on the port
    samples: bool = True  # keep one record per request in the result
    result: str | None = None  # file for the result, besides the last line on stdout


@dataclass(slots=True)
class EngineWorkload:
    """Which steps to time, and how often. The engine is made large enough for them: budgets are
    lifted to ``step_tokens``, and slots and blocks are derived where none are set."""

    batches: list[int] = field(default_factory=lambda: [1, 2, 4, 8, 16])
    contexts: list[int] = field(default_factory=lambda: [128, 1024])
    prefills: list[int] = field(default_factory=lambda: [128, 512])
    steps: int = 16  # timed steps of each decode shape
    repeats: int = 3  # timed runs of each prefill shape
    warmup: int = 2  # untimed ones before
    step_tokens: int = 16384  # longer prompts, and the prompts of large batches, come in chunks
    max_s: float = 300.0  # then remaining shapes are skipped, and named in the result
    frontend_tokens: int = 20000  # streamed through a server of its own to price one; 0: skip
    probe: bool = True
    paired: bool = False  # a probe right before each timed step, where a machine is never the same
    seed: int = 0
    result: str | None = None


@dataclass(slots=True)
class EngineBenchConfig(Config):
    """``prelude bench engine``: step times of one engine in this process, against the floor."""

    bench: EngineWorkload = field(default_factory=EngineWorkload)


@dataclass(slots=True)
class PricesWorkload:
    """A mixed load that prices have to follow: so many requests at a time, for ``hold_s`` each."""

    seconds: float = 60.0
    streams: list[int] = field(default_factory=lambda: [1, 2, 4, 8, 12, 16, 24])
    hold_s: float = 3.0
    prompt: Lengths = field(
        default_factory=lambda: Lengths(LengthKind.lognormal, value=128, low=8, high=600)
    )
    output: Lengths = field(
        default_factory=lambda: Lengths(LengthKind.lognormal, value=48, low=4, high=256)
    )
    long: Lengths = field(default_factory=lambda: Lengths(LengthKind.uniform, low=800, high=1600))
    long_share: float = 0.1  # of requests with a prompt from ``long``
    greedy_share: float = 0.5  # the others draw from the likeliest tokens
    penalty_share: float = 0.1  # of all, drawn with penalties
    warmup_share: float = 0.1  # of the launches, not counted
    probe: bool = True
    seed: int = 0
    result: str | None = None


@dataclass(slots=True)
class PricesBenchConfig(Config):
    """``prelude bench prices``: predicted against real time of every launch of a mixed load."""

    bench: PricesWorkload = field(default_factory=PricesWorkload)
