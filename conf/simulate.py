"""What ``prelude simulate`` can be asked for. Mixes and devices are presets in ``conf/simulate/``;
all that a run depends on is in these records, so a result that carries them can be repeated.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from prelude.conf.bench import Lengths, Slo
from prelude.conf.schema import BatcherConfig


class SimArrival(StrEnum):
    """When requests come."""

    poisson = "poisson"
    gamma = "gamma"
    constant = "constant"
    onoff = "onoff"
    trace = "trace"


class Limit(StrEnum):
    """What ``max_tokens`` of a request says about its output."""

    exact = "exact"  # as long as it will be: runs of fixed length
    loose = "loose"  # twice to eight times as much
    none = "none"  # nothing


class Labels(StrEnum):
    """Do requests describe themselves truly?"""

    honest = "honest"
    none = "none"
    lies = "lies"  # each claims to be of another kind


class Routing(StrEnum):
    """Which replica gets a request."""

    round_robin = "round_robin"
    least_work = "least_work"  # predicted milliseconds of prefill and rows, at arrival


@dataclass(slots=True)
class SimClass:
    """One kind of request in a mix. Its requests come from ``clients`` different clients. With
    ``turns`` a request is a conversation: each turn's prompt is all that was said before, and
    new text drawn from ``prompt``."""

    weight: float = 1.0
    prompt: Lengths = field(default_factory=lambda: Lengths(value=128))
    output: Lengths = field(default_factory=lambda: Lengths(value=64))
    prefix_len: int = 0  # beginning shared by the requests of the class
    num_prefixes: int = 1  # how many different such beginnings
    turns: int = 1  # of a conversation
    think_s: float = 10.0  # mean time between the arrivals of two turns
    clients: int = 1
    service_class: str | None = None  # the label: fast, deep, doc or batch
    reasoning: str = ""  # the label: none, low, medium or high
    priority: int = 0  # the label: smaller first
    bounded: bool = False  # the label: a schema bounds the answer
    slo: Slo = field(default_factory=Slo)


@dataclass(slots=True)
class Traffic:
    """Requests: which, how many, and when."""

    classes: dict[str, SimClass] = field(default_factory=dict)
    num_requests: int = 2000
    arrival: SimArrival = SimArrival.poisson
    load: float | None = 0.85  # of what fcfs can sustain, measured by a run of its own
    rate: float | None = None  # requests a second, instead of load
    cv: float = 3.0  # coefficient of variation of gamma gaps
    on_s: float = 10.0  # onoff: mean length of a burst
    off_s: float = 20.0  # onoff: mean length of a pause
    trace: str | None = None  # JSON lines with arrival, prompt_len, max_tokens and class, or a
    trace_speed: float = 1.0  # step log; 2 plays it in half the time
    length_scale: float = 1.0  # of prompts and outputs
    limit: Limit = Limit.exact
    labels: Labels = Labels.honest
    label_error: float = 0.0  # share of requests that lie all the same
    warm: bool = True  # begin with the crowd that a long run would find, not with an empty machine
    seed: int = 0


@dataclass(slots=True)
class SimDevice:
    """What runs the steps: how large it is, what they cost. ``prices`` is a file with a price list
    (an engine's profile, or a list by itself), or the name of one in ``conf/simulate/prices/``;
    the other numbers make an analytic one, in milliseconds:
    ``floor + (weights^4 + (token * tokens)^4)^(1/4)`` for the forward, and what is read, paired and
    sampled besides."""

    name: str = "h200_8b"
    prices: str | None = None
    floor_ms: float = 0.9
    weights_ms: float = 3.9  # reading all weights once
    token_ms: float = 0.0294  # arithmetic of a new token
    ctx_ms: float = 3.07e-5  # a KV token read by a decode row
    pair_ms: float = 1.06e-6  # a query-key pair of prefill
    row_ms: float = 0.004  # sampling a row
    max_seqs: int = 256
    num_blocks: int = 50_000
    block_size: int = 16
    max_len: int = 131_072
    host_blocks: int = 0  # room for KV in host memory
    swap_ms: float = 0.0416  # copying a block there or back
    prefix: bool = False  # reuse the KV of equal prompt beginnings
    decode_buckets: list[int] = field(default_factory=list)  # static shapes; none: ragged launches
    prefill_buckets: list[int] = field(default_factory=list)
    overhead_ms: float = 0.0  # of a step besides its launches
    overhead_row_ms: float = 0.0  # the same, a row
    bias: float = 1.0  # steps really take this many times their price
    noise: float = 0.0  # and vary: standard deviation of the logarithm
    learn: bool = True  # prices follow what steps take, as in the engine


@dataclass(slots=True)
class Fleet:
    """Replicas behind one router; each has queues and memory of its own."""

    replicas: int = 1
    routing: Routing = Routing.least_work


@dataclass(slots=True)
class SimulateConfig:
    """``prelude simulate``: traffic through the engine's batcher on a price list."""

    traffic: Traffic = field(default_factory=Traffic)
    device: SimDevice = field(default_factory=SimDevice)
    fleet: Fleet = field(default_factory=Fleet)
    batcher: BatcherConfig = field(default_factory=BatcherConfig)
    replay: str | None = None  # step log of a real engine: hold the simulator against it
    warmup_share: float = 0.1  # of the requests, the first ones, that do not count
    cooldown_share: float = 0.05  # the last ones, likewise
    resamples: int = 200  # of the bootstrap
    samples: bool = False  # keep one record per request in the result
    result: str | None = None  # file for the result, besides the last line on stdout
    plot: str | None = None  # PNG or SVG file
    progress: bool = True  # a bar on stderr
