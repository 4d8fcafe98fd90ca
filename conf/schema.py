"""The types of the configuration. YAML in this folder is what users read and override; these
dataclasses say which keys exist, of which type, and check what one value implies for another.

Below the command line nothing sees OmegaConf: ``prelude.conf.load`` turns the composed tree into
``Config`` at the door. Defaults live here; the YAML presets only say where they differ.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class LoadFormat(StrEnum):
    auto = "auto"
    random = "random"


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Dtype(StrEnum):
    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Weights(StrEnum):
    auto = "auto"
    int8 = "int8"


class Capture(StrEnum):
    auto = "auto"
    eager = "eager"
    inductor = "inductor"
    cuda = "cuda"


class AttentionBackend(StrEnum):
    auto = "auto"
    cpu = "cpu"
    torch = "torch"
    flashinfer = "flashinfer"
    triton = "triton"


class LinearBackend(StrEnum):
    auto = "auto"
    cpu = "cpu"
    torch = "torch"


class Overlap(StrEnum):
    auto = "auto"
    always = "always"
    never = "never"


class Policy(StrEnum):
    fcfs = "fcfs"
    priority = "priority"
    srpt_oracle = "srpt_oracle"
    class_aware = "class_aware"


class LogFormat(StrEnum):
    text = "text"
    json = "json"


class ToolParserName(StrEnum):
    auto = "auto"
    hermes = "hermes"
    qwen3_coder = "qwen3_coder"
    llama3_json = "llama3_json"
    mistral = "mistral"
    llama4_pythonic = "llama4_pythonic"
    pythonic = "pythonic"
    json = "json"


class ReasoningParserName(StrEnum):
    auto = "auto"
    none = "none"
    qwen3 = "qwen3"
    deepseek_r1 = "deepseek_r1"


class ReasoningField(StrEnum):
    reasoning_content = "reasoning_content"
    reasoning = "reasoning"
    both = "both"


class LogLevel(StrEnum):
    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


@dataclass(slots=True)
class ModelConfig:
    """Which checkpoint, and how to read it."""

    path: str = "demo"  # folder with config.json and safetensors, or the name of a bundled model
    name: str | None = None  # served name; default: the folder's name
    dtype: Dtype = Dtype.auto  # auto: fp32 on CPU, the checkpoint's on CUDA
    weights: Weights = Weights.auto  # of matrices; auto: as dtype; int8: rounded at load, CPU only
    max_len: int | None = None  # context limit in tokens; default: the checkpoint's, capped by KV
    load_format: LoadFormat = LoadFormat.auto  # random: weights from seed, no files but a shape
    seed: int = 0  # of random weights
    hf_config: dict[str, Any] = field(default_factory=dict)  # shape for load_format=random
    tokenizer: str | None = None  # folder; default: the model's
    chat_template: str | None = None  # Jinja file; default: the checkpoint's


@dataclass(slots=True)
class RunnerConfig:
    """Where and how wide the model runs."""

    device: Device = Device.auto  # auto: cuda where there is one, else cpu
    threads: int | None = None  # CPU compute threads; default: all cores, one for a tiny model
    max_seqs: int = 64  # slots: sequences that may be resident at once
    overlap: Overlap = Overlap.auto  # plan a step while one runs; auto: on CUDA alone
    linear: LinearBackend = LinearBackend.auto  # auto: cpu where it compiles, else torch
    batch_invariant: bool = False  # the same bits whatever a request is batched or cached with


@dataclass(slots=True)
class AttentionConfig:
    """Which attention kernels."""

    backend: AttentionBackend = AttentionBackend.auto  # auto: the fastest that works here


@dataclass(slots=True)
class GraphsConfig:
    """How steps are compiled."""

    capture: Capture = Capture.auto  # auto: CUDA graphs, or inductor where C++ compiles, or eager
    background: bool = True  # serve eagerly at once, compile or capture meanwhile
    decode_buckets: list[int] | None = None  # CUDA: rows; default: from past launches
    prefill_buckets: list[int] | None = None  # CUDA: new tokens; default: from past launches
    cache_dir: str | None = None  # of compiled programs and kernels; default: ~/.cache/prelude


@dataclass(slots=True)
class CacheConfig:
    """The paged KV pool. At most one of num_blocks and memory_gib may be set."""

    block_size: int = 16  # tokens a block
    num_blocks: int | None = None  # size of the pool in blocks
    memory_gib: float | None = None  # size of the pool in GiB
    memory_fraction: float = 0.5  # of what is free after the weights, where neither is set
    max_gib: float = 4.0  # bound on the derived size on CPU
    host_gib: float = 0.0  # host memory for KV of sequences that had to make room; 0: none
    prefix: bool = True  # reuse the KV of equal prompt beginnings


@dataclass(slots=True)
class ClassConfig:
    """What one service class is promised, and how much it may take."""

    itl_ms: float | None = None  # target between tokens, bounds steps; null: batcher.step_ms
    ttft_ms: float | None = None  # target for the first token: no longer overtaken; null: none
    kv_share: float = 1.0  # of the KV pool, that newcomers of the class may fill
    max_waiting: int | None = None  # queue limit; null: batcher.max_waiting alone
    max_wait_s: float = 60.0  # then the first may take a deep one's slot, before fast prompts
    patience: float = 1.0  # a prompt may be overtaken for so many times its own price


@dataclass(slots=True)
class ClassesConfig:
    """The service classes."""

    fast: ClassConfig = field(default_factory=lambda: ClassConfig(patience=2.0))
    deep: ClassConfig = field(default_factory=ClassConfig)
    doc: ClassConfig = field(default_factory=ClassConfig)
    batch: ClassConfig = field(default_factory=lambda: ClassConfig(max_wait_s=600.0))


@dataclass(slots=True)
class MechanismsConfig:
    """What policy=class_aware is made of; each can be switched off to see what it is worth."""

    contract: bool = True  # max_tokens, reasoning and schemas tell the class and the forecast
    prediction: bool = True  # the learned output length does
    probation: bool = True  # a long answer leaves the fast class when its quantum is used up
    budget: bool = True  # steps are bounded in time by the classes' targets
    stretch: bool = True  # steps are longer while newcomers queue, up to three targets
    split: bool = True  # a step ends before the next question where that helps more than it costs
    interleave: bool = True  # a prompt half computed can be overtaken
    park: bool = True  # deep sequences give up their slots to fast ones and keep their blocks
    evict: bool = True  # deep sequences give up their blocks to fast ones
    swap: bool = True  # where cache.host_gib gives room, KV that must go is kept there; any policy
    forecast: bool = True  # admission looks ahead at the KV peak of who runs already
    fairness: bool = True  # clients that used more than others wait behind them
    cost_order: bool = True  # cheap prompts may overtake dear ones of their class


@dataclass(slots=True)
class BatcherConfig:
    """Who gets into a step."""

    policy: Policy = Policy.class_aware  # who is served first
    classes: ClassesConfig = field(default_factory=ClassesConfig)
    use: MechanismsConfig = field(default_factory=MechanismsConfig)
    deep_share: float = 0.15  # of a step's time that deep sequences keep while fast ones want it
    prompt_share: float = 0.2  # of the time for prompts, that long ones keep against fast ones
    probation_ms: float | None = None  # decoding alone, in the fast class; null: 192 tokens' worth
    doc_ms: float | None = None  # of prompt alone, from which it is a document; null: 16 step_ms
    reserve: float = 0.1  # of the KV pool, that only fast sequences may be admitted to
    max_partials: int = 4  # prompts that may be half computed at once
    fair_ms: float | None = None  # device time a client may be ahead; null: 400 step_ms
    max_step_tokens: int = 512  # new tokens in a step; decodes and one min_chunk always run
    step_ms: float | None = None  # time budget while streams run; null: three decode steps, >= 50
    idle_step_ms: float | None = None  # while none does; null: ten step_ms, class_aware six decodes
    min_chunk: int = 16  # smallest prefill chunk, so that prefill always moves
    max_bypass: int = 16  # times a request that does not fit may be overtaken, by fcfs
    headroom: int = 64  # tokens of growth kept free per running sequence when others are admitted
    max_waiting: int = 1024  # queue limit; beyond it requests are refused


@dataclass(slots=True)
class SamplingConfig:
    """Defaults for fields a request leaves out; null: the checkpoint's generation_config.json."""

    temperature: float | None = None  # 0 is greedy
    top_p: float | None = None  # smallest set of tokens with this probability; 1 is all
    top_k: int | None = None  # this many most likely tokens; 0 is all
    min_p: float | None = None  # tokens at least this likely, relative to the likeliest; 0 is all
    repetition_penalty: float | None = None  # 1 is none
    max_tokens: int | None = None  # null: until the context is full


