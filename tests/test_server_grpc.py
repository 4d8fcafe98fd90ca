"""gRPC over a real channel: answers, embeddings, aborts and errors."""

import asyncio
import math
from array import array
from typing import Any
from urllib.parse import quote

import grpc
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from grpc_status import rpc_status
from smg_grpc_proto.generated import vllm_engine_pb2 as pb

from prelude.runner.fake import fake_embedding
from prelude.server.errors import ApiError
from prelude.server.rpc.status import status_of
from tests.grpc_harness import SERVICE, calling, ids_of, refused, said, streamed
from tests.server_harness import ANSWER, Engine, Gate
from tests.text_samples import byte_level


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


@pytest.mark.parametrize("letter", ["x", "%", "\u00e9", "\U0001f989", "\ud800"])
def test_errors_are_no_longer_than_trailers_may_be(letter: str) -> None:
    """8 KiB are what peers take of all headers together."""
    text, name = "begin " + letter * 50_000, letter * 5000
    status = status_of(ApiError(400, text, param=name, code=name))
    assert (status.message[:6], status.message[-3:]) == ("begin ", "...")
    in_base64 = status.ByteSize() * 4 // 3
    assert in_base64 + len(quote(status.message)) < 7 * 1024
    assert status_of(ApiError(400, "short")).message == "short"


async def test_lists_that_are_longer_than_anything_could_want() -> None:
    async with calling() as (_, _, stub):
        size = byte_level().vocab_size
        for name, request in (
            ("stop_token_ids", said(stop_token_ids=[1] * (size + 1))),
            ("stop", said(stop=["a"] * 33)),
        ):
            code, found = await refused(stub.Generate(request))
            assert code is grpc.StatusCode.INVALID_ARGUMENT
            assert found["BadRequest"].field_violations[0].field == name
