"""Runs of the scheduling benchmark on a clock that only steps move."""

from typing import Any

import msgspec

from benchmarks.scheduling_play import Played, Watch, Window, playing, prompt_ids
from benchmarks.scheduling_record import Run, run_of
from prelude.conf.schema import BatcherConfig, CacheConfig, Policy
from prelude.engine.core import EngineCore
from prelude.runner.fake import FakeRunner
from prelude.simulate.prompts import Part
from prelude.simulate.traffic import SimRequest
from prelude.types.prices import flat_prices
from prelude.types.service import Hints


class FakeTime:
    """A clock that only sleep and steps move."""

    def __init__(self) -> None:
        self.now_s = 50.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def step(self, ms: float) -> None:
        self.now_s += ms / 1e3


def play(*args: Any, **more: Any) -> Played:
    """A run by itself."""
    run = playing(*args, **more)
    while True:
        try:
            next(run)
        except StopIteration as end:
            played: Played = end.value
            return played


def engine(clock: FakeTime, *, step_ms: float = 10.0, max_seqs: int = 4) -> EngineCore:
    runner = FakeRunner(prices=flat_prices(step_ms, 0.0), sleep=clock.step)
    return EngineCore(
        runner,
        batcher=BatcherConfig(policy=Policy.fcfs, step_ms=1e6, idle_step_ms=1e6),
        cache=CacheConfig(),
        max_seqs=max_seqs,
        eos_ids=(0,),
        clock=clock,
    )


def pair(uid: int, arrival_s: float, num_output: int = 3, kind: str = "chat") -> Any:
    truth = SimRequest(
        uid=uid,
        kind=kind,
        arrival_s=arrival_s,
        prompt=(Part(uid, 20),),
        num_output=num_output,
        max_tokens=num_output,
        hints=Hints(),
        answer=uid,
    )
    request = msgspec.structs.replace(truth.request(), prompt_ids=prompt_ids(truth, 0, 512))
    return truth, request


def watch(first: int, end: int, long: str | None = None) -> Watch:
    return Watch(first, end, Window(0.0, 100.0), long)


def played_run(seed: int = 1, variant: str = "plain", **changes: Any) -> Run:
    clock = FakeTime()
    core = engine(clock)
    requests = [pair(0, 0.0, 5), pair(1, 0.0, 2, kind="deep"), pair(2, 0.5, 5)]
    seen = play(core, requests, watch(0, 3), clock=clock, sleep=clock.sleep)
    fields: dict[str, Any] = {
        "regime": "mixed",
        "load": 0.95,
        "seed": seed,
        "variant": variant,
        "rate": 2.0,
        "at_s": 0.0,
        "others_cpu_share": 0.0,
    }
    return run_of(seen, core, [10.0, 20.0, 30.0], **(fields | changes))
