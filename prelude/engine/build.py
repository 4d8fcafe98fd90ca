"""From a configuration to a running engine, and the report of what that took and why."""

import logging
import os
import platform
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

import torch

from prelude.cache.layout import KVLayout
from prelude.cache.sizing import (
    Memory,
    PoolSize,
    check_weights,
    explained,
    host_memory_bytes,
    size_pool,
)
from prelude.conf.schema import Config, Device, Dtype, LoadFormat, Overlap, Weights
from prelude.engine.core import EngineCore
from prelude.engine.profile import PROFILE_VERSION, Profile, read_profile
from prelude.engine.startup import Progress, Startup
from prelude.engine.steplog import StepLog
from prelude.graphs.pool import LayerPrograms, cache_dir
from prelude.kernels.attention import select_backend
from prelude.kernels.build import cpu_flags
from prelude.kernels.linear import select_linear
from prelude.models.checkpoint import weight_files
from prelude.models.decoder import Decoder
from prelude.models.generation_config import read_eos_ids
from prelude.models.loading import load_decoder, random_decoder
from prelude.models.paths import resolve_model_path
from prelude.models.spec import ModelSpec, read_config, read_spec
from prelude.runner.model import ModelRunner
from prelude.runner.protocol import Runner
from prelude.runner.threaded import ThreadedRunner
from prelude.types.wire import EngineInfo

logger = logging.getLogger(__name__)

_ONE_CORE_BYTES = 32 * 2**20
_LOGIT_COPIES = 4  # of a sampled row: logits, scaled, their highest, probabilities
_PENALTY_BYTES = 9  # a token of the vocabulary: count, whether in the prompt, bias


@dataclass(frozen=True, slots=True)
class _Model:
    """What is to run, and where: ``folder`` is None for a bare shape, ``weights`` the type of
    matrices where it is not ``dtype``."""

    spec: ModelSpec
    folder: Path | None
    dtype: torch.dtype
    weights: torch.dtype | None
    device: torch.device
    threads: int

    @property
    def memory_dtype(self) -> str:
        return str(self.weights or self.dtype).removeprefix("torch.")


def build_engine(
    config: Config,
    progress: Progress = lambda phase, fraction: None,
    before_s: float = 0.0,
) -> tuple[EngineCore, EngineInfo]:
    """Load the model, allocate the cache, start compiling. ``progress`` gets (phase, fraction),
    ``before_s`` is how old the process is. Raises ``ValueError`` with what to change where the
    configuration cannot be met."""
    start = Startup(progress, before_s)
    with start.phase("reading config"):
        model = _resolve(config, start)
    runner, path = _cpu_runner(config, model, start)
    eos_ids = read_eos_ids(model.folder) if model.folder else model.spec.eos_ids
    core = EngineCore(
        runner,
        batcher=config.batcher,
        cache=config.cache,
        max_seqs=config.runner.max_seqs,
        eos_ids=eos_ids,
        log=StepLog(Path(config.log.steps) if config.log.steps else None),
        profile=Profile(runner.prices, path=path),
    )
    _say_budgets(config, core, start)
    start.finish()
    info = _info(config, model, core, eos_ids, start)
    logger.info("%s on %s (%s)", info.model_name, info.device, info.weights or info.dtype)
    for line in start.lines():
        logger.info("%s", line)
    return core, info


def _resolve(config: Config, start: Startup) -> _Model:
    device = _device(config.runner.device)
    spec, folder = _spec(config)
    dtype = _dtype(config.model.dtype)
    threads = config.runner.threads or _num_threads(spec)
    torch.set_num_threads(threads)
    if config.runner.threads is None:
        start.rule("threads", threads, "all cores, or one if the model fits into its caches")
    weights = torch.int8 if config.model.weights == Weights.int8 else None
    return _Model(spec, folder, dtype, weights, device, threads)


