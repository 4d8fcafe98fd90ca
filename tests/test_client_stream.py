"""What waits for a slow reader: joined, and still the same."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelude.client.client import EngineDeadError
from prelude.client.stream import Stream, join
from prelude.types.request import RequestTimings, SamplingParams, TokenEvent, TokenLogprobs
from prelude.types.wire import Abort, Truncate
from tests.fakes import scripted_client


def events_of(index: int, tokens: list[int], *, scored: bool) -> list[TokenEvent]:
    """One event a token; the last one ends the choice."""
    return [
        TokenEvent(
            1,
            index,
            [token],
            "length" if n == len(tokens) - 1 else None,
            logprobs=[TokenLogprobs(token, -float(n), [], [])] if scored else None,
            num_cached_tokens=n,
        )
        for n, token in enumerate(tokens)
    ]


async def started(num_choices: int) -> Stream:
    client, _ = scripted_client()
    return client.submit([1], SamplingParams(n=num_choices))


async def drained(stream: Stream) -> dict[int, list[TokenEvent]]:
    found: dict[int, list[TokenEvent]] = {}
    while batch := await stream.next_batch():
        for event in batch:
            found.setdefault(event.index, []).append(event)
    return found


@given(
    st.lists(st.lists(st.integers(0, 999), min_size=1, max_size=800), min_size=1, max_size=4),
    st.integers(1, 500),
    st.booleans(),
)
def test_a_reader_of_any_speed_gets_every_token_once_and_in_order(
    answers: list[list[int]], pace: int, scored: bool
) -> None:
    """It takes what there is after every ``pace`` events."""

    async def scenario() -> dict[int, list[TokenEvent]]:
        stream = await started(len(answers))
        waiting = [events_of(n, tokens, scored=scored) for n, tokens in enumerate(answers)]
        found: dict[int, list[TokenEvent]] = {}
        num = 0
        while any(waiting):
            for events in filter(None, waiting):
                stream.put(events.pop(0))
                num += 1
                if num % pace == 0:
                    for event in await stream.next_batch():
                        found.setdefault(event.index, []).append(event)
                assert len(stream._events) <= 256 + 4 * len(answers)
        for index, events in (await drained(stream)).items():
            found.setdefault(index, []).extend(events)
        assert await stream.next_batch() == []
        return found

    found = asyncio.run(scenario())
    for index, tokens in enumerate(answers):
        events = found[index]
        assert [token for event in events for token in event.token_ids] == tokens
        assert [event.finish_reason for event in events if event.finish_reason] == ["length"]
        assert events[-1].finish_reason == "length"
        assert events[-1].num_cached_tokens == len(tokens) - 1
        scores = [score.logprob for event in events for score in event.logprobs or ()]
        assert scores == ([-float(n) for n in range(len(tokens))] if scored else [])


def test_what_only_one_of_two_events_says_is_kept() -> None:
    timings = RequestTimings(1.0, 2.0, 0.0, 0)
    first = TokenEvent(1, 0, [5], prompt_logprobs=[None], num_cached_tokens=3, timings=timings)
    last = TokenEvent(1, 0, [6], "stop", stop_reason=6)
    both = join(first, last)
    assert both == TokenEvent(
        1,
        0,
        [5, 6],
        "stop",
        stop_reason=6,
        prompt_logprobs=[None],
        num_cached_tokens=3,
        timings=timings,
    )
    assert first.token_ids == [5], "the engine's own events are not touched"


async def test_a_failure_comes_after_what_came_before_it() -> None:
    client, transport = scripted_client()
    stream = client.submit([1], SamplingParams())
    stream.put(TokenEvent(1, 0, [5]))
    stream.put(EngineDeadError("gone"))
    assert [event.token_ids for event in await stream.next_batch()] == [[5]]
    stream.truncate(0, 1)
    with pytest.raises(EngineDeadError, match="gone"):
        await stream.next_batch()
    assert await stream.next_batch() == []
    assert not [m for m in transport.sent if isinstance(m, Truncate)]


async def test_closing_wakes_nobody_up_and_ends_everything() -> None:
    client, transport = scripted_client()
    stream = client.submit([1], SamplingParams())
    stream.put(TokenEvent(1, 0, [5]))
    stream.close()
    assert await stream.next_batch() == []
    assert Abort(1) in transport.sent
