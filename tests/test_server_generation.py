"""One request's work in the engine: choices numbered, numbers counted, ends of every kind."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from prelude.server.app import build_app
from prelude.server.errors import ApiError
from prelude.server.generation import Generation, Usage
from prelude.server.limits import Limits, Ticket
from prelude.server.principal import KeyLimits, Principal, nobody
from prelude.server.services import Services
from prelude.text.choice import TextDelta
from prelude.types.request import RequestTimings, SamplingParams, TokenEvent, TokenLogprobs
from prelude.types.wire import Abort, Ready, Truncate
from tests.fakes import ScriptedTransport, scripted_client, some_info, until
from tests.server_harness import test_config
from tests.text_samples import byte_level, metaspace

LIMITED = Principal(limits=KeyLimits(tokens_per_min=1000))


@asynccontextmanager
async def scripted(tokenizer: Any = None) -> AsyncIterator[tuple[Services, ScriptedTransport]]:
    client, transport = scripted_client()
    transport.say(Ready(some_info()))
    await client.wait_ready()
    app = build_app(client, tokenizer or byte_level(), test_config())
    yield app.state.services, transport
    await client.close()


def generation(
    services: Services,
    *,
    num_prompts: int = 1,
    continues: bool = False,
    limits: Limits | None = None,
    ticket: Ticket | None = None,
    **params: Any,
) -> Generation:
    prompts = [services.tokenizer.encode("the fox") for _ in range(num_prompts)]
    sampling = [SamplingParams(**params)] * num_prompts
    prompt_only = bool(params.pop("prompt_only", False))
    return Generation(
        services,
        prompts,
        sampling,
        ticket=ticket or (Limits() if limits is None else limits).open(LIMITED),
        arrival_s=0.0,
        continues=continues,
        prompt_only=prompt_only,
        cache_salt="tenant",
    )


def ids(text: str) -> list[int]:
    return byte_level().encode(text)


async def everything(work: Generation) -> list[TextDelta]:
    found: list[TextDelta] = []
    while deltas := await work.next():
        found += deltas
    return found


async def test_choices_are_numbered_over_prompts() -> None:
    async with scripted() as (services, transport):
        work = generation(services, num_prompts=2, n=2)
        first, second = transport.requests
        assert first.cache_salt == "tenant"
        transport.events(
            TokenEvent(second.uid, 1, ids("d"), "stop"),
            TokenEvent(first.uid, 0, ids("a"), "stop"),
            TokenEvent(second.uid, 0, ids("c"), "length"),
            TokenEvent(first.uid, 1, ids("b"), "stop"),
        )
        deltas = await everything(work)
        assert {delta.index: delta.text for delta in deltas} == {0: "a", 1: "b", 2: "c", 3: "d"}
        assert {delta.index: delta.finish_reason for delta in deltas}[2] == "length"
        assert work.finished
        assert work.usage() == Usage(2 * len(ids("the fox")), 4, 0)
        work.close()
        assert not any(isinstance(message, Abort) for message in transport.sent)


async def test_events_at_once_are_one_delta_a_choice() -> None:
    async with scripted() as (services, transport):
        work = generation(services, n=2, logprobs=0)
        uid = transport.requests[0].uid
        score = [TokenLogprobs(5, -1.0, [], [])]
        transport.events(
            *(TokenEvent(uid, n % 2, [5], logprobs=score) for n in range(4)),
            TokenEvent(uid, 0, [], "length"),
        )
        await until(lambda: len(work._prompts[0].stream._events) == 5)
        deltas = await work.next()
        assert [delta.index for delta in deltas] == [0, 1]
        assert deltas[0].token_ids == (5, 5)
        assert len(deltas[0].logprobs) == 2
        assert deltas[0].finish_reason == "length"
        assert deltas[1].finish_reason is None
        work.close()
        assert Abort(uid) in transport.sent


async def test_who_leaves_before_the_first_token_pays_for_the_prompt() -> None:
    async with scripted() as (services, transport):
        limits, num_prompt = Limits(), len(ids("the fox"))

        def begin() -> Generation:
            return generation(services, limits=limits, max_tokens=50)

        for leave in (Generation.close, Generation.interrupt):
            before = limits.report("")["prompt_tokens"]
            work = begin()
            leave(work)
            work.close()
            assert limits.report("")["prompt_tokens"] == before + num_prompt  # type: ignore[operator]
        paid = 2 * num_prompt
        refused = begin()
        transport.events(TokenEvent(transport.requests[-1].uid, 0, [], "error", error="full"))
        with pytest.raises(ApiError):
            await refused.next()
        refused.close()
        assert (limits.report("")["prompt_tokens"], limits.report("")["output_tokens"]) == (paid, 0)
        left = limits.report("")["x-ratelimit-remaining-tokens"]
        assert 1000 - paid <= int(str(left)) < 1000 - paid + 10


@pytest.mark.parametrize("what", ["ChoiceText", "Tally", "Generation._merge"])
async def test_one_that_cannot_begin_leaves_nothing_behind(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("no")

    async with scripted() as (services, transport):
        monkeypatch.setattr(f"prelude.server.generation.{what}", fail)
        limits = Limits()
        with pytest.raises(RuntimeError):
            generation(services, num_prompts=2, limits=limits)
        aborted = [one.uid for one in transport.sent if isinstance(one, Abort)]
        assert aborted == [one.uid for one in transport.requests]
        assert services.client.num_streams == services.lifecycle.num_open == 0
        assert limits.report("")["prompt_tokens"] == 0


async def test_one_that_nobody_answers_with_ends_with_its_ticket() -> None:
    async with scripted() as (services, transport):
        ticket = Limits().open(nobody())
        generation(services, ticket=ticket)
        ticket.close(is_served=False)
        assert Abort(transport.requests[0].uid) in transport.sent
        assert services.client.num_streams == services.lifecycle.num_open == 0


async def test_a_stop_string_truncates_and_ends() -> None:
    async with scripted() as (services, transport):
        work = generation(services, stop=("fox",))
        uid = transport.requests[0].uid
        transport.events(TokenEvent(uid, 0, ids("a fox and"), num_cached_tokens=1))
        (delta,) = await everything(work)
        assert (delta.text, delta.stop_reason) == ("a ", "fox")
        assert delta.truncate_at is not None
        assert Truncate(uid, 0, delta.truncate_at) in transport.sent
        assert work.usage() == Usage(len(ids("the fox")), delta.truncate_at, 1)
        work.close()


async def test_a_stop_in_the_last_event_needs_no_truncation() -> None:
    async with scripted() as (services, transport):
        work = generation(services, stop=("fox",))
        uid = transport.requests[0].uid
        transport.events(TokenEvent(uid, 0, ids("a fox"), "length"))
        (delta,) = await everything(work)
        assert delta.finish_reason == "stop"
        assert not any(isinstance(message, Truncate) for message in transport.sent)
        work.close()


async def test_events_without_text_make_no_delta_of_their_own_noise() -> None:
    async with scripted() as (services, transport):
        work = generation(services)
        uid = transport.requests[0].uid
        owl = ids("🦉")
        transport.events(TokenEvent(uid, 0, owl[:1]))
        assert [delta.text for delta in await work.next()] == [""]
        transport.events(TokenEvent(uid, 0, owl[1:], "length"))
        assert [delta.text for delta in await work.next()] == ["🦉"]
        assert await work.next() == []
        work.close()


async def test_prompt_logprobs_are_kept_by_prompt() -> None:
    async with scripted() as (services, transport):
        work = generation(services, num_prompts=2, n=2, prompt_logprobs=0)
        first, second = transport.requests
        found = [None, TokenLogprobs(5, -1.0, [], [])]
        transport.events(TokenEvent(second.uid, 0, [5], prompt_logprobs=found))
        await work.next()
        assert work.prompt_logprobs(0) is None
        assert work.prompt_logprobs(2) == work.prompt_logprobs(3) == found
        assert first.params.prompt_logprobs == 0
        work.close()


async def test_timings() -> None:
    async with scripted() as (services, transport):
        work = generation(services)
        uid = transport.requests[0].uid
        assert list(work.timings()) == ["total_ms"]
        transport.events(TokenEvent(uid, 0, [5, 6]))
        await work.next()
        assert work.log_fields()["finish_reasons"] == ["resumable"], "it goes on without its client"
        assert {"ttft_ms", "decode_ms", "total_ms"} <= set(work.timings())
        transport.events(
            TokenEvent(uid, 0, [7], "length", timings=RequestTimings(1.5, 2.5, 3.5, 0))
        )
        await work.next()
        work.close()
        got: dict[str, Any] = dict(work.timings())
        assert (got["queue_ms"], got["prefill_ms"]) == (1.5, 2.5)
        assert got["ttft_ms"] <= got["total_ms"]
        assert got["tokens_per_second"] > 0
        assert work.timings() == got
        fields = work.log_fields()
        assert (fields["completion_tokens"], fields["finish_reasons"]) == (3, ["length"])


async def test_closing_twice_counts_once() -> None:
    async with scripted() as (services, transport):
        work = generation(services, n=2)
        assert services.lifecycle.num_open == 1
        work.close()
        work.close()
        assert work.log_fields()["finish_reasons"] == ["abort"]
        assert services.lifecycle.num_open == 0
        assert transport.sent.count(Abort(transport.requests[0].uid)) == 1
        text = services.metrics.text().decode()
        assert 'finished_reason="abort",model_name="test-model"} 2.0' in text
        count = r'prelude_request_generation_tokens_count\{model_name="test-model"\} 1(\.0)?\n'
        assert re.search(count, text)


async def test_only_what_came_to_its_end_has_a_duration() -> None:
    async with scripted() as (services, transport):
        durations = services.metrics.e2e["fast"]
        left, ended = generation(services), generation(services)
        transport.events(TokenEvent(transport.requests[1].uid, 0, [5], "length"))
        await everything(ended)
        left.close()
        assert sum(durations.counts) == 0
        ended.close()
        assert sum(durations.counts) == 1


async def test_the_class_comes_back_with_the_numbers() -> None:
    async with scripted() as (services, transport):
        work = generation(services)
        uid = transport.requests[0].uid
        told = RequestTimings(1.5, 2.5, 0.0, 0, "fast", 41.26, "doc")
        transport.events(TokenEvent(uid, 0, [5], timings=told))
        await work.next()
        assert work.timings()["service_class"] == "doc"
        assert work.timings()["predicted_tokens"] == 41.3
        transport.events(
            TokenEvent(uid, 0, [6], timings=RequestTimings(1.5, 2.5, 9.0, 0, "deep", 41.26, "doc")),
            TokenEvent(uid, 0, [7], "stop", timings=RequestTimings(1.5, 2.5, 9.9, 0, "fast")),
        )
        await everything(work)
        work.close()
        assert work.log_fields()["service_class"] == "deep"
        assert sum(services.metrics.ttft["doc"].counts) == 1
        assert sum(services.metrics.queue["doc"].counts) == 1
        assert sum(services.metrics.e2e["deep"].counts) == 1


@pytest.mark.parametrize("num_prompts", [1, 2])
@pytest.mark.parametrize("waiting", [False, True])
async def test_an_interruption_reaches_who_waits_and_who_comes_later(
    num_prompts: int, waiting: bool
) -> None:
    async with scripted() as (services, transport):
        work = generation(services, num_prompts=num_prompts)
        task = asyncio.create_task(work.next())
        if waiting:
            await asyncio.sleep(0)
        work.interrupt()
        with pytest.raises(ApiError, match="shutting down"):
            await task
        with pytest.raises(ApiError, match="shutting down"):
            await work.next()
        assert sum(isinstance(message, Abort) for message in transport.sent) == num_prompts
        work.close()


@pytest.mark.parametrize("num_prompts", [1, 2])
async def test_a_dead_engine(num_prompts: int) -> None:
    async with scripted() as (services, transport):
        work = generation(services, num_prompts=num_prompts)
        transport.die("killed")
        with pytest.raises(ApiError, match="the engine is not running: killed"):
            await work.next()
        work.close()


async def test_output_of_a_prompt_only_request_is_not_counted() -> None:
    async with scripted() as (services, transport):
        work = Generation(
            services,
            [[5]],
            [SamplingParams(max_tokens=1)],
            ticket=Limits().open(nobody()),
            arrival_s=0.0,
            continues=True,
            prompt_only=True,
        )
        transport.events(TokenEvent(transport.requests[0].uid, 0, [6], "length"))
        await everything(work)
        assert work.usage() == Usage(1, 0, 0)
        work.close()


@pytest.mark.parametrize(("continues", "text"), [(True, " the"), (False, "the")])
async def test_only_continuations_keep_the_first_space(continues: bool, text: str) -> None:
    async with scripted(metaspace()) as (services, transport):
        work = generation(services, continues=continues)
        word = metaspace().encode("the", add_special_tokens=False)
        transport.events(TokenEvent(transport.requests[0].uid, 0, word, "length"))
        (delta,) = await everything(work)
        assert delta.text == text
        work.close()


def test_usage_body() -> None:
    assert Usage(10, 5, 8).body() == {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 8},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
