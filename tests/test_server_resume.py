"""Streams that outlive their connection: nothing twice, nothing lost, nothing kept for ever."""

import asyncio
from collections.abc import AsyncGenerator

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI

from prelude.server.errors import ApiError, retry_later
from prelude.server.resume import Keeper, Kept
from prelude.server.sse import error_event
from prelude.types.request import TokenEvent
from prelude.types.wire import Abort
from tests.fakes import ScriptedTransport, until
from tests.scripted_server import CHAT, HI, ids, scripted
from tests.server_harness import ANSWER, Harness, parse_events, serving

MIB = 2**20
ASK = {"x-prelude-resume": "1"}


class Source:
    """Chunks that come when they are said; an exception is raised in its place."""

    def __init__(self) -> None:
        self.said: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        self.taken = 0
        self.closed = 0
        self.is_ended = False

    async def __call__(self) -> AsyncGenerator[bytes, None]:
        try:
            while (item := await self.said.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                self.taken += 1
                yield item
        finally:
            self.is_ended = True

    def say(self, *items: bytes | Exception | None) -> None:
        for item in items:
            self.said.put_nowait(item)

    def close(self) -> None:
        self.closed += 1


def keep(keeper: Keeper, source: Source, owner: str = "me") -> Kept:
    kept = keeper.keep(owner, source(), source.close, error_event)
    assert kept is not None
    return kept


def numbered(data: bytes) -> list[tuple[int, bytes]]:
    """Every event's number and its text."""
    found = []
    for event in data.removesuffix(b"\n\n").split(b"\n\n") if data else ():
        head, text = event.split(b"\n", 1)
        found.append((int(head.rsplit(b"-", 1)[1]), text))
    return found


async def test_every_event_has_a_number_whatever_it_came_with() -> None:
    source = Source()
    kept = keep(Keeper(60.0, MIB), source)
    chunks, _ = kept.follow(0)
    source.say(b"data: 1\n\nevent: x\ndata: 2\n\n")
    found = await anext(chunks)
    assert numbered(found) == [(1, b"data: 1"), (2, b"event: x\ndata: 2")]
    assert found.startswith(b"id: " + kept.name.encode() + b"-1\n")
    source.say(b"data: 3\n\n", None)
    assert [numbered(chunk) async for chunk in chunks] == [[(3, b"data: 3")]]
    await until(lambda: source.closed)
    assert source.is_ended


async def test_who_comes_back_gets_the_rest_and_the_one_before_no_more() -> None:
    source = Source()
    keeper = Keeper(60.0, MIB)
    kept = keep(keeper, source)
    first, first_left = kept.follow(0)
    source.say(b"data: 1\n\n", b"data: 2\n\n")
    await until(lambda: source.taken == 2)
    assert len(numbered(await anext(first))) == 2
    second, second_left = keeper.find(kept.name, 1, "me").follow(1)
    assert [chunk async for chunk in first] == []
    first_left()  # late: the old connection only now finds out
    assert numbered(await anext(second)) == [(2, b"data: 2")]
    source.say(b"data: 3\n\n", None)
    assert numbered(await anext(second)) == [(3, b"data: 3")]
    assert [chunk async for chunk in second] == []
    assert len(keeper) == 1
    second_left()
    again, _ = keeper.find(kept.name, 0, "me").follow(0)
    assert len(numbered(b"".join([chunk async for chunk in again]))) == 3, "it is complete"
    await until(lambda: source.closed)
    kept.end()
    assert (len(keeper), keeper.num_bytes, source.closed) == (0, 0, 1)


async def test_what_nobody_comes_back_for_is_given_up() -> None:
    source, keeper = Source(), Keeper(0.001, MIB)
    kept = keep(keeper, source)
    chunks, left = kept.follow(0)
    source.say(b"data: 1\n\n")
    await anext(chunks)
    await chunks.aclose()
    left()
    await until(lambda: source.closed)
    assert source.is_ended
    assert (len(keeper), keeper.num_bytes) == (0, 0)
    with pytest.raises(ApiError, match="begin anew"):
        keeper.find(kept.name, 1, "me")


async def test_it_is_waited_for_as_long_as_was_said() -> None:
    source, keeper, loop = Source(), Keeper(60.0, MIB), asyncio.get_running_loop()
    kept = keep(keeper, source)
    chunks, left = kept.follow(0)
    source.say(b"data: 1\n\n")
    await anext(chunks)
    begun_s = loop.time()
    left()
    assert kept._timer is not None
    assert begun_s + 60.0 <= kept._timer.when() <= loop.time() + 60.0
    kept.end()
    await until(lambda: source.closed)


async def test_a_stream_given_up_before_it_began_is_closed_too() -> None:
    source, keeper = Source(), Keeper(60.0, MIB)
    keep(keeper, source).end()
    await until(lambda: source.closed)
    assert len(keeper) == 0


async def test_streams_are_their_owners_only() -> None:
    source, keeper = Source(), Keeper(60.0, MIB)
    kept = keep(keeper, source, owner="me")
    for name, number, owner in (
        (kept.name, 0, "you"),
        (kept.name, 1, "me"),
        ("x" * 22, 0, "me"),
    ):
        with pytest.raises(ApiError) as caught:
            keeper.find(name, number, owner)
        assert (caught.value.status, caught.value.code) == (404, "stream_not_found")
    assert keeper.find(kept.name, 0, "me") is kept
    kept.end()


async def test_a_stream_nobody_reads_stops_taking_and_goes_on_when_somebody_does() -> None:
    source, keeper = Source(), Keeper(60.0, 64 * MIB)
    kept = keep(keeper, source)
    chunk = b"data: " + b"x" * 2**16 + b"\n\n"
    source.say(*[chunk] * 64, None)
    await until(lambda: keeper.num_bytes > MIB)
    for _ in range(20):
        await asyncio.sleep(0)
    assert source.taken == 16, "a MiB and not more, however long it is left alone"
    chunks, _ = kept.follow(0)
    sizes = [len(numbered(chunk)) async for chunk in chunks]
    assert sum(sizes) == 64
    assert keeper.num_bytes < MIB + 2 * len(chunk), "the oldest that were sent are gone"
    assert not kept.has(0) and kept.has(64)
    kept.end()


async def test_one_who_reads_is_not_held_up_by_those_who_do_not() -> None:
    lost, read = Source(), Source()
    keeper = Keeper(60.0, MIB // 2)
    kept = [keep(keeper, source) for source in (lost, read)]
    lost.say(*[b"data: " + b"x" * 2**16 + b"\n\n"] * 32)
    await until(lambda: keeper.is_full)
    chunks, _ = kept[1].follow(0)
    for number in range(1, 100):
        read.say(b"data: y\n\n")
        assert numbered(await anext(chunks))[0][0] == number
    assert lost.taken <= 9
    assert keeper.keep("me", read(), read.close, error_event) is None, "no room for another"
    for one in kept:
        one.end()
    assert keeper.num_bytes == 0


async def test_complete_streams_make_room_for_new_ones() -> None:
    keeper = Keeper(60.0, MIB // 4)
    for _ in range(8):
        source = Source()
        kept = keep(keeper, source)
        source.say(b"data: " + b"x" * (MIB // 5) + b"\n\n", None)
        chunks, left = kept.follow(0)
        assert len([chunk async for chunk in chunks]) == 1
        left()
    assert len(keeper) <= 2
    assert keeper.num_bytes <= MIB // 2


@pytest.mark.parametrize("error", [retry_later("later", "engine_restarted"), RuntimeError("bug")])
async def test_a_failure_waits_for_its_reader(error: Exception) -> None:
    source = Source()
    kept = keep(Keeper(60.0, MIB), source)
    source.say(b"data: 1\n\n", error)
    await until(lambda: source.closed)
    for _ in range(2):
        chunks, _ = kept.follow(0)
        assert numbered(await anext(chunks)) == [(1, b"data: 1")]
        with pytest.raises(type(error)):
            await anext(chunks)
    kept.end()


async def test_who_still_follows_what_is_given_up_is_told_no_more() -> None:
    source, keeper = Source(), Keeper(60.0, MIB)
    kept = keep(keeper, source)
    chunks, left = kept.follow(0)
    source.say(b"data: 1\n\n")
    assert await anext(chunks)
    source.say(b"data: 2\n\n")
    await until(lambda: source.taken == 2 and kept._last == 2)
    kept.end()
    with pytest.raises(StopAsyncIteration):
        await anext(chunks)
    left()
    await until(lambda: source.is_ended and source.closed == 1)
    assert (len(keeper), keeper.num_bytes) == (0, 0)


async def test_nothing_is_kept_where_it_is_switched_off() -> None:
    source = Source()
    assert Keeper(0.0, MIB).keep("me", source(), source.close, error_event) is None


@given(st.lists(st.integers(1, 3), min_size=1, max_size=20), st.data())
def test_however_often_it_is_cut_off_nothing_is_lost_or_twice(
    sizes: list[int], data: st.DataObject
) -> None:
    """``sizes`` are events a chunk; a connection may lose the end of what it was sent."""

    async def scenario() -> list[bytes]:
        source, keeper = Source(), Keeper(60.0, MIB)
        kept = keep(keeper, source)
        number, texts, said = 0, list[bytes](), 0
        for size in sizes:
            source.say(b"".join(b"data: %d\n\n" % (said + n) for n in range(size)))
            said += size
        source.say(None)
        while len(texts) < said:
            chunks, left = keeper.find(kept.name, number, "me").follow(number)
            found = numbered(await anext(chunks))
            arrived = found[: data.draw(st.integers(0, len(found)))] or found[:1]
            assert [n for n, _ in arrived] == list(range(number + 1, number + 1 + len(arrived)))
            texts += [text for _, text in arrived]
            number = arrived[-1][0]
            await chunks.aclose()
            left()
        kept.end()
        return texts

    assert asyncio.run(scenario()) == [b"data: %d" % n for n in range(sum(sizes))]


async def begin(
    server: Harness, transport: ScriptedTransport
) -> tuple[httpx.Response, int, str, bytes]:
    """A stream whose first words are here: the response, the request's uid, the last event's id,
    and what came so far."""
    body = HI | {"stream": True}
    request = server.http.build_request("POST", CHAT, json=body, headers=ASK)
    task = asyncio.create_task(server.http.send(request, stream=True))
    uid = (await transport.submitted()).uid
    transport.events(TokenEvent(uid, 0, ids("Hello")))
    response = await task
    received = await anext(response.aiter_bytes())
    last = received.decode().rsplit("id: ", 1)[1].split("\n", 1)[0]
    return response, uid, last, received


async def resume(server: Harness, event_id: str, **headers: str) -> httpx.Response:
    return await server.http.post(CHAT, json=HI, headers={"last-event-id": event_id, **headers})


def plain(body: bytes) -> bytes:
    """Without ids."""
    lines = [line for line in body.split(b"\n") if not line.startswith(b"id: ")]
    return b"\n".join(lines)


async def test_a_client_that_lost_its_connection_gets_the_rest() -> None:
    async with scripted() as (server, transport):
        response, uid, last, begun = await begin(server, transport)
        await response.aclose()
        transport.events(TokenEvent(uid, 0, ids(" there")))
        task = asyncio.create_task(resume(server, last))
        transport.events(TokenEvent(uid, 0, ids(", world"), "length"))
        rest = await task
        assert rest.headers["content-type"].startswith("text/event-stream")
        events = parse_events(plain(begun + rest.content))
        text = "".join(e["choices"][0]["delta"].get("content", "") for e in events[:-1])
        assert text == "Hello there, world"
        assert events[-1] == "[DONE]"
        assert Abort(uid) not in transport.sent
        assert len(transport.requests) == 1
        assert server.services.lifecycle.num_open == 0
        again = await resume(server, last)
        assert again.content.endswith(b"[DONE]\n\n"), "until its time is up"


async def test_a_lost_stream_is_aborted_when_its_time_is_up() -> None:
    async with scripted(resume_s=0.001) as (server, transport):
        response, uid, last, _ = await begin(server, transport)
        await response.aclose()
        await until(lambda: Abort(uid) in transport.sent)
        assert server.services.lifecycle.num_open == 0
        gone = await resume(server, last)
        assert gone.status_code == 404
        assert gone.json()["error"]["code"] == "stream_not_found"
        assert len(transport.requests) == 1, "it was not answered anew"


async def test_a_stream_that_its_client_gives_up_ends_at_once() -> None:
    async with scripted() as (server, transport):
        response, uid, last, _ = await begin(server, transport)
        await response.aclose()
        given_up = await resume(server, last, **{"x-prelude-resume": "0"})
        assert (given_up.status_code, given_up.content) == (204, b"")
        await until(lambda: Abort(uid) in transport.sent)
        assert len(server.services.keeper) == server.services.lifecycle.num_open == 0
        again = await resume(server, last, **{"x-prelude-resume": "0"})
        assert again.status_code == 404


async def test_who_leaves_before_the_first_event_ends_the_request() -> None:
    async with scripted() as (server, transport):
        task = asyncio.create_task(server.http.post(CHAT, json=HI | {"stream": True}, headers=ASK))
        uid = (await transport.submitted()).uid
        task.cancel()
        await until(lambda: Abort(uid) in transport.sent)
        assert len(server.services.keeper) == 0


async def test_a_lost_stream_learns_that_its_engine_died() -> None:
    async with scripted() as (server, transport):
        response, _, last, _ = await begin(server, transport)
        await response.aclose()
        transport.die("signal 9")
        told = await resume(server, last)
        assert told.status_code == 503
        assert "signal 9" in told.json()["error"]["message"]


@pytest.mark.parametrize("event_id", ["", "1", "x" * 22 + "-1", "ä", "x" * 1000])
async def test_ids_that_are_nobodys(event_id: str) -> None:
    async with scripted() as (server, transport):
        headers = [(b"last-event-id", event_id.encode())]
        response = await server.http.post(CHAT, json=HI, headers=headers)
        assert response.status_code == 404
        assert response.json()["error"]["param"] == "Last-Event-ID"
        assert transport.requests == []


async def test_who_does_not_ask_gets_no_ids_and_ends_the_request_by_leaving() -> None:
    async with scripted() as (server, transport):
        request = server.http.build_request("POST", CHAT, json=HI | {"stream": True})
        task = asyncio.create_task(server.http.send(request, stream=True))
        uid = (await transport.submitted()).uid
        transport.events(TokenEvent(uid, 0, ids("Hello")))
        response = await task
        assert b"id: " not in await anext(response.aiter_bytes())
        await response.aclose()
        await until(lambda: Abort(uid) in transport.sent)
        assert len(server.services.keeper) == 0


async def test_a_drain_ends_lost_streams_too() -> None:
    async with scripted() as (server, transport):
        response, uid, _, _ = await begin(server, transport)
        await response.aclose()
        await until(lambda: server.services.lifecycle.num_open == 1)
        await server.services.lifecycle.drain(0)
        await until(lambda: server.services.lifecycle.num_open == 0)
        await until(lambda: Abort(uid) in transport.sent)


async def test_clients_that_know_nothing_of_it_read_numbered_events() -> None:
    async with (
        serving() as server,
        AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        stream = await client.chat.completions.create(
            model="test-model",
            messages=[{"role": "user", "content": "Hi"}],
            stream=True,
            extra_headers={"X-Prelude-Resume": "1"},
        )
        texts = [chunk.choices[0].delta.content or "" async for chunk in stream]
        assert "".join(texts) == ANSWER
        assert len(server.services.keeper) == 1
