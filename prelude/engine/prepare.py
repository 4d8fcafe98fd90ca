"""What is to run, before the device decides how: shape, types, threads, memory, the decoder."""

import os
import platform
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import torch

from prelude.cache.layout import KVLayout
from prelude.cache.sizing import Memory, PoolSize, host_memory_bytes, num_host_blocks, size_pool
from prelude.conf.schema import Config, Device, Dtype, LoadFormat, Weights
from prelude.engine.early import model_spec
from prelude.engine.profile import PROFILE_VERSION
from prelude.engine.startup import Startup
from prelude.graphs.buckets import Buckets
from prelude.kernels.build import cpu_flags
from prelude.models.checkpoint import weight_files
from prelude.models.decoder import Decoder
from prelude.models.loading import load_decoder, random_decoder
from prelude.models.spec import ModelSpec
from prelude.runner.protocol import Runner

_ONE_CORE_BYTES = 32 * 2**20
_LOGIT_COPIES = 4  # of a sampled row: logits, scaled, their highest, probabilities
_PENALTY_BYTES = 9  # a token of the vocabulary: count, whether in the prompt, bias


@dataclass(frozen=True, slots=True)
class Model:
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


@dataclass(frozen=True, slots=True)
class Started:
    """A runner, where its profile is kept, and the sizes its launches are padded to."""

    runner: Runner
    profile_path: Path
    buckets: Buckets


def resolve(config: Config, start: Startup) -> Model:
    device = _device(config.runner.device)
    spec, folder = model_spec(config.model)
    dtype = _dtype(config.model.dtype, device, spec)
    threads = config.runner.threads or _num_threads(spec)
    torch.set_num_threads(threads)
    if config.runner.threads is None:
        start.rule("threads", threads, "all cores, or one if the model fits into its caches")
    weights = torch.int8 if config.model.weights == Weights.int8 else None
    if weights and device.type == "cuda":
        raise ValueError("model.weights=int8: on CPU only; set model.weights=auto on CUDA")
    return Model(spec, folder, dtype, weights, device, threads)


def _num_threads(spec: ModelSpec) -> int:
    """All cores, but one for a model that fits into a core's caches: its steps are so short that
    meeting at barriers costs more than it wins, and the server keeps a core to itself."""
    return 1 if spec.weight_bytes("float32") < _ONE_CORE_BYTES else len(os.sched_getaffinity(0))


def _device(device: Device) -> torch.device:
    if device == Device.cuda and not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a CPU build"
        raise ValueError(
            f"runner.device=cuda: PyTorch {torch.__version__} ({built}) finds no GPU; install a "
            "CUDA build of PyTorch and a driver for it, or set runner.device=cpu"
        )
    return torch.device("cuda" if device != Device.cpu and torch.cuda.is_available() else "cpu")


def _dtype(dtype: Dtype, device: torch.device, spec: ModelSpec) -> torch.dtype:
    """On CUDA the checkpoint's own type unless another is asked for; on CPU float32."""
    if device.type == "cuda":
        name = spec.dtype if dtype == Dtype.auto else dtype.value
        found: torch.dtype = getattr(torch, name)
        return found
    if dtype in (Dtype.auto, Dtype.float32):
        return torch.float32
    raise ValueError(
        f"model.dtype={dtype.value}: on CPU the math is float32 (16-bit products are hundreds of "
        "times slower there); set model.dtype=auto, 16-bit checkpoints are converted at load"
    )


def _is_random(config: Config, model: Model) -> bool:
    return config.model.load_format == LoadFormat.random or model.folder is None


def make_decoder(config: Config, model: Model, start: Startup) -> Decoder:
    spec, dtype, device = model.spec, model.dtype, model.device
    if model.folder is None or _is_random(config, model):
        return random_decoder(spec, dtype, device, config.model.seed, weights=model.weights)
    return load_decoder(model.folder, spec, dtype, device, start.progress, model.weights)


def file_bytes(config: Config, model: Model) -> int:
    """Weights are mapped, which no counter of the system shows as reading."""
    if model.folder is None or _is_random(config, model):
        return 0
    return sum(path.stat().st_size for path in weight_files(model.folder))


def memory_of(config: Config, model: Model) -> Memory:
    """What weights, the largest step and the penalties of all slots will take, and on CPU the KV
    of who has to make room."""
    spec, rows = model.spec, config.runner.max_seqs
    widths = 4 * spec.hidden_size + 2 * (spec.q_size + spec.kv_size) + 3 * spec.intermediate_size
    activations = config.batcher.max_step_tokens * widths * model.dtype.itemsize
    return Memory(
        weights=spec.weight_bytes(model.memory_dtype),
        workspace=activations + _LOGIT_COPIES * rows * spec.vocab_size * 4,
        penalties=rows * spec.vocab_size * _PENALTY_BYTES,
        swapped=_host_bytes(config) if model.device.type == "cpu" else 0,
    )


def _host_bytes(config: Config) -> int:
    return int(config.cache.host_gib * 2**30) if config.batcher.use.swap else 0


def layout_of(config: Config, model: Model) -> KVLayout:
    spec = model.spec
    heads = spec.num_kv_heads
    return KVLayout(spec.num_layers, config.cache.block_size, heads, spec.head_dim, model.dtype)


def pool_size(
    config: Config, model: Model, layout: KVLayout, memory: Memory, free_bytes: int
) -> PoolSize:
    limit, wanted = model.spec.max_position, config.model.max_len
    if wanted is not None and wanted > limit:
        raise ValueError(f"model.max_len={wanted} exceeds the model's own limit of {limit} tokens")
    return size_pool(
        config.cache,
        block_bytes=layout.block_bytes,
        free_bytes=free_bytes,
        max_len=wanted or limit,
        max_len_is_explicit=wanted is not None,
        max_seqs=config.runner.max_seqs,
        memory=memory,
    )


def host_size(config: Config, layout: KVLayout) -> int:
    """Blocks for the KV of who has to make room."""
    if not config.batcher.use.swap:
        return 0
    return num_host_blocks(config.cache, layout.block_bytes, host_memory_bytes())


def say_host(config: Config, start: Startup, runner: Runner, layout: KVLayout) -> None:
    """What swapping has to work with, once its price is known."""
    if config.cache.host_gib:
        num_blocks = runner.num_host_blocks
        size = f"{num_blocks * layout.block_bytes / 2**30:.2f} GiB"
        price = f"{runner.swap_ms:.3f} ms to copy one"
        start.rule(
            "host KV blocks",
            f"{num_blocks}, {size}, {price}" if num_blocks else "none",
            "cache.host_gib" if config.batcher.use.swap else "batcher.use.swap=false",
        )


def say_size(
    config: Config, start: Startup, size: PoolSize, layout: KVLayout, memory: Memory
) -> None:
    kv_bytes = size.num_blocks * layout.block_bytes
    blocks = f"{size.num_blocks - 1} of {layout.block_size} tokens, {kv_bytes / 2**30:.2f} GiB"
    start.rule("KV blocks", blocks, size.rule)
    if config.model.max_len is None:
        start.rule("context", size.max_len, "the model's, as far as the KV blocks hold it")
    start.rule("memory", memory.described(kv_bytes), "the three largest consumers")


def profile_name(*kind: object) -> str:
    """The file of an engine of this kind, on a machine like this one: prices and sizes learned
    under one name are good for any engine of the same."""
    machine = (torch.__version__, platform.machine(), cpu_flags(), sorted(os.sched_getaffinity(0)))
    text = repr((PROFILE_VERSION, *kind, *machine))
    return f"profile-{blake2b(text.encode(), digest_size=12).hexdigest()}.json"