@dataclass(slots=True)
class AuthConfig:
    """Who may ask. Keys are in a file and in PRELUDE_API_KEY and PRELUDE_ADMIN_KEY."""

    keys: str | None = None  # file that `prelude keys` writes; read again when it changes
    allow_anonymous: bool = False  # serve beyond this machine although there are no keys
    public_page: bool = False  # the chat page needs no key; what it asks for still does


@dataclass(slots=True)
class LimitsConfig:
    """What keys that say nothing of their own may use (without keys: everybody together), and how
    large a request may be. Null: no limit."""

    requests_per_min: int | None = None  # of one key
    tokens_per_min: int | None = None  # of one key, prompts and answers together
    concurrency: int | None = None  # requests of one key at once
    max_context: int | None = None  # tokens of prompt and answer together
    max_cost_ms: float | None = None  # device time that a request is expected to take
    max_messages: int = 4096  # in a conversation
    max_tools: int = 256  # in a request
    max_schema_kib: float = 64.0  # of a JSON schema, regex, grammar or list of choices
    max_connections: int = 4096  # open at once; more are closed unheard
    read_timeout_s: float = 30.0  # for a request's head, and for each 64 KiB of its body


@dataclass(slots=True)
class AdminConfig:
    """A port of its own for metrics, the live view and /admin. They are nowhere else then."""

    port: int | None = None  # null: no /admin, and metrics and the live view on server.port
    host: str = "127.0.0.1"  # address to listen on; beyond this machine it needs a key


