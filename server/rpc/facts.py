"""What routers ask before they send anything: the model, the server, its load."""

import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from smg_grpc_proto.generated import vllm_engine_pb2 as pb

import prelude
from prelude.models.paths import tokenizer_folder
from prelude.models.spec import read_config
from prelude.server.services import Services

_SERVER_TYPE = "vllm-grpc"  # the protocol's name for itself


def model_info(services: Services) -> pb.GetModelInfoResponse:
    """Raises ``ApiError`` while there is no engine."""
    engine = services.engine()
    config = _config(Path(engine.model_path))
    return pb.GetModelInfoResponse(
        model_path=engine.model_path,
        is_generation=True,
        max_context_length=engine.max_len,
        vocab_size=engine.vocab_size,
        served_model_name=services.model_name,
        tokenizer_path=str(tokenizer_folder(services.config.model)),
        model_type=config.model_type,
        architectures=config.architectures,
        eos_token_ids=engine.eos_ids,
        pad_token_id=config.pad_token_id or 0,
        bos_token_id=config.bos_token_id or 0,
        max_req_input_len=engine.max_len - 1,
        default_sampling_params_json=msgspec.json.encode(services.defaults.values).decode(),
    )


def server_info(services: Services) -> pb.GetServerInfoResponse:
    engine = services.engine()
    return pb.GetServerInfoResponse(
        active_requests=services.client.num_streams,
        is_paused=services.lifecycle.draining,
        uptime_seconds=time.time() - services.created_s,
        server_type=_SERVER_TYPE,
        data_parallel_size=1,
        block_size=engine.block_size,
        model_dtype=engine.dtype,
        max_num_seqs=engine.max_seqs,
        constrained_decoding_start="first_token",
    )


def loads(services: Services) -> pb.GetLoadsResponse:
    engine, stats = services.engine(), services.client.stats
    used = stats.num_blocks_referenced / stats.num_blocks if stats.num_blocks else 0.0
    cached = stats.cached_prompt_tokens / stats.prompt_tokens if stats.prompt_tokens else 0.0
    load = pb.SchedulerLoad(
        num_running_reqs=stats.num_running,
        num_waiting_reqs=stats.num_waiting,
        num_total_reqs=stats.num_running + stats.num_waiting,
        num_used_tokens=stats.num_blocks_referenced * engine.block_size,
        max_total_num_tokens=stats.num_blocks * engine.block_size,
        token_usage=used,
        cache_hit_rate=cached,
        utilization=stats.num_running / engine.max_seqs,
        max_running_requests=engine.max_seqs,
    )
    return pb.GetLoadsResponse(
        timestamp=datetime.now(UTC).isoformat(),
        version=prelude.__version__,
        dp_rank_count=1,
        loads=[load],
    )


class _Config(msgspec.Struct):
    model_type: str = ""
    architectures: list[str] = []
    pad_token_id: int | None = None
    bos_token_id: int | None = None


def _config(folder: Path) -> _Config:
    try:
        return msgspec.convert(read_config(folder), _Config)
    except ValueError:
        return _Config()  # random weights have a folder that may be gone
