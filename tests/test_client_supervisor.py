"""Engines that die are followed by others: when, how often, and what becomes of the requests."""

import asyncio
import logging
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zmq import ZMQError

from prelude.client.client import EngineDeadError
from prelude.client.supervisor import Supervisor
from prelude.conf.schema import SupervisorConfig
from prelude.types.request import SamplingParams, TokenEvent
from prelude.types.wire import Abort, EngineStats, Progress, StepEvents, Truncate
from tests.fakes import ScriptedEngines, ScriptedTransport, until

ONE = SamplingParams(max_tokens=8)


async def test_another_engine_takes_the_place_of_one_that_died() -> None:
    engines = ScriptedEngines()
    client = engines.client
    first = await engines.ready()
    streams = [client.submit([1], ONE) for _ in range(3)]
    first.events(TokenEvent(1, 0, [7]))
    assert [event.token_ids for event in await streams[0].next_batch()] == [[7]]
    first.die("the engine process ended unexpectedly (signal 9)", "signal")
    for stream in streams:
        with pytest.raises(EngineDeadError, match="signal 9") as caught:
            await stream.next_batch()
        assert caught.value.restarting
        assert await stream.next_batch() == []
    assert client.state == "restarting"
    assert client.info is None and client.error is None
    assert (client.num_lost, client.num_streams) == (3, 0)
    assert client.last_death is not None
    assert (client.last_death.reason, client.last_death.num_lost) == ("signal", 3)
    second = await engines.ready(2)
    assert first.closed and not second.closed
    assert (client.state, client.generation, client.restarts) == ("ready", 2, {"signal": 1})
    stream = client.submit([1], ONE)
    assert stream.request.uid == 4, "uids of one engine are never those of another"
    second.events(TokenEvent(4, 0, [9], "stop"))
    assert [event.token_ids for event in await stream.next_batch()] == [[9]]
    await client.close()
    assert second.closed and client.state == "dead"


async def test_what_a_lost_request_still_says_does_not_reach_the_next_engine() -> None:
    engines = ScriptedEngines()
    first = await engines.ready()
    stream = engines.client.submit([1], ONE)
    first.die("gone")
    second = await engines.ready(2)
    stream.truncate(0, 1)
    stream.close()
    assert not [m for m in second.sent if isinstance(m, Abort | Truncate)]
    await engines.client.close()


async def test_between_two_engines_requests_are_refused_with_the_reason() -> None:
    engines = ScriptedEngines()
    first = await engines.ready()
    held = asyncio.Event()

    async def slow(*, wait: bool) -> None:
        await held.wait()

    first.close = slow  # type: ignore[method-assign]
    first.die("device lost")
    await until(lambda: engines.client.state == "restarting")
    await asyncio.sleep(0)
    with pytest.raises(EngineDeadError, match="device lost") as caught:
        engines.client.submit([1], ONE)
    assert caught.value.restarting
    held.set()
    await engines.ready(2)
    await engines.client.close()


async def test_the_gauges_of_a_dead_engine_are_not_those_of_the_next() -> None:
    engines = ScriptedEngines()
    first = await engines.ready()
    first.say(StepEvents([], EngineStats(num_running=5)))
    await until(lambda: engines.client.stats.num_running == 5)
    first.die("gone")
    await until(lambda: len(engines.started) == 2)
    assert engines.client.stats == EngineStats()
    engines.started[1].say(Progress("loading weights", 0.5))
    await until(lambda: engines.client.progress.fraction == 0.5)
    await engines.client.close()


async def test_an_engine_that_never_was_ready_is_not_started_again() -> None:
    engines = ScriptedEngines()
    engines.started[0].die("cache.num_blocks=1: too few", "start")
    with pytest.raises(EngineDeadError, match="too few") as caught:
        await engines.client.wait_ready()
    assert not caught.value.restarting
    await until(lambda: engines.started[0].closed)
    assert len(engines.started) == 1
    await engines.client.close()


