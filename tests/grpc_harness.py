"""A gRPC server beside the HTTP server's application, and calls of it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from grpc_status import rpc_status
from smg_grpc_proto.generated import vllm_engine_pb2 as pb
from smg_grpc_proto.generated.vllm_engine_pb2_grpc import VllmEngineStub

from prelude.server.app import build_app
from prelude.server.rpc.listen import GrpcServer
from tests.server_harness import Engine, Harness, serving, test_config
from tests.text_samples import byte_level

SERVICE = "vllm.grpc.engine.VllmEngine"


def ids_of(text: str) -> list[int]:
    return byte_level().encode(text, add_special_tokens=False)


def said(text: str = "the fox", **params: Any) -> pb.GenerateRequest:
    request = pb.GenerateRequest(sampling_params=pb.SamplingParams(**params))
    request.tokenized.input_ids.extend(ids_of(text))
    return request


def streamed(text: str = "the fox", **params: Any) -> pb.GenerateRequest:
    request = said(text, **params)
    request.stream = True
    return request


@asynccontextmanager
async def calling(
    engine: Engine | None = None, environment: dict[str, str] | None = None, **server: Any
) -> AsyncIterator[tuple[Harness, grpc.aio.Channel, Any]]:
    """The HTTP server's application with a gRPC server beside it."""
    config = test_config(**server)
    config.server.grpc.port = 0
    async with serving(engine, config=config) as harness:
        services = harness.services
        if environment is not None:
            app = build_app(harness.client, byte_level(), config, environment)
            services = app.state.services
        beside = GrpcServer(services)
        await beside.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{beside.port}") as channel:
                yield harness, channel, VllmEngineStub(channel)
        finally:
            await beside.stop()


async def refused(call: Any) -> tuple[grpc.StatusCode, dict[str, Any]]:
    """What a call failed with, and its details by name."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        if hasattr(call, "__aiter__"):
            _ = [message async for message in call]
        else:
            await call
    error = caught.value
    found: dict[str, Any] = {"message": error.details()}
    status = await rpc_status.aio.from_call(call)
    for packed in () if status is None else status.details:
        for kind in (BadRequest, ErrorInfo, RetryInfo):
            detail = kind()
            if packed.Is(detail.DESCRIPTOR):
                packed.Unpack(detail)
                found[kind.DESCRIPTOR.name] = detail
    return error.code(), found