def _cpu_runner(config: Config, model: _Model, start: Startup) -> tuple[Runner, Path]:
    """The runner, and where its profile is kept."""
    with start.phase("building kernels"):
        kernels = cache_dir(config.graphs) / "kernels"
        attention = select_backend(
            config.attention.backend.value, kernels, invariant=config.runner.batch_invariant
        )
        linear = select_linear(config.runner.linear.value, kernels)
        start.rule("kernels", f"attention {attention}, linear {linear}", "cpu where C++ compiles")
        if config.runner.batch_invariant:
            _check_invariant(attention, linear)
    memory = _memory(config, model)
    check_weights(memory, host_memory_bytes())
    with start.phase("loading weights") as phase, explained(memory, 0):
        decoder = _decoder(config, model, start)
        phase.read_bytes += _file_bytes(config, model)
    with start.phase("sizing cache"):
        layout = _layout(config, model)
        size = _pool_size(config, model, layout, memory)
        _say_size(config, start, size, layout, memory)
    with start.phase("loading programs"):
        programs = _programs(config, model, start)
    kind = (model.spec, model.memory_dtype, model.threads, layout.block_size, attention, linear)
    path = cache_dir(config.graphs) / "profiles" / _profile_name(*kind, programs.count.total)
    ready = programs.count.ready == programs.count.total
    prices = read_profile(path).prices if ready else None
    start.rule("prices", "remembered" if prices else "measured", "from the profile in the cache")
    kv_bytes = size.num_blocks * layout.block_bytes
    with start.phase("measuring prices"), explained(memory, kv_bytes):
        runner = ModelRunner(
            decoder,
            layout,
            num_blocks=size.num_blocks,
            max_len=size.max_len,
            max_seqs=config.runner.max_seqs,
            device=model.device,
            programs=programs,
            prices=prices,
        )
    return (ThreadedRunner(runner) if config.runner.overlap == Overlap.on else runner), path


def _profile_name(*kind: object) -> str:
    """The file of an engine of this kind, on a machine like this one: prices and sizes learned
    under one name are good for any engine of the same."""
    machine = (torch.__version__, platform.machine(), cpu_flags(), sorted(os.sched_getaffinity(0)))
    text = repr((PROFILE_VERSION, *kind, *machine))
    return f"profile-{blake2b(text.encode(), digest_size=12).hexdigest()}.json"


def _programs(config: Config, model: _Model, start: Startup) -> LayerPrograms:
    """Eager and compiled code differ in last bits: where these matter, no swap while serving."""
    graphs = config.graphs
    if config.runner.batch_invariant:
        graphs = replace(graphs, background=False)
    programs = LayerPrograms(
        graphs,
        model.spec,
        dtype=model.dtype,
        weights=model.weights,
        block_size=config.cache.block_size,
        threads=model.threads,
    )
    count = programs.count
    state = f"{count.ready} of {count.total} in use" if count.total else "eager"
    start.rule("programs", state, "one for each kind of layer, where a C++ compiler is found")
    start.rule("buckets", "none", "shapes are free on CPU: nothing is padded")
    return programs


def _check_invariant(attention: str, linear: str) -> None:
    if attention != "cpu" or linear != "cpu":
        raise ValueError(
            f"runner.batch_invariant=true: needs the C++ kernels, found attention {attention} and "
            f"linear {linear}; install g++ and leave attention.backend and runner.linear at auto"
        )


def _num_threads(spec: ModelSpec) -> int:
    """All cores, but one for a model that fits into a core's caches: its steps are so short that
    meeting at barriers costs more than it wins, and the server keeps a core to itself."""
    return 1 if spec.weight_bytes("float32") < _ONE_CORE_BYTES else len(os.sched_getaffinity(0))


def _device(device: Device) -> torch.device:
    if device == Device.cuda:
        raise ValueError(
            "runner.device=cuda: this version runs on CPU only; set runner.device=cpu or auto"
        )
    return torch.device("cpu")


def _dtype(dtype: Dtype) -> torch.dtype:
    if dtype in (Dtype.auto, Dtype.float32):
        return torch.float32
    raise ValueError(
        f"model.dtype={dtype.value}: on CPU the math is float32 (16-bit products are hundreds of "
        "times slower there); set model.dtype=auto, 16-bit checkpoints are converted at load"
    )


def _spec(config: Config) -> tuple[ModelSpec, Path | None]:
    """The model's shape and, unless it is a bare shape, its folder."""
    if config.model.load_format == LoadFormat.random and config.model.hf_config:
        return read_spec(config.model.hf_config), None
    folder = resolve_model_path(config.model.path)
    return read_spec(read_config(folder)), folder


