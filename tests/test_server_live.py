"""The live view's data: what a sample finds, and who is sent what."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from prelude.client.client import EngineClient
from prelude.server.errors import ApiError
from prelude.server.lifecycle import Lifecycle
from prelude.server.live import MAX_VIEWERS, Live
from prelude.server.metrics import Metrics
from prelude.types.errors import REFUSAL_CODES
from prelude.types.service import SERVICE_CLASSES
from prelude.types.wire import ClassStats, EngineStats, Progress, Ready, StepEvents
from tests.engines import Clock
from tests.fakes import ScriptedTransport, scripted_client, some_info, until
from tests.server_harness import Harness, serving


@dataclass
class Scene:
    client: EngineClient
    transport: ScriptedTransport
    metrics: Metrics
    lifecycle: Lifecycle
    live: Live
    clock: Clock

    async def step(self, **stats: Any) -> None:
        """The engine takes a step and says so."""
        number = self.client.stats.num_steps + 1
        self.transport.say(StepEvents([], EngineStats(num_steps=number, **stats)))
        await until(lambda: self.client.stats.num_steps == number)

    def sample(self, after_s: float = 0.5) -> None:
        self.clock.now_s += after_s
        self.live.sample()


@asynccontextmanager
async def scene(ready: bool = True) -> AsyncIterator[Scene]:
    client, transport = scripted_client()
    metrics, lifecycle, clock = Metrics(client, "m"), Lifecycle(), Clock()
    live = Live(client, metrics, lifecycle, "m", clock)
    if ready:
        transport.say(Ready(some_info()))
        await client.wait_ready()
    yield Scene(client, transport, metrics, lifecycle, live, clock)
    await client.close()


def parse(event: bytes) -> tuple[str, Any]:
    name, data, *rest = event.decode().split("\n")
    assert rest == ["", ""]
    return name.removeprefix("event: "), msgspec.json.decode(data.removeprefix("data: "))


async def test_rates_are_those_since_the_sample_before() -> None:
    async with scene() as s:
        await s.step(step_ms=10.0, budget_ms=50.0, output_tokens=100, prompt_tokens=7)
        await s.step(step_ms=30.0, budget_ms=50.0, output_tokens=200, prompt_tokens=7)
        s.sample(0.5)
        point = s.live.snapshot().point
        assert (point.output_per_s, point.prompt_per_s) == (400.0, 14.0)
        assert point.step_max_ms == 30.0
        assert point.step_p50_ms == pytest.approx(10.0, rel=0.25)
        assert (point.time_s, point.budget_ms) == (0.5, 50.0)
        s.sample(0.5)
        quiet = s.live.snapshot().point
        assert (quiet.output_per_s, quiet.step_p50_ms, quiet.step_max_ms) == (0.0, None, None)


async def test_gauges() -> None:
    classes = tuple(ClassStats(n, n + 1, n + 2, n + 3) for n in range(len(SERVICE_CLASSES)))
    async with scene() as s:
        await s.step(
            classes=classes,
            num_blocks=20,
            num_blocks_referenced=5,
            num_blocks_cached=3,
            programs_ready=1,
            programs_total=2,
            programs_missed=4,
            num_parks=6,
            refused=tuple(range(1, len(REFUSAL_CODES) + 1)),
            num_preemptions=7,
            step_ms=8.0,
            step_price_ms=9.0,
            overhead_ms=1.0,
        )
        s.sample()
        found = s.live.snapshot()
        assert [row.name for row in found.classes] == list(SERVICE_CLASSES)
        rows = [(c.waiting, c.running, c.parked, c.blocks) for c in found.classes]
        assert rows == [msgspec.structs.astuple(one) for one in classes]
        assert (found.point.waiting, found.point.running) == ((0, 1, 2, 3), (1, 2, 3, 4))
        assert msgspec.structs.astuple(found.kv) == (5, 3, 20, 16)
        assert found.point.kv_used == 0.25
        assert msgspec.structs.astuple(found.programs) == (1, 2, 4)
        assert (found.totals.parks, found.totals.preemptions) == (6, 7)
        assert (found.totals.refused, found.totals.expired) == (1 + 2 + 3 + 4, 5 + 6)
        assert (found.steps.last_ms, found.steps.price_ms, found.steps.overhead_ms) == (8, 9, 1)
        assert (found.max_seqs, found.model, found.state) == (8, "m", "ready")


async def test_latencies_of_the_last_minute_by_class() -> None:
    async with scene() as s:
        s.metrics.ttft["doc"].add(0.2)
        s.metrics.inter_token["fast"].add(0.01)
        s.metrics.e2e["batch"].add(30.0)
        await s.step(step_ms=60.0, budget_ms=50.0)
        s.sample()
        found = s.live.snapshot()
        rows = {row.name: row for row in found.classes}
        assert rows["doc"].ttft.count == rows["fast"].itl.count == rows["batch"].e2e.count == 1
        assert rows["fast"].ttft.count == rows["deep"].itl.count == 0
        assert rows["fast"].ttft.p50_ms is None
        assert rows["doc"].ttft.p50_ms == pytest.approx(200, rel=0.25)
        assert (found.steps.count, found.steps.over) == (1, 1)
        for _ in range(140):
            s.sample()
        found = s.live.snapshot()
        assert all(row.ttft.count + row.itl.count + row.e2e.count == 0 for row in found.classes)
        assert (found.steps.count, found.steps.over) == (0, 0)


async def test_states_say_what_happens_instead() -> None:
    async with scene(ready=False) as s:
        assert s.live.snapshot().state == "starting"
        s.transport.say(Progress("weights", 0.5))
        await until(lambda: s.client.progress.fraction == 0.5)
        assert s.live.snapshot().note == "weights, 50%"
        s.transport.say(Ready(some_info()))
        await s.client.wait_ready()
        assert (s.live.snapshot().state, s.live.snapshot().note) == ("ready", "")
        s.lifecycle.is_ending = True
        assert s.live.snapshot().state == "draining"
        s.transport.die("out of memory")
        await until(lambda: s.client.error)
        assert (s.live.snapshot().state, s.live.snapshot().note) == ("dead", "out of memory")


async def test_a_viewer_gets_the_past_and_then_what_comes() -> None:
    async with scene() as s:
        for _ in range(3):
            s.sample()
        viewer = s.live.watch()
        name, history = parse(await anext(viewer))
        assert (name, [point[0] for point in history]) == ("history", [0.0, 0.5, 1.0])
        name, now = parse(await anext(viewer))
        assert (name, now["point"][0]) == ("snapshot", 1.5)
        later = asyncio.create_task(anext(viewer))
        await asyncio.sleep(0)
        assert not later.done()
        s.sample()
        assert parse(await later)[1]["point"][0] == 2.0
        await viewer.aclose()


async def test_history_is_bounded() -> None:
    async with scene() as s:
        for _ in range(1000):
            s.sample()
        _, history = parse(await anext(s.live.watch()))
        assert len(history) == 359
        assert history[-1][0] == 499.5


async def test_who_reads_slowly_misses_samples_and_nobody_waits() -> None:
    async with scene() as s:
        slow, quick = s.live.watch(), s.live.watch()
        seen = []
        for viewer in (slow, quick):
            await anext(viewer)
            await anext(viewer)
        for _ in range(10):
            s.sample()
            seen.append(parse(await anext(quick))[1]["point"][0])
        assert seen == [0.5 * n for n in range(1, 11)]
        assert parse(await anext(slow))[1]["point"][0] == 5.0
        waiting = asyncio.create_task(anext(slow))
        await asyncio.sleep(0)
        assert not waiting.done()
        waiting.cancel()


async def test_a_snapshot_is_encoded_once_for_all() -> None:
    async with scene() as s:
        viewers = [s.live.watch() for _ in range(3)]
        for viewer in viewers:
            await anext(viewer)
        events = [await anext(viewer) for viewer in viewers]
        assert all(event is events[0] for event in events)


async def test_viewers_are_bounded_and_places_come_back() -> None:
    async with scene() as s:
        viewers = [s.live.watch() for _ in range(MAX_VIEWERS)]
        for viewer in viewers:
            await anext(viewer)
        with pytest.raises(ApiError) as refused:
            await anext(s.live.watch())
        assert (refused.value.status, refused.value.code) == (503, "too_many_viewers")
        assert refused.value.headers["retry-after"]
        await viewers[0].aclose()
        await anext(s.live.watch())


async def drained(viewer: AsyncGenerator[bytes, None]) -> list[Any]:
    return [parse(event) async for event in viewer]


async def test_the_sampler_and_all_streams_end_with_the_server() -> None:
    async with scene() as s:
        run = asyncio.create_task(s.live.run())
        viewers = [asyncio.create_task(drained(s.live.watch())) for _ in range(2)]
        await until(lambda: s.live._num_viewers == 2)
        await s.lifecycle.drain(1000)
        await run
        for viewer in viewers:
            *_, (name, last) = await viewer
            assert (name, last["state"]) == ("snapshot", "draining")
        assert s.live._num_viewers == 0


async def test_samples_are_cheap_enough_to_take_always() -> None:
    """By what it does, not by the clock: nothing is encoded while nobody watches."""
    async with scene() as s:
        s.sample()
        assert s.live._event is None


@asynccontextmanager
async def watching(server: Harness) -> AsyncIterator[AsyncIterator[str]]:
    """Lines of a viewer's stream."""
    async with server.http.stream("GET", "/live/events") as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        yield response.aiter_lines()


