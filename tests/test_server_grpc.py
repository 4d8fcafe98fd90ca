"""gRPC over a real channel: answers, embeddings, aborts, keys, errors, health and reflection."""

import asyncio
import dataclasses
import hashlib
import io
import math
import shutil
import socket
import subprocess
import sys
import zipfile
from array import array
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from smg_grpc_proto.generated import common_pb2 as common
from smg_grpc_proto.generated import vllm_engine_pb2 as pb
from smg_grpc_proto.generated.vllm_engine_pb2_grpc import VllmEngineStub

from prelude.runner.fake import fake_embedding
from prelude.server.app import build_app
from prelude.server.errors import ApiError
from prelude.server.main import _start_grpc
from prelude.server.rpc.listen import GrpcServer
from prelude.server.rpc.status import status_of
from tests.server_harness import ANSWER, Engine, Gate, Harness, serving, test_config
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


async def test_a_whole_answer() -> None:
    async with calling() as (server, _, stub):
        (message,) = [m async for m in stub.Generate(said())]
        done = message.complete
        assert list(done.output_ids) == [*ids_of(ANSWER), byte_level().eos_ids[0]]
        assert done.finish_reason == "stop"
        assert done.prompt_tokens == len(ids_of("the fox"))
        assert done.completion_tokens == len(done.output_ids)
        assert not done.HasField("output_logprobs")
        assert done.WhichOneof("matched_stop") is None
        assert server.client.num_streams == 0
        assert server.services.lifecycle.num_open == 0


async def test_a_stream_adds_up_to_the_whole() -> None:
    async with calling() as (_, _, stub):
        call = stub.Generate(streamed(logprobs=1, prompt_logprobs=1))
        messages = [m async for m in call]
        *chunks, last = messages
        ids = [token for m in chunks for token in m.chunk.token_ids]
        assert ids == list(last.complete.output_ids) == [*ids_of(ANSWER), byte_level().eos_ids[0]]
        counts = [m.chunk.completion_tokens for m in chunks]
        assert counts == sorted(counts)
        assert counts[-1] == len(ids)
        logprobs = [value for m in chunks for value in m.chunk.output_logprobs.token_logprobs]
        assert logprobs == [-1.0] * len(ids)
        assert list(last.complete.output_logprobs.token_ids) == ids
        prompt = chunks[0].chunk.input_logprobs
        assert list(prompt.token_ids) == ids_of("the fox")
        assert not prompt.token_logprobs[0].HasField("value")
        assert [one.value for one in prompt.token_logprobs[1:]] == [
            -float(n) for n in range(1, len(prompt.token_ids))
        ]
        assert sum(m.chunk.HasField("input_logprobs") for m in chunks) == 1
        trailing = {name: value for name, value in await call.trailing_metadata()}
        assert "total;dur=" in str(trailing["server-timing"])


async def test_text_choices_stops_and_limits() -> None:
    async with calling() as (_, _, stub):
        params = pb.SamplingParams(n=3, stop=["brown"], seed=1)
        request = pb.GenerateRequest(text="the fox", sampling_params=params)
        found = [m.complete async for m in stub.Generate(request)]
        assert sorted(done.index for done in found) == [0, 1, 2]
        for done in found:
            assert done.matched_stop_str == "brown"
            assert byte_level().decode(list(done.output_ids)) == "The quick "
        (done,) = [m.complete async for m in stub.Generate(said(max_tokens=3))]
        assert (done.finish_reason, list(done.output_ids)) == ("length", ids_of(ANSWER)[:3])
        stop = ids_of(ANSWER)[4]
        (done,) = [m.complete async for m in stub.Generate(said(stop_token_ids=[stop]))]
        assert done.matched_token_id == stop
        (done,) = [m.complete async for m in stub.Generate(said(truncate_prompt_tokens=2))]
        assert done.prompt_tokens == 2


async def test_several_tokens_a_message_when_the_server_is_behind() -> None:
    """What the engine makes while the event loop is busy does not travel token by token."""
    gate = Gate()
    async with calling(Engine(gate=gate)) as (server, _, stub):
        messages = aiter(stub.Generate(streamed()))
        gate.allow(1)
        first = await anext(messages)
        assert len(first.chunk.token_ids) == 1
        gate.open()
        assert server.core is not None
        while server.core.has_work:
            pass  # the event loop is busy with this
        *chunks, last = [m async for m in messages]
        assert sum(len(m.chunk.token_ids) for m in chunks) + 1 == len(last.complete.output_ids)
        assert len(chunks) < len(last.complete.output_ids) // 2


