"""The client over both transports: every request ends once, whatever happens to it."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from prelude.client.client import EngineClient, EngineDeadError, Stream
from prelude.client.local import start_local
from prelude.client.process import ProcessTransport, start_engine
from prelude.conf.load import load_config
from prelude.engine.core import EngineCore
from prelude.runner.fake import FakeRunner
from prelude.types.errors import REFUSAL_CODES, Refusal, RefusalCode
from prelude.types.plan import StepOutput
from prelude.types.request import Request, SamplingParams, TokenEvent
from prelude.types.service import Hints
from prelude.types.wire import (
    WIRE_VERSION,
    EngineInfo,
    EngineStats,
    FromEngine,
    Ready,
    StepEvents,
    Submit,
    ToEngine,
    decode_from_engine,
    decode_to_engine,
    encode,
)
from tests.engines import VOCAB, expected, make_core
from tests.fakes import scripted_client
from tests.model_samples import save_checkpoint

INFO = EngineInfo("fake", "fake", "cpu", "float32", 128, VOCAB, [0], 63, 4, 8, {})


def greedy(max_tokens: int, n: int = 1) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_tokens=max_tokens, n=n)


# More than a client can be slow enough to miss the end of.
ENDLESS = greedy(30_000)


def roomy_core() -> EngineCore:
    return make_core(num_blocks=8192, max_len=32_000)


async def collect(stream: Stream) -> list[int]:
    async with stream:
        return [token async for event in stream for token in event.token_ids]


@pytest.fixture
async def client() -> AsyncIterator[EngineClient]:
    client = start_local(lambda: (roomy_core(), INFO))
    await client.wait_ready()
    yield client
    await client.close()


async def test_requests_run_together_and_get_their_own_answers(client: EngineClient) -> None:
    asked = [[i, i + 1, i + 2] for i in range(1, 33)]
    answers = await asyncio.gather(*(collect(client.submit(p, greedy(12))) for p in asked))
    assert answers == [expected(p, 12) for p in asked]
    assert client.num_streams == 0


async def test_a_stream_ends_after_the_last_choice(client: EngineClient) -> None:
    async with client.submit([1, 2, 3], greedy(5, n=3)) as stream:
        events = [event async for event in stream]
    ends = [event.index for event in events if event.finish_reason]
    assert sorted(ends) == [0, 1, 2]
    assert await stream.next_batch() == []


async def test_a_finished_stream_is_forgotten_without_being_closed(client: EngineClient) -> None:
    assert len([event async for event in client.submit([1], greedy(3))]) == 3
    assert client.num_streams == 0


async def test_an_engine_of_another_version_is_refused() -> None:
    client, transport = scripted_client()
    transport.say(Ready(INFO, version=WIRE_VERSION + 1))
    with pytest.raises(EngineDeadError, match="version"):
        await client.wait_ready()


async def test_closing_a_stream_aborts_the_request(client: EngineClient) -> None:
    stream = client.submit([1, 2, 3], ENDLESS)
    await stream.next_batch()
    stream.close()
    stream.close()
    assert await collect(client.submit([4], greedy(3))) == expected([4], 3)
    assert client.stats.num_blocks_referenced == 0
    assert client.stats.wasted_tokens > 0
    assert client.num_streams == 0


async def test_truncating_ends_a_choice_as_stopped(client: EngineClient) -> None:
    async with client.submit([1, 2, 3], ENDLESS) as stream:
        await stream.next_batch()
        stream.truncate(0, 1)
        reasons = [e.finish_reason async for e in stream if e.finish_reason]
    assert reasons == ["stop"]


async def test_a_refused_request_ends_with_its_reason(client: EngineClient) -> None:
    events = [event async for event in client.submit([VOCAB], greedy(3))]
    assert [e.finish_reason for e in events] == ["error"]
    assert "token ids" in str(events[0].error)


async def test_hints_go_with_the_request_and_refusals_come_back(client: EngineClient) -> None:
    hints = Hints(deadline_ms=1e-6, client="somebody")
    stream = client.submit([1, 2], greedy(3), hints=hints)
    assert stream.request.hints == hints
    (event,) = [event async for event in stream]
    assert event.refusal is not None
    assert event.refusal.code == "deadline_infeasible"
    assert client.stats.refused == (0, 0, 0, 1, 0, 0)


@pytest.mark.parametrize("code", REFUSAL_CODES)
def test_hints_and_refusals_cross_the_wire_whole(code: RefusalCode) -> None:
    refusal = Refusal(code, 1.5, "doc", 7, 120.25, 99.0)
    events = StepEvents([TokenEvent(3, 1, [], "error", refusal=refusal)], EngineStats())
    assert decode_from_engine(encode(events)) == events
    hints = Hints(service_class="deep", priority=-3, reasoning="high", ttft_deadline_ms=0.5)
    request = Request(uid=1, prompt_ids=[1], params=SamplingParams(), hints=hints)
    assert decode_to_engine(encode(Submit(request))) == Submit(request)


async def test_closing_the_client_ends_open_streams_with_an_error() -> None:
    client = start_local(lambda: (roomy_core(), INFO))
    await client.wait_ready()
    stream = client.submit([1], ENDLESS)
    await stream.next_batch()
    await client.close()
    with pytest.raises(EngineDeadError, match="shut down"):
        await collect(stream)
    with pytest.raises(EngineDeadError):
        client.submit([1], greedy(1))


async def test_an_engine_that_cannot_start_says_why() -> None:
    def fail() -> tuple[EngineCore, EngineInfo]:
        raise ValueError("cache.num_blocks=1: too few")

    client = start_local(fail)
    with pytest.raises(EngineDeadError, match=r"^cache\.num_blocks=1: too few$"):
        await client.wait_ready()
    assert client.state == "dead"
    await client.close()


class _BreakingRunner(FakeRunner):
    def collect(self) -> StepOutput:
        if self.num_steps == 5:
            raise RuntimeError("device lost")
        return FakeRunner.collect(self)


async def test_an_engine_that_breaks_ends_every_stream_with_the_cause() -> None:
    runner = _BreakingRunner(num_blocks=64, block_size=4, max_len=128, vocab_size=VOCAB)
    client = start_local(lambda: (make_core(runner=runner), INFO))
    await client.wait_ready()
    streams = [client.submit([i + 1], greedy(50)) for i in range(4)]
    results = await asyncio.gather(*map(collect, streams), return_exceptions=True)
    assert all("device lost" in str(error) for error in results)
    await client.close()


async def test_what_cannot_be_sent_is_refused_and_forgotten() -> None:
    client, transport = scripted_client()

    def overflow(message: ToEngine) -> None:
        encode(message)

    transport.send = overflow  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="cannot be sent"):
        client.submit([2**70], greedy(1))
    assert client.num_streams == 0


async def test_an_unreadable_message_is_the_end_and_not_a_hang() -> None:
    client, transport = scripted_client()

    async def garbage() -> FromEngine:
        return decode_from_engine(b"garbage")

    transport.receive = garbage  # type: ignore[method-assign]
    with pytest.raises(EngineDeadError, match="reading from the engine failed"):
        await client.wait_ready()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    save_checkpoint(folder, "qwen3")
    return folder


async def test_the_engine_process_answers_aborts_and_shuts_down(checkpoint: Path) -> None:
    config = load_config({"model.path": str(checkpoint), "graphs.capture": "eager"})
    client = start_engine(config)
    info = await client.wait_ready()
    assert info.vocab_size > 0
    one, two = await asyncio.gather(
        *(collect(client.submit([3, 4, 5], greedy(8))) for _ in range(2))
    )
    assert len(one) == 8 and one == two
    stream = client.submit([3], greedy(100))
    first: list[TokenEvent] = await stream.next_batch()
    assert first[0].token_ids
    stream.close()
    await collect(client.submit([3], greedy(1)))
    assert client.stats.num_running == 0
    await client.close()
    assert client.state == "dead"


async def test_requests_may_be_sent_before_the_engine_is_ready(checkpoint: Path) -> None:
    config = load_config({"model.path": str(checkpoint), "graphs.capture": "eager"})
    transport = ProcessTransport(config)
    client = EngineClient(transport)
    stream = client.submit([3, 4, 5], greedy(4))
    transport._push.send(b"nonsense")  # is dropped, and harms nobody
    assert len(await collect(stream)) == 4
    await client.close()


async def test_an_engine_that_is_starting_can_be_closed(checkpoint: Path) -> None:
    transport = ProcessTransport(load_config({"model.path": str(checkpoint)}))
    client = EngineClient(transport)
    await client.close()
    assert not Path(f"/proc/{transport.pid}").exists()


async def test_a_killed_engine_process_is_reported_to_every_stream(checkpoint: Path) -> None:
    config = load_config({"model.path": str(checkpoint), "graphs.capture": "eager"})
    transport = ProcessTransport(config)
    client = EngineClient(transport)
    await client.wait_ready()
    streams = [client.submit([i + 1], greedy(200)) for i in range(3)]
    await asyncio.gather(*(stream.next_batch() for stream in streams))
    os.kill(transport.pid, signal.SIGKILL)
    results = await asyncio.gather(*map(collect, streams), return_exceptions=True)
    assert all("signal 9" in str(error) for error in results)
    await client.close()


async def test_a_setting_that_cannot_be_met_is_the_start_up_error(checkpoint: Path) -> None:
    overrides = {"cache.num_blocks": 4, "model.max_len": 100, "graphs.capture": "eager"}
    client = start_engine(load_config({"model.path": str(checkpoint), **overrides}))
    with pytest.raises(EngineDeadError, match=r"lower model\.max_len to 48"):
        await client.wait_ready()
    await client.close()
