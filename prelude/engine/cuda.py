"""A start on an NVIDIA GPU: weights and KV on the device, attention by FlashInfer or Triton,
programs captured as CUDA graphs between the first steps."""

import importlib.util
import logging
from pathlib import Path

import torch

from prelude.cache.sizing import check_weights, explained
from prelude.conf.schema import AttentionBackend, Capture, Config
from prelude.engine.prepare import (
    Model,
    Started,
    file_bytes,
    host_size,
    layout_of,
    make_decoder,
    memory_of,
    pool_size,
    profile_name,
    say_host,
    say_size,
)
from prelude.engine.profile import ProfileRecord, read_profile
from prelude.engine.startup import Startup
from prelude.graphs.buckets import Buckets, choose_buckets, ladder
from prelude.graphs.pool import cache_dir
from prelude.kernels.build import CompileError
from prelude.kernels.flashinfer import FlashInferAttention, unsupported
from prelude.kernels.layer_ops import LayerOps
from prelude.kernels.sampling_static import filtered_static
from prelude.runner.captured_programs import AttentionPlanner, NoPlanning
from prelude.runner.static_inputs import shapes_of

logger = logging.getLogger(__name__)

_SMALLEST_PREFILL = 16
_LARGEST_CAPTURED = 2048  # new tokens; above it launches hide under the kernels before them
_MAX_PROGRAMS = 24  # of each kind
_GRAPH_BYTES = 2 * 2**30  # what captured programs keep for themselves


def cuda_runner(config: Config, model: Model, start: Startup) -> Started:
    """Everything between a configuration and a runner that takes plans."""
    from prelude.graphs.cuda import CudaQueue  # the CPU's users have no Triton
    from prelude.kernels.triton.sampling import MAX_VOCAB, filtered
    from prelude.runner.captured import CapturedRunner

    if config.graphs.capture == Capture.inductor:
        raise ValueError("graphs.capture=inductor: on CPU only; set graphs.capture=auto")
    memory = memory_of(config, model)
    check_weights(memory, _free_bytes(model.device))
    with start.phase("loading weights") as phase, explained(memory, 0):
        decoder = make_decoder(config, model, start)
        phase.read_bytes += file_bytes(config, model)
    name = _attention(config, model)
    path = _profile_path(config, model, name)
    buckets = _buckets(config, read_profile(path), start)
    with start.phase("building kernels"):
        ops, planner = _kernels(config, model, name, buckets)
        decoder.use_ops(ops)
    with start.phase("sizing cache"):
        layout = layout_of(config, model)
        free_bytes = _free_bytes(model.device) - _GRAPH_BYTES
        size = pool_size(config, model, layout, memory, free_bytes)
        say_size(config, start, size, layout, memory)
    queue = CudaQueue(model.device)
    with (
        start.phase("measuring prices"),
        explained(memory, size.num_blocks * layout.block_bytes),
        torch.cuda.stream(queue.stream),  # what is allocated here is filled before it is used
    ):
        runner = CapturedRunner(
            decoder,
            layout,
            queue,
            planner,
            num_blocks=size.num_blocks,
            num_host_blocks=host_size(config, layout),
            max_len=size.max_len,
            max_seqs=config.runner.max_seqs,
            max_step_tokens=config.batcher.max_step_tokens,
            buckets=buckets,
            draw=filtered if model.spec.vocab_size <= MAX_VOCAB else filtered_static,
            captures=config.graphs.capture != Capture.eager,
        )
    say_host(config, start, runner, layout)
    if not config.graphs.background:
        with start.phase("capturing"):
            while runner.programs.ready < runner.programs.total:
                runner.upkeep()
    return Started(runner, path, buckets)


def _free_bytes(device: torch.device) -> int:
    return int(torch.cuda.mem_get_info(device)[0])


def _attention(config: Config, model: Model) -> AttentionBackend:
    """FlashInfer where it is installed and has kernels for the type, else Triton."""
    wanted = config.attention.backend
    if wanted in (AttentionBackend.cpu, AttentionBackend.torch):
        raise ValueError(
            f"attention.backend={wanted.value}: not on CUDA; set auto, flashinfer or triton"
        )
    if config.runner.batch_invariant and wanted == AttentionBackend.flashinfer:
        raise ValueError("runner.batch_invariant=true: on CUDA with attention.backend=triton only")
    if wanted != AttentionBackend.auto:
        return wanted
    found = importlib.util.find_spec("flashinfer") is not None
    usable = found and not unsupported(model.spec.head_dim, model.dtype)
    if usable and not config.runner.batch_invariant:
        return AttentionBackend.flashinfer
    return AttentionBackend.triton


def _profile_path(config: Config, model: Model, attention: AttentionBackend) -> Path:
    kind = (model.spec, model.memory_dtype, config.cache.block_size, attention.value)
    machine = torch.cuda.get_device_name(model.device)
    return cache_dir(config.graphs) / "profiles" / profile_name(*kind, machine)


def _buckets(config: Config, past: ProfileRecord, start: Startup) -> Buckets:
    """Configured, or those that would have padded past launches least."""
    rows = config.runner.max_seqs
    largest = min(config.batcher.max_step_tokens, _LARGEST_CAPTURED)
    decode = config.graphs.decode_buckets or choose_buckets(
        ladder(1, rows), past.decode, _MAX_PROGRAMS
    )
    prefill = config.graphs.prefill_buckets or choose_buckets(
        ladder(min(_SMALLEST_PREFILL, largest), largest), past.prefill, _MAX_PROGRAMS
    )
    why = "fit to past launches" if past.decode or past.prefill else "the default ladder"
    start.rule("decode rows", " ".join(map(str, decode)), why)
    start.rule("prefill tokens", " ".join(map(str, prefill)), why)
    return Buckets(tuple(decode), tuple(prefill), rows)


def _kernels(
    config: Config, model: Model, attention: AttentionBackend, buckets: Buckets
) -> tuple[LayerOps, AttentionPlanner]:
    from prelude.kernels.cuda_ops import CudaOps, InvariantOps
    from prelude.kernels.triton.attention import attend

    if config.runner.batch_invariant:
        return InvariantOps(), NoPlanning()
    if attention == AttentionBackend.flashinfer:
        try:
            flashinfer = _flashinfer(config, model, buckets)
            return CudaOps(flashinfer.attend), flashinfer
        except CompileError as error:
            if config.attention.backend == AttentionBackend.flashinfer:
                raise
            logger.warning("attention runs in Triton: %s", error)
    return CudaOps(attend), NoPlanning()


def _flashinfer(config: Config, model: Model, buckets: Buckets) -> FlashInferAttention:
    spec, size = model.spec, config.cache.block_size
    return FlashInferAttention(
        spec.num_heads,
        spec.num_kv_heads,
        spec.head_dim,
        size,
        model.dtype,
        model.device,
        windows=tuple(sorted(set(spec.windows))),
        shapes=shapes_of(buckets),
        max_rows=config.runner.max_seqs,
        max_tokens=config.batcher.max_step_tokens,
        row_blocks=-(-(config.model.max_len or spec.max_position) // size),
    )