async def test_embeddings() -> None:
    async with calling() as (_, _, stub):
        ids = ids_of("the fox")
        request = pb.EmbedRequest(tokenized=pb.TokenizedInput(input_ids=ids))
        found = await stub.Embed(request)
        state = array("f", fake_embedding(ids, byte_level().vocab_size))
        assert list(found.embedding) == pytest.approx([v / math.hypot(*state) for v in state])
        assert (found.embedding_dim, found.prompt_tokens) == (4, len(ids))


async def test_cancelling_frees_everything() -> None:
    gate = Gate()
    async with calling(Engine(gate=gate)) as (server, _, stub):
        call = stub.Generate(streamed())
        await server.until(lambda: server.client.num_streams == 1)
        gate.allow(2)
        await call.read()
        call.cancel()
        await server.until(lambda: server.client.num_streams == 0)
        gate.open()
        assert (await server.complete()).status_code == 200
        assert server.core is not None
        assert server.core.ledger.pool.num_referenced == 0
        assert server.services.lifecycle.num_open == 0


async def test_abort_by_id() -> None:
    gate = Gate()
    async with calling(Engine(gate=gate)) as (server, _, stub):
        request = streamed()
        request.request_id = "mine"
        messages = aiter(stub.Generate(request))
        gate.allow(1)
        first = await anext(messages)
        code, details = await refused(stub.Generate(request))
        assert code is grpc.StatusCode.ALREADY_EXISTS
        assert details["ErrorInfo"].reason == "duplicate"
        await stub.Abort(pb.AbortRequest(request_ids=["mine", "nobody's"]))
        rest = [m async for m in messages]
        assert rest[-1].complete.finish_reason == "abort"
        assert list(rest[-1].complete.output_ids)[:1] == list(first.chunk.token_ids)
        gate.open()
        await server.until(lambda: server.client.num_streams == 0)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (said(max_tokens=10_000), "max_tokens"),
        (said("the fox " * 100), "input"),
        (pb.GenerateRequest(), "input"),
        (said(structural_tag="{}"), "structural_tag"),
        (said(temperature=-1.0), "temperature"),
        (said(logit_bias={10**6: 1.0}), "logit_bias"),
        (pb.GenerateRequest(text="x", kv_transfer_params_json="{}"), "kv_transfer_params_json"),
        (said(regex="a" * 70_000), "regex"),
    ],
)
async def test_bad_requests_name_the_field(request_: pb.GenerateRequest, field: str) -> None:
    async with calling() as (server, _, stub):
        code, details = await refused(stub.Generate(request_))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        (violation,) = details["BadRequest"].field_violations
        assert violation.field == field
        assert "RetryInfo" not in details
        assert server.client.num_streams == 0


async def test_a_full_queue_says_when_to_come_again() -> None:
    gate = Gate()
    async with calling(Engine(gate=gate, max_seqs=1)) as (server, _, stub):
        assert server.core is not None
        server.core._admission.max_waiting = 1
        calls = [stub.Generate(streamed()) for _ in range(4)]
        await server.until(lambda: server.client.num_streams == 4)
        gate.open()
        ends = await asyncio.gather(*(_end(call) for call in calls))
        lost = [call for call, end in zip(calls, ends, strict=True) if end is not None]
        assert lost
        for call in lost:
            status = await rpc_status.aio.from_call(call)
            retry = RetryInfo()
            assert any(detail.Unpack(retry) for detail in status.details)
            assert retry.retry_delay.ToMilliseconds() >= 1000
        assert {end for end in ends if end} == {grpc.StatusCode.RESOURCE_EXHAUSTED}


async def _end(call: Any) -> grpc.StatusCode | None:
    try:
        _ = [m async for m in call]
    except grpc.aio.AioRpcError as error:
        return error.code()
    return None


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (404, None, grpc.StatusCode.NOT_FOUND),
        (413, None, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (429, None, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (500, None, grpc.StatusCode.INTERNAL),
        (503, None, grpc.StatusCode.UNAVAILABLE),
        (503, "deadline_expired", grpc.StatusCode.DEADLINE_EXCEEDED),
    ],
)
def test_codes(status: int, code: str | None, expected: grpc.StatusCode) -> None:
    found = status_of(ApiError(status, "no", code=code, headers={"retry-after-ms": "250"}))
    assert found.code == expected.value[0]
    retry = RetryInfo()
    assert found.details[-1].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() == 250


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


async def test_bugs_are_internal_and_leave_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with calling() as (server, _, stub):
        monkeypatch.setattr(
            "prelude.server.rpc.service.Replies", lambda generation: 1 / 0, raising=True
        )
        code, details = await refused(stub.Generate(said()))
        assert code is grpc.StatusCode.INTERNAL
        assert "division" not in details["message"]
        assert server.services.lifecycle.num_open == 0
        assert server.client.num_streams == 0
        text = (await server.http.get("/metrics")).text
        assert f"/{SERVICE}/Generate" in text