@dataclass(slots=True)
class CorsConfig:
    """Which other sites' pages may use this server from a browser."""

    origins: list[str] = field(default_factory=list)  # as https://chat.example.com; '*' is any


@dataclass(slots=True)
class TlsConfig:
    """HTTPS without a proxy. Both or neither."""

    cert: str | None = None  # PEM file of the certificate and its chain
    key: str | None = None  # PEM file of its private key


@dataclass(slots=True)
class TracingConfig:
    """OpenTelemetry; needs the extra ``otel``."""

    endpoint: str | None = None  # of traces, OTLP over HTTP: http://HOST:4318/v1/traces; null: off
    sample: float = 1.0  # share of the requests that are traced
    trust_parent: bool = False  # also those that callers say are: anybody's, or your own proxy's


@dataclass(slots=True)
class GrpcConfig:
    """The protocol of vLLM's gRPC server beside HTTP, on server.host; needs the extra ``grpc``."""

    port: int | None = None  # null: off; 0: any free port


@dataclass(slots=True)
class SupervisorConfig:
    """What becomes of an engine that was ready and ends, or hangs."""

    max_restarts: int = 5  # in window_s; then liveness fails, for only a restart of all helps
    window_s: float = 600.0  # seconds in which restarts are counted
    backoff_s: float = 0.5  # before the first restart; doubles with each in the window, 30 at most
    hang_s: float = 300.0  # a ready engine that says nothing for so long is killed; 0: never


@dataclass(slots=True)
class ServerConfig:
    """The HTTP server."""

    host: str = "127.0.0.1"  # address to listen on; 0.0.0.0 is every interface
    port: int = 8000  # 0: any free port
    uds: str | None = None  # path of a Unix socket to listen on instead of host and port
    drain_s: float = 30.0  # how long SIGTERM lets streams finish
    ping_s: float = 15.0  # comment line on idle streams, against proxies' time-outs
    send_timeout_s: float = 30.0  # a client that reads nothing for so long is gone
    max_body_mib: float = 16.0  # larger request bodies are refused
    strict: bool = False  # refuse unknown request fields instead of counting them
    tool_parser: ToolParserName = ToolParserName.auto  # how the model writes calls; auto: template
    reasoning_parser: ReasoningParserName = ReasoningParserName.auto  # auto: think tags
    reasoning_field: ReasoningField = ReasoningField.reasoning_content  # its name in answers
    resume_s: float = 30.0  # a stream that asks for it waits so long for its client; 0: never
    resume_mib: float = 64.0  # what all streams that can be resumed may keep
    supervisor: SupervisorConfig = field(default_factory=SupervisorConfig)
    auth: AuthConfig = field(default_factory=AuthConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    admin: AdminConfig = field(default_factory=AdminConfig)
    cors: CorsConfig = field(default_factory=CorsConfig)
    tls: TlsConfig = field(default_factory=TlsConfig)
    tracing: TracingConfig = field(default_factory=TracingConfig)
    grpc: GrpcConfig = field(default_factory=GrpcConfig)


@dataclass(slots=True)
class LogConfig:
    """What is written down while it runs."""

    steps: str | None = None  # file for the step log (JSON lines); null keeps the last in memory
    level: LogLevel = LogLevel.INFO  # of the lines on stderr
    format: LogFormat = LogFormat.text  # of those lines; json: an object each, for log collectors


@dataclass(slots=True)
class Config:
    """What ``prelude serve``, ``prelude bench`` and ``LLM`` share."""

    model: ModelConfig = field(default_factory=ModelConfig)
    runner: RunnerConfig = field(default_factory=RunnerConfig)
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    graphs: GraphsConfig = field(default_factory=GraphsConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    batcher: BatcherConfig = field(default_factory=BatcherConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    log: LogConfig = field(default_factory=LogConfig)
