"""What one value implies for another, and the ranges that types cannot say.

Every command reads its configuration through ``prelude.conf.load``, which ends here, so code
below the door may rely on these facts.
"""

import re

from prelude.conf.schema import (
    Config,
    LimitsConfig,
    LoadFormat,
    ModelConfig,
    SupervisorConfig,
    TracingConfig,
)

_ORIGIN = re.compile(r"https?://[^/\s]+")


def check_config(config: Config) -> None:
    """Raise ``ValueError`` with one line naming the key, what it is and what it must be."""
    _check_model(config.model)
    _check_runner(config)
    _check_cache(config)
    _check_batcher(config)
    _check_graphs(config)
    _check_sampling(config)
    _check_server(config)


def _require(condition: bool, key: str, value: object, expected: str) -> None:
    if not condition:
        raise ValueError(f"{key}={value}: must be {expected}")


def _check_model(model: ModelConfig) -> None:
    _require(bool(model.path), "model.path", model.path, "a folder or the name of a bundled model")
    _require(
        model.max_len is None or model.max_len >= 1, "model.max_len", model.max_len, "positive"
    )
    if model.load_format is LoadFormat.random and not model.hf_config:
        raise ValueError(
            "model.load_format=random: needs the model's shape in model.hf_config,"
            " as in model=tiny or model=qwen3_0_6b"
        )
    if model.load_format is LoadFormat.auto and model.hf_config:
        raise ValueError(
            "model.hf_config: describes the shape of random weights;"
            " set model.load_format=random or leave it out"
        )


def _check_runner(config: Config) -> None:
    runner = config.runner
    _require(
        runner.threads is None or runner.threads >= 1, "runner.threads", runner.threads, "positive"
    )
    _require(1 <= runner.max_seqs <= 4096, "runner.max_seqs", runner.max_seqs, "1 to 4096")


def _check_cache(config: Config) -> None:
    cache = config.cache
    if cache.num_blocks is not None and cache.memory_gib is not None:
        raise ValueError("cache.num_blocks and cache.memory_gib: both set; set at most one of them")
    size = cache.block_size
    _require(
        1 <= size <= 256 and size & (size - 1) == 0,
        "cache.block_size",
        size,
        "a power of two, at most 256",
    )
    _require(
        cache.num_blocks is None or cache.num_blocks >= 2,
        "cache.num_blocks",
        cache.num_blocks,
        "at least 2 (block 0 is kept for padding)",
    )
    for key in ("memory_gib", "max_gib"):
        gib = getattr(cache, key)
        _require(gib is None or gib > 0, f"cache.{key}", gib, "positive")
    _require(cache.host_gib >= 0, "cache.host_gib", cache.host_gib, "0 (none) or more")
    _require(
        0 < cache.memory_fraction <= 1,
        "cache.memory_fraction",
        cache.memory_fraction,
        "in (0, 1]",
    )


def _check_batcher(config: Config) -> None:
    batcher = config.batcher
    for key in ("max_step_tokens", "min_chunk", "max_waiting"):
        value = getattr(batcher, key)
        _require(value >= 1, f"batcher.{key}", value, "positive")
    for key in ("step_ms", "idle_step_ms", "fair_ms"):
        ms = getattr(batcher, key)
        _require(ms is None or ms > 0, f"batcher.{key}", ms, "positive")
    for name in ("fast", "deep", "doc", "batch"):
        limit = getattr(batcher.classes, name).max_waiting
        _require(
            limit is None or limit >= 1, f"batcher.classes.{name}.max_waiting", limit, "positive"
        )
    for key in ("max_bypass", "headroom"):
        _require(getattr(batcher, key) >= 0, f"batcher.{key}", getattr(batcher, key), "0 or more")
    _require(
        batcher.min_chunk <= batcher.max_step_tokens,
        "batcher.min_chunk",
        batcher.min_chunk,
        f"no more than batcher.max_step_tokens={batcher.max_step_tokens}",
    )


def _check_graphs(config: Config) -> None:
    limits = {"decode": config.runner.max_seqs, "prefill": config.batcher.max_step_tokens}
    for kind, limit in limits.items():
        sizes: list[int] | None = getattr(config.graphs, f"{kind}_buckets")
        if sizes is not None:
            rising = bool(sizes) and sizes == sorted(set(sizes)) and sizes[0] >= 1
            expected = f"increasing sizes from 1 to {limit}"
            _require(rising and sizes[-1] <= limit, f"graphs.{kind}_buckets", sizes, expected)


