"""From a configuration to a running engine, and the report of what that took and why."""

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from prelude.cache.layout import KVLayout
from prelude.cache.sizing import PoolSize, host_memory_bytes, size_pool
from prelude.conf.schema import Config, Device, Dtype, LoadFormat, Overlap
from prelude.engine.core import EngineCore
from prelude.engine.steplog import StepLog
from prelude.graphs.pool import LayerPrograms, cache_dir
from prelude.kernels.attention import select_backend
from prelude.kernels.linear import select_linear
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

Progress = Callable[[str, float], None]

_ONE_CORE_BYTES = 32 * 2**20


class _Phases:
    """Wall seconds of each phase of the start; their sum is the whole."""

    def __init__(self, progress: Progress) -> None:
        self.seconds: dict[str, float] = {}
        self._progress = progress

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self._progress(name, 0.0)
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start


def build_engine(
    config: Config, progress: Progress = lambda phase, fraction: None
) -> tuple[EngineCore, EngineInfo]:
    """Load the model, allocate the cache, start compiling. ``progress`` gets (phase, fraction).
    Raises ``ValueError`` with what to change where the configuration cannot be met."""
    phase = _Phases(progress)
    device = _device(config.runner.device)
    with phase("reading config"):
        spec, folder = _spec(config)
        dtype = _dtype(config.model.dtype)
        threads = config.runner.threads or _num_threads(spec)
        torch.set_num_threads(threads)
    with phase("building kernels"):
        kernels = cache_dir(config.graphs) / "kernels"
        attention = select_backend(config.attention.backend.value, kernels)
        linear = select_linear(config.runner.linear.value, kernels)
    with phase("loading weights"):
        decoder = _decoder(config, spec, folder, dtype, device, progress)
    with phase("sizing cache"):
        layout = KVLayout(
            spec.num_layers, config.cache.block_size, spec.num_kv_heads, spec.head_dim, dtype
        )
        size = _pool_size(config, spec, layout)
    with phase("loading programs"):
        programs = LayerPrograms(
            config.graphs,
            spec,
            dtype=dtype,
            block_size=layout.block_size,
            threads=threads,
        )
    with phase("measuring prices"):
        runner: Runner = ModelRunner(
            decoder,
            layout,
            num_blocks=size.num_blocks,
            max_len=size.max_len,
            max_seqs=config.runner.max_seqs,
            device=device,
            programs=programs,
        )
    if config.runner.overlap == Overlap.on:
        runner = ThreadedRunner(runner)
    eos_ids = read_eos_ids(folder) if folder else spec.eos_ids
    core = EngineCore(
        runner,
        batcher=config.batcher,
        cache=config.cache,
        max_seqs=config.runner.max_seqs,
        eos_ids=eos_ids,
        log=StepLog(Path(config.log.steps) if config.log.steps else None),
    )
    info = _info(config, spec, folder, dtype, device, size, eos_ids, phase.seconds)
    _report(info, attention, linear, threads, size, layout)
    logger.info(
        "a step may take %.0f ms while streams run, %.0f ms while none does",
        *(core.step_ms, core.idle_step_ms),
    )
    return core, info


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


def _decoder(
    config: Config,
    spec: ModelSpec,
    folder: Path | None,
    dtype: torch.dtype,
    device: torch.device,
    progress: Progress,
) -> Decoder:
    if config.model.load_format == LoadFormat.random or folder is None:
        return random_decoder(spec, dtype, device, config.model.seed)
    return load_decoder(folder, spec, dtype, device, progress)


def _pool_size(config: Config, spec: ModelSpec, layout: KVLayout) -> PoolSize:
    explicit = config.model.max_len is not None
    if config.model.max_len is not None and config.model.max_len > spec.max_position:
        raise ValueError(
            f"model.max_len={config.model.max_len} exceeds the model's own limit of "
            f"{spec.max_position} tokens"
        )
    return size_pool(
        config.cache,
        block_bytes=layout.block_bytes,
        free_bytes=host_memory_bytes(),
        max_len=config.model.max_len or spec.max_position,
        max_len_is_explicit=explicit,
        max_seqs=config.runner.max_seqs,
    )


def _info(
    config: Config,
    spec: ModelSpec,
    folder: Path | None,
    dtype: torch.dtype,
    device: torch.device,
    size: PoolSize,
    eos_ids: tuple[int, ...],
    seconds: dict[str, float],
) -> EngineInfo:
    path = str(folder or config.model.path)
    return EngineInfo(
        model_name=config.model.name or Path(path).name,
        model_path=path,
        device=device.type,
        dtype=str(dtype).removeprefix("torch."),
        max_len=size.max_len,
        vocab_size=spec.vocab_size,
        eos_ids=list(eos_ids),
        num_blocks=size.num_blocks - 1,
        block_size=config.cache.block_size,
        max_seqs=config.runner.max_seqs,
        startup_s=seconds,
    )


def _report(
    info: EngineInfo, attention: str, linear: str, threads: int, size: PoolSize, layout: KVLayout
) -> None:
    gib = size.num_blocks * layout.block_bytes / 2**30
    logger.info(
        "%s on %s (%s, %d threads, attention %s, linear %s)",
        *(info.model_name, info.device, info.dtype, threads, attention, linear),
    )
    logger.info(
        "context %d, %d KV blocks of %d tokens (%.2f GiB, by %s)",
        *(info.max_len, info.num_blocks, info.block_size, gib, size.rule),
    )
    phases = ", ".join(f"{name} {s:.2f}" for name, s in info.startup_s.items())
    logger.info("start-up seconds: %s; sum %.2f", phases, sum(info.startup_s.values()))
