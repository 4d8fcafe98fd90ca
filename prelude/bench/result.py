"""The shape of a result file. One version for all benchmarks; readers (plots, comparisons, the
documentation) decode into these structs, so a field that changes meaning changes the version.
"""

from typing import Any

import msgspec

RESULT_VERSION = 1


class Interval(msgspec.Struct, frozen=True):
    """A value and its 95 % bootstrap interval, null where none was computed."""

    value: float
    low: float | None
    high: float | None


class Summary(msgspec.Struct, frozen=True):
    """Pooled samples; the unit is in the name of the field that holds the summary."""

    count: int
    mean: float
    min: float
    max: float
    p50: Interval
    p90: Interval
    p99: Interval


class Quiet(msgspec.Struct, frozen=True):
    """Was the machine idle? ``busy_share`` is what others used of the cores while nothing of ours
    ran; ``spin_share`` the least share of a core that a spinning thread got, by core."""

    load_1min: float
    busy_share: float
    spin_share: float
    quiet: bool


class Probe(msgspec.Struct, frozen=True):
    """The roof, measured in the same run: read bandwidth and dense matrix product peak."""

    device: str
    threads: int
    dtype: str
    read_gb_s: float
    gemm_gflop_s: float
    quiet: Quiet


class Process(msgspec.Struct, frozen=True):
    """A process that took part: the cores it may run on and the CPU seconds it used."""

    role: str
    pid: int
    cores: list[int]
    cpu_s: float
    peak_rss_mib: float


class Environment(msgspec.Struct, frozen=True):
    """Where and with what a result was measured; ``variables`` are those of the process
    environment that change how compute threads behave."""

    command: list[str]
    started_utc: str
    wall_s: float
    host_cpu: str
    cores: list[int]
    memory_gib: float
    accelerators: list[str]
    versions: dict[str, str]
    variables: dict[str, str]
    load_before: tuple[float, float, float]
    load_after: tuple[float, float, float]
    others_cpu_share: float | None
    quiet: bool
    processes: list[Process]
    probe: Probe | None


class RequestSample(msgspec.Struct, frozen=True, omit_defaults=True):
    """One request, times in milliseconds. ``scheduled_ms`` counts from the start of the run, the
    others from the moment the request was sent; ``failure`` is null for a completed one."""

    index: int
    kind: str
    scheduled_ms: float
    slip_ms: float
    failure: str | None = None
    detail: str = ""
    prompt_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    finish_reason: str | None = None
    ttft_ms: float | None = None
    first_content_ms: float | None = None
    e2e_ms: float | None = None
    tpot_ms: float | None = None
    stall_ms: float | None = None
    itl_ms: list[float] = []
    good: bool = False


class ClassReport(msgspec.Struct, frozen=True):
    """One class of traffic, or all of it. ``goodput_req_s`` counts the completed requests that
    met every target of their class; ``attainment`` divides them by the requests sent."""

    num_sent: int
    num_completed: int
    failures: dict[str, int]
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int
    req_s: float
    prompt_tok_s: float
    output_tok_s: float
    goodput_req_s: float
    attainment: float
    ttft_ms: Summary | None
    first_content_ms: Summary | None
    tpot_ms: Summary | None
    itl_ms: Summary | None
    stall_ms: Summary | None
    e2e_ms: Summary | None


class Generator(msgspec.Struct, frozen=True):
    """What the load generator itself did: how late it sent, and how much CPU it took."""

    offered_req_s: float
    slip_ms: Summary | None
    max_in_flight: int
    cpu_share: float


class ServeResult(msgspec.Struct, frozen=True, tag="serve", tag_field="benchmark"):
    environment: Environment
    config: dict[str, Any]
    model: str
    measured_s: float
    total: ClassReport
    classes: dict[str, ClassReport]
    generator: Generator
    warnings: list[str]
    samples: list[RequestSample]
    version: int = RESULT_VERSION