async def data(lines: AsyncIterator[str], name: str) -> Any:
    """The next event of that name."""
    async for line in lines:
        if line == f"event: {name}":
            return msgspec.json.decode((await anext(lines)).removeprefix("data: "))
    raise AssertionError(f"the stream ended without {name}")


async def test_over_http_with_a_real_engine() -> None:
    async with serving() as server, watching(server) as lines:
        assert await data(lines, "history") == []
        assert (await data(lines, "snapshot"))["totals"]["output_tokens"] == 0
        await server.chat(n=2)
        await server.until(lambda: server.client.stats.num_running == 0)
        server.services.live.sample()
        found = await data(lines, "snapshot")
        while not found["totals"]["output_tokens"]:
            found = await data(lines, "snapshot")
        fast = found["classes"][0]
        assert (fast["name"], fast["ttft"][0], fast["e2e"][0]) == ("fast", 1, 1)
        assert fast["itl"][0] == found["totals"]["output_tokens"] - 2
        assert found["steps"]["count"] == found["totals"]["steps"] > 0
        assert found["kv"]["total"] > 0


async def test_nothing_of_a_conversation_is_told() -> None:
    async with serving() as server:
        secret = "xylophone"
        told = await server.chat(messages=[{"role": "user", "content": secret}], user=secret)
        server.services.live.sample()
        async with watching(server) as lines:
            history = await data(lines, "history")
            snapshot = await data(lines, "snapshot")
        text = msgspec.json.encode([history, snapshot]).decode()
        assert secret not in text
        assert told.json()["choices"][0]["message"]["content"][:9] not in text
        assert told.json()["id"].removeprefix("chatcmpl-") not in text


async def test_a_viewer_does_not_hold_up_the_end() -> None:
    async with serving() as server, watching(server) as lines:
        await data(lines, "snapshot")
        assert server.services.lifecycle.num_open == 0
        server.server.should_exit = True
        rest = [line async for line in lines]
        assert any('"state":"draining"' in line for line in rest)


async def test_one_that_leaves_frees_its_place() -> None:
    async with serving() as server:
        live = server.services.live
        async with watching(server) as lines:
            await data(lines, "snapshot")
            assert live._num_viewers == 1
        await server.until(lambda: live._num_viewers == 0)