def _check_sampling(config: Config) -> None:
    s = config.sampling
    ranges = (
        ("temperature", s.temperature is None or 0 <= s.temperature <= 100, "0 to 100"),
        ("top_p", s.top_p is None or 0 < s.top_p <= 1, "in (0, 1]"),
        ("top_k", s.top_k is None or s.top_k >= 0, "0 (all) or more"),
        ("min_p", s.min_p is None or 0 <= s.min_p <= 1, "in [0, 1]"),
        (
            "repetition_penalty",
            s.repetition_penalty is None or 0 < s.repetition_penalty <= 10,
            "in (0, 10]",
        ),
        ("max_tokens", s.max_tokens is None or s.max_tokens >= 1, "positive"),
    )
    for key, is_good, expected in ranges:
        _require(is_good, f"sampling.{key}", getattr(s, key), expected)


def _check_server(config: Config) -> None:
    server = config.server
    _require(bool(server.host), "server.host", server.host, "an address, such as 127.0.0.1")
    _require(0 <= server.port <= 65535, "server.port", server.port, "0 to 65535")
    _require(server.uds != "", "server.uds", server.uds, "a path such as /run/prelude.sock")
    _require(server.drain_s >= 0, "server.drain_s", server.drain_s, "0 or more")
    for key in ("ping_s", "send_timeout_s", "max_body_mib", "resume_mib"):
        _require(getattr(server, key) > 0, f"server.{key}", getattr(server, key), "positive")
    _check_supervisor(server.supervisor)
    _require(server.resume_s >= 0, "server.resume_s", server.resume_s, "0 (never) or more")
    _check_limits(server.limits)
    admin = server.admin.port
    _require(
        admin is None or (0 <= admin <= 65535 and (admin != server.port or admin == 0)),
        "server.admin.port",
        admin,
        "0 to 65535 and another than server.port",
    )
    grpc = server.grpc.port
    _require(
        grpc is None or (0 <= grpc <= 65535 and (grpc == 0 or grpc not in (server.port, admin))),
        "server.grpc.port",
        grpc,
        "0 to 65535 and another than the other ports",
    )
    for origin in server.cors.origins:
        _require(
            origin == "*" or bool(_ORIGIN.fullmatch(origin)),
            "server.cors.origins",
            origin,
            "origins such as https://chat.example.com, or '*'",
        )
    _check_tracing(server.tracing)
    if (server.tls.cert is None) != (server.tls.key is None):
        raise ValueError("server.tls.cert and server.tls.key: set both or neither")


def _check_limits(limits: LimitsConfig) -> None:
    for key in ("requests_per_min", "tokens_per_min", "concurrency", "max_context", "max_cost_ms"):
        value = getattr(limits, key)
        _require(value is None or value > 0, f"server.limits.{key}", value, "positive")
    for key in ("max_messages", "max_tools", "max_schema_kib", "max_connections", "read_timeout_s"):
        value = getattr(limits, key)
        _require(value > 0, f"server.limits.{key}", value, "positive")


def _check_tracing(tracing: TracingConfig) -> None:
    endpoint = tracing.endpoint
    _require(
        endpoint is None or endpoint.startswith(("http://", "https://")),
        "server.tracing.endpoint",
        endpoint,
        "a URL such as http://localhost:4318/v1/traces",
    )
    _require(
        0 <= tracing.sample <= 1, "server.tracing.sample", tracing.sample, "a share from 0 to 1"
    )


def _check_supervisor(supervisor: SupervisorConfig) -> None:
    for key in ("max_restarts", "backoff_s"):
        value = getattr(supervisor, key)
        _require(value >= 0, f"server.supervisor.{key}", value, "0 or more")
    window_s, hang_s = supervisor.window_s, supervisor.hang_s
    _require(window_s > 0, "server.supervisor.window_s", window_s, "positive")
    is_long = hang_s == 0 or hang_s >= 5
    _require(is_long, "server.supervisor.hang_s", hang_s, "0 (never) or at least 5 seconds")