def _is_random(config: Config, model: _Model) -> bool:
    return config.model.load_format == LoadFormat.random or model.folder is None


def _decoder(config: Config, model: _Model, start: Startup) -> Decoder:
    spec, dtype, device = model.spec, model.dtype, model.device
    if model.folder is None or _is_random(config, model):
        return random_decoder(spec, dtype, device, config.model.seed, weights=model.weights)
    return load_decoder(model.folder, spec, dtype, device, start.progress, model.weights)


def _file_bytes(config: Config, model: _Model) -> int:
    """Weights are mapped, which no counter of the system shows as reading."""
    if model.folder is None or _is_random(config, model):
        return 0
    return sum(path.stat().st_size for path in weight_files(model.folder))


def _memory(config: Config, model: _Model) -> Memory:
    """What weights, the largest step and the penalties of all slots will take."""
    spec, rows = model.spec, config.runner.max_seqs
    widths = 4 * spec.hidden_size + 2 * (spec.q_size + spec.kv_size) + 3 * spec.intermediate_size
    activations = config.batcher.max_step_tokens * widths * model.dtype.itemsize
    return Memory(
        weights=spec.weight_bytes(model.memory_dtype),
        workspace=activations + _LOGIT_COPIES * rows * spec.vocab_size * 4,
        penalties=rows * spec.vocab_size * _PENALTY_BYTES,
    )


def _layout(config: Config, model: _Model) -> KVLayout:
    spec = model.spec
    heads = spec.num_kv_heads
    return KVLayout(spec.num_layers, config.cache.block_size, heads, spec.head_dim, model.dtype)


def _pool_size(config: Config, model: _Model, layout: KVLayout, memory: Memory) -> PoolSize:
    limit, wanted = model.spec.max_position, config.model.max_len
    if wanted is not None and wanted > limit:
        raise ValueError(f"model.max_len={wanted} exceeds the model's own limit of {limit} tokens")
    return size_pool(
        config.cache,
        block_bytes=layout.block_bytes,
        free_bytes=host_memory_bytes(),
        max_len=wanted or limit,
        max_len_is_explicit=wanted is not None,
        max_seqs=config.runner.max_seqs,
        memory=memory,
    )


def _say_size(
    config: Config, start: Startup, size: PoolSize, layout: KVLayout, memory: Memory
) -> None:
    kv_bytes = size.num_blocks * layout.block_bytes
    blocks = f"{size.num_blocks - 1} of {layout.block_size} tokens, {kv_bytes / 2**30:.2f} GiB"
    start.rule("KV blocks", blocks, size.rule)
    if config.model.max_len is None:
        start.rule("context", size.max_len, "the model's, as far as the KV blocks hold it")
    start.rule("memory", memory.described(kv_bytes), "the three largest consumers")


def _say_budgets(config: Config, core: EngineCore, start: Startup) -> None:
    if config.batcher.step_ms is None:
        start.rule("step", f"{core.step_ms:.0f} ms while streams run", "three decodes, at least 50")
    if config.batcher.idle_step_ms is None:
        start.rule("idle step", f"{core.idle_step_ms:.0f} ms while none does", "ten times as much")


def _info(
    config: Config, model: _Model, core: EngineCore, eos_ids: tuple[int, ...], start: Startup
) -> EngineInfo:
    path = str(model.folder or config.model.path)
    return EngineInfo(
        model_name=config.model.name or Path(path).name,
        model_path=path,
        device=model.device.type,
        dtype=str(model.dtype).removeprefix("torch."),
        max_len=core.runner.max_len,
        vocab_size=model.spec.vocab_size,
        eos_ids=list(eos_ids),
        num_blocks=core.runner.num_blocks - 1,
        block_size=core.runner.block_size,
        max_seqs=config.runner.max_seqs,
        startup_s=start.seconds,
        startup_bytes={n: (p.read_bytes, p.allocated_bytes) for n, p in start.phases.items()},
        rules=start.rules,
        weights=model.memory_dtype if model.weights else None,
    )
