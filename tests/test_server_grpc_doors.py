"""gRPC's keys, limits and TLS, and what it tells of itself: health, reflection, facts."""

import dataclasses
import hashlib
import io
import shutil
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from smg_grpc_proto.generated import common_pb2 as common
from smg_grpc_proto.generated import vllm_engine_pb2 as pb
from smg_grpc_proto.generated.vllm_engine_pb2_grpc import VllmEngineStub

from prelude.server.main import _start_grpc
from prelude.server.rpc.listen import GrpcServer
from tests.grpc_harness import SERVICE, calling, refused, said
from tests.server_harness import serving, test_config
from tests.text_samples import byte_level

KEY, ADMIN = "k" * 40, "a" * 40
KEYS = {"PRELUDE_API_KEY": KEY, "PRELUDE_ADMIN_KEY": ADMIN}


def bearing(key: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {key}"),)


async def test_keys() -> None:
    async with calling(environment=KEYS) as (_, channel, stub):
        reflector = reflection_pb2_grpc.ServerReflectionStub(channel)
        calls: dict[str, Callable[[Any], Any]] = {
            "Generate": lambda metadata: stub.Generate(said(), metadata=metadata),
            "Embed": lambda metadata: stub.Embed(pb.EmbedRequest(), metadata=metadata),
            "Abort": lambda metadata: stub.Abort(pb.AbortRequest(), metadata=metadata),
            "GetLoads": lambda metadata: stub.GetLoads(pb.GetLoadsRequest(), metadata=metadata),
            "FlushCache": lambda metadata: stub.FlushCache(
                common.FlushCacheRequest(), metadata=metadata
            ),
            "Reflection": lambda metadata: reflector.ServerReflectionInfo(
                iter(()), metadata=metadata
            ),
        }
        for name, call in calls.items():
            for metadata in (None, bearing("wrong")):
                code, _ = await refused(call(metadata))
                assert code is grpc.StatusCode.UNAUTHENTICATED, name
        (message,) = [m async for m in stub.Generate(said(), metadata=bearing(KEY))]
        assert message.complete.finish_reason == "stop"
        code, _ = await refused(calls["FlushCache"](bearing(KEY)))
        assert code is grpc.StatusCode.PERMISSION_DENIED
        assert (await calls["FlushCache"](bearing(ADMIN))).success
        assert (await health_pb2_grpc.HealthStub(channel).Check(_asks())).status


async def test_without_keys_nobody_is_an_operator() -> None:
    async with calling() as (_, _, stub):
        code, _ = await refused(stub.FlushCache(common.FlushCacheRequest()))
        assert code is grpc.StatusCode.PERMISSION_DENIED


async def test_limits() -> None:
    async with calling() as (server, _, stub):
        server.services.config.server.limits.requests_per_min = 2
        for _ in range(2):
            assert [m async for m in stub.Generate(said(max_tokens=1))]
        code, details = await refused(stub.Generate(said(max_tokens=1)))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert details["ErrorInfo"].reason == "rate_limit_exceeded"
        assert details["RetryInfo"].retry_delay.ToMilliseconds() > 0


def _asks(service: str = "") -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest(service=service)


async def test_health_follows_the_engine() -> None:
    async with calling() as (server, channel, stub):
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(_asks(SERVICE))
        serving_, not_serving = (
            health_pb2.HealthCheckResponse.SERVING,
            health_pb2.HealthCheckResponse.NOT_SERVING,
        )
        states = []
        async for message in watch:
            states.append(message.status)
            if message.status == serving_:
                assert (await stub.HealthCheck(pb.HealthCheckRequest())).healthy
                server.services.lifecycle.begin()
            elif message.status == not_serving and serving_ in states:
                break
        assert not (await stub.HealthCheck(pb.HealthCheckRequest())).healthy
        code, details = await refused(stub.Generate(said()))
        assert code is grpc.StatusCode.UNAVAILABLE
        assert "RetryInfo" in details


async def test_reflection_lists_the_services() -> None:
    async with calling() as (_, channel, _):
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asks = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE),
        ]
        listed, described = [m async for m in stub.ServerReflectionInfo(iter(asks))]
        names = {service.name for service in listed.list_services_response.service}
        assert names >= {SERVICE, "grpc.health.v1.Health"}
        assert described.file_descriptor_response.file_descriptor_proto


async def test_facts(tmp_path: Path) -> None:
    async with calling() as (server, _, stub):
        server.services.config.model.path = "demo"
        model = await stub.GetModelInfo(pb.GetModelInfoRequest())
        assert (model.served_model_name, model.max_context_length) == ("test-model", 256)
        assert model.vocab_size == byte_level().vocab_size
        assert list(model.eos_token_ids) == list(byte_level().eos_ids)
        info = await stub.GetServerInfo(pb.GetServerInfoRequest())
        assert (info.max_num_seqs, info.block_size) == (64, 16)
        _ = [m async for m in stub.Generate(said())]
        (load,) = (await stub.GetLoads(pb.GetLoadsRequest())).loads
        assert (load.num_total_reqs, load.max_running_requests) == (0, 64)
        chunks = [m async for m in stub.GetTokenizer(common.GetTokenizerRequest())]
        data = b"".join(chunk.data for chunk in chunks)
        assert chunks[-1].sha256 == hashlib.sha256(data).hexdigest()
        assert "tokenizer.json" in zipfile.ZipFile(io.BytesIO(data)).namelist()


async def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prelude.server.rpc.listen", None)
    config = test_config()
    async with serving(config=config) as server:
        assert await _start_grpc(server.services) is None
        config.server.grpc.port = 0
        with pytest.raises(ValueError, match=r"pip install 'prelude-llm\[grpc\]'"):
            await _start_grpc(server.services)


async def test_a_port_that_is_taken() -> None:
    async with calling() as (server, _, _):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            server.services.config.server.grpc.port = taken.getsockname()[1]
            with pytest.raises(OSError, match=r"server\.grpc\.port"):
                await _start_grpc(server.services)


async def test_over_tls(tmp_path: Path) -> None:
    cert, key = _certificate(tmp_path)
    config = test_config()
    config.server.tls.cert, config.server.tls.key = str(cert), str(key)
    config.server.grpc.port = 0
    async with serving() as server:
        beside = GrpcServer(dataclasses.replace(server.services, config=config))
        await beside.start()
        credentials = grpc.ssl_channel_credentials(cert.read_bytes())
        async with grpc.aio.secure_channel(f"localhost:{beside.port}", credentials) as channel:
            (message,) = [m async for m in VllmEngineStub(channel).Generate(said())]
            assert message.complete.finish_reason == "stop"
        await beside.stop()


def _certificate(folder: Path) -> tuple[Path, Path]:
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(cert)]
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    subprocess.run([*command.split(), *names], check=True, capture_output=True)
    return cert, key