async def test_after_too_many_deaths_it_stays_dead(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    config = SupervisorConfig(max_restarts=3, window_s=60.0, backoff_s=2.0, hang_s=0.0)
    engines = ScriptedEngines(config)
    for number in range(1, 4):
        (await engines.ready(number)).die("a kernel failed")
    last = await engines.ready(4)
    stream = engines.client.submit([1], ONE)
    last.die("a kernel failed")
    with pytest.raises(EngineDeadError) as caught:
        await stream.next_batch()
    assert not caught.value.restarting
    assert engines.waits == [2.0, 4.0, 8.0]
    assert engines.client.state == "dead"
    with pytest.raises(EngineDeadError, match="a kernel failed"):
        engines.client.submit([1], ONE)
    await until(lambda: last.closed)
    assert len(engines.started) == 4
    assert "1 requests lost; no other is started" in caplog.text
    assert "engine 4 is ready" in caplog.text
    await engines.client.close()


async def test_a_restart_that_fails_to_start_counts_and_is_tried_again() -> None:
    engines = ScriptedEngines()
    (await engines.ready()).die("gone", "exit")
    await until(lambda: len(engines.started) == 2)
    engines.started[1].die("no memory", "start")
    await engines.ready(3)
    assert engines.client.restarts == {"exit": 1, "start": 1}
    await engines.client.close()


@pytest.mark.parametrize("kind", [OSError, RuntimeError, partial(ZMQError, 24)])
async def test_a_system_that_starts_no_process_is_asked_again(
    kind: Callable[[str], Exception],
) -> None:
    engines = ScriptedEngines(SupervisorConfig(max_restarts=2, hang_s=0.0))
    first = await engines.ready()
    engines.refusal = kind("no more processes")
    first.die("gone")
    await until(lambda: engines.client.state == "dead")
    assert engines.client.restarts == {"error": 1, "start": 1}
    assert "no more processes" in str(engines.client.error)
    await engines.client.close()


async def test_another_engine_follows_one_that_cannot_be_buried(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engines = ScriptedEngines()
    first = await engines.ready()

    async def fails(*, wait: bool) -> None:
        raise RuntimeError("can't start new thread")

    first.close = fails  # type: ignore[method-assign]
    first.die("gone")
    await engines.ready(2)
    assert "can't start new thread" in caplog.text
    assert engines.client.state == "ready"
    await engines.client.close()


@pytest.mark.parametrize("moment", ["waiting", "closing", "starting"])
async def test_a_client_can_be_closed_while_it_starts_another(moment: str) -> None:
    engines = ScriptedEngines()
    first = await engines.ready()
    held = asyncio.Event()
    if moment == "waiting":

        async def endless(seconds: float) -> None:
            await held.wait()

        engines.client._supervisor.sleep = endless  # type: ignore[union-attr]
    if moment == "closing":

        async def slow(*, wait: bool) -> None:
            await asyncio.sleep(0)
            first.closed = True

        first.close = slow  # type: ignore[method-assign]
    first.die("gone")
    reached = {
        "waiting": lambda: first.closed,
        "closing": lambda: engines.client.state == "restarting",
        "starting": lambda: len(engines.started) == 2,
    }
    await until(reached[moment])
    await engines.client.close()
    assert all(engine.closed for engine in engines.started)
    assert engines.client.state == "dead"
    with pytest.raises(EngineDeadError, match="shut down"):
        engines.client.submit([1], ONE)


class Silence:
    """An engine that says something ``num_lively`` times, and then nothing."""

    def __init__(self, engines: ScriptedEngines, engine: ScriptedTransport) -> None:
        self.num_lively = 20
        self._engines = engines
        self._engine = engine
        engines.client._supervisor.sleep = self._sleep  # type: ignore[union-attr]

    async def _sleep(self, seconds: float) -> None:
        self._engines.waits.append(seconds)
        if self.num_lively > 0:
            self.num_lively -= 1
            stats = EngineStats(alive_s=100 - self.num_lively)
            self._engine.say(StepEvents([], stats))
            await until(lambda: self._engines.client.stats == stats)
        await asyncio.sleep(0)


async def test_an_engine_that_says_nothing_is_killed_and_followed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("prelude.client.client._LAST_LOOK_S", 0.0)
    engines = ScriptedEngines(SupervisorConfig(hang_s=40.0))
    silence = Silence(engines, engines.started[0])
    first = await engines.ready()
    stream = engines.client.submit([1], ONE)
    with pytest.raises(EngineDeadError, match="said nothing for 40 s") as caught:
        await stream.next_batch()
    assert silence.num_lively == 0
    assert caught.value.reason == "hang"
    await until(lambda: first.closed and len(engines.started) == 2)
    assert first.num_dumps == 1, "it says where it hangs before it is killed"
    # Twenty looks while it was lively, four more in silence, then the wait before the next one.
    assert engines.waits[:25] == [10.0] * 24 + [0.5]
    await engines.client.close()


async def test_an_engine_that_starts_may_be_silent() -> None:
    engines = ScriptedEngines(SupervisorConfig(hang_s=5.0))
    for _ in range(100):
        await asyncio.sleep(0)
    assert engines.waits == []
    await engines.client.close()


@given(
    st.lists(st.floats(0.0, 50.0), max_size=40),
    st.integers(0, 6),
    st.floats(1.0, 100.0),
    st.floats(0.0, 4.0),
)
def test_no_window_sees_more_restarts_than_allowed(
    gaps_s: list[float], max_restarts: int, window_s: float, backoff_s: float
) -> None:
    now_s = 0.0
    config = SupervisorConfig(max_restarts=max_restarts, window_s=window_s, backoff_s=backoff_s)
    supervisor = Supervisor(ScriptedTransport, config, clock=lambda: now_s)
    restarts_s: list[float] = []
    for gap_s in gaps_s:
        now_s += gap_s
        wait_s = supervisor.backoff_s()
        if wait_s is None:
            break
        assert 0.0 <= wait_s <= 30.0
        restarts_s.append(now_s)
    for begin_s in restarts_s:
        inside = [at_s for at_s in restarts_s if begin_s <= at_s < begin_s + window_s]
        assert len(inside) <= max_restarts