class StepFloor(msgspec.Struct, frozen=True):
    """The least a step can take on the probed device, what it is bound by (memory or compute),
    and the share of it that was reached: floor over the median step, or with ``bench.paired`` the
    median of each step's own share."""

    ms: float
    bound: str
    share: float


class StepTiming(msgspec.Struct, frozen=True):
    """One shape. ``overhead_ms`` is the part of a step that is not its launches; ``context`` the
    tokens before the new ones, ``tokens`` the new ones over all rows."""

    kind: str
    batch: int
    tokens: int
    context: int
    step_ms: Summary
    tok_s: float
    overhead_ms: Summary
    work_mib: float
    work_gflop: float
    floor: StepFloor | None
    samples_ms: list[float]


class EngineResult(msgspec.Struct, frozen=True, tag="engine", tag_field="benchmark"):
    """``programs`` are (in use, wanted): fewer in use means that eager code was timed.
    ``frontend_us_token`` is the server process's own time per streamed token."""

    environment: Environment
    config: dict[str, Any]
    model: str
    weights_mib: float
    startup_s: dict[str, float]
    timings: list[StepTiming]
    programs: tuple[int, int]
    frontend_us_token: float | None
    skipped: list[str]
    version: int = RESULT_VERSION


class PeerRun(msgspec.Struct, frozen=True):
    """One engine, one process, one turn of an interleaved comparison."""

    engine: str
    turn: int
    version: str
    threads: int
    cores: list[int]
    startup_s: float
    prefill_tok_s: float
    decode_tok_s: float
    streams_tok_s: float
    prefill_samples_ms: list[float]
    decode_samples_ms: list[float]
    streams_samples_ms: list[float]
    first_ids: list[int]


class PeerResult(msgspec.Struct, frozen=True, tag="peers", tag_field="benchmark"):
    """``ratios`` say how many times faster Prelude was, by peer and phase, over pairs of equal
    prompts; ``equal_ids`` how many greedy tokens of an engine agreed with the reference's before
    the first that did not; ``probes`` are the roof before each run and after the last, and
    ``roof_shares`` what was reached of it, by engine and phase."""

    environment: Environment
    config: dict[str, Any]
    shape: dict[str, Any]
    runs: list[PeerRun]
    ratios: dict[str, dict[str, Interval]]
    equal_ids: dict[str, tuple[int, int]]
    skipped: dict[str, str]
    probes: list[Probe] = []
    roof_shares: dict[str, dict[str, float]] = {}
    version: int = RESULT_VERSION


class PriceError(msgspec.Struct, frozen=True):
    """How far prices were off: relative errors (to the real time), and quantiles of real time
    over price."""

    num: int
    median: float
    p90: float
    ratio_p50: float
    ratio_p90: float


class KeyPrice(msgspec.Struct, frozen=True):
    """Launches of one bucket: medians of price, real time, relative error, and share of the floor
    that was reached."""

    key: str
    num: int
    price_ms: float
    actual_ms: float
    error: float
    floor_share: float | None


class PricesResult(msgspec.Struct, frozen=True, tag="prices", tag_field="benchmark"):
    """``errors`` are by kind of launch; ``samples`` are (key, price, real milliseconds) of every
    launch after the first ``num_warmup``, in order."""

    environment: Environment
    config: dict[str, Any]
    model: str
    programs: tuple[int, int]
    error: PriceError
    errors: dict[str, PriceError]
    keys: list[KeyPrice]
    num_warmup: int
    samples: list[tuple[str, float, float]]
    version: int = RESULT_VERSION


Result = ServeResult | EngineResult | PeerResult | PricesResult


def encode(result: Result) -> bytes:
    """One line of JSON."""
    return msgspec.json.encode(result)


def decode(data: bytes | str) -> Result:
    """Raises ``ValueError`` for other versions and for what is no result of ours."""
    result: Result = msgspec.json.decode(data, type=Result)
    if result.version != RESULT_VERSION:
        raise ValueError(
            f"result has version {result.version}, this reader knows {RESULT_VERSION}; "
            "use the Prelude release that wrote it"
        )
    return result
