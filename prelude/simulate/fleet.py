"""Replicas behind a router: requests come, each is sent to one, and all clocks go on."""

from collections.abc import Callable, Sequence
from math import inf

from prelude.conf.schema import BatcherConfig
from prelude.conf.simulate import Fleet, Routing, SimDevice
from prelude.simulate.records import Recorder
from prelude.simulate.replica import Replica
from prelude.simulate.traffic import SimRequest

Progress = Callable[[float], None]
_NEWS_EVERY = 50  # requests


def nobody(fraction: float) -> None:
    """Progress that nobody watches."""


class Router:
    """See ``Routing``. Only what a front end could know is used."""

    def __init__(self, routing: Routing, replicas: Sequence[Replica]) -> None:
        self._routing = routing
        self._replicas = replicas
        self._next = 0

    def choose(self) -> Replica:
        if self._routing is Routing.round_robin:
            self._next += 1
            return self._replicas[(self._next - 1) % len(self._replicas)]
        return min(self._replicas, key=lambda replica: replica.work_ms)


def build(
    fleet: Fleet, device: SimDevice, batcher: BatcherConfig, recorder: Recorder, seed: int
) -> list[Replica]:
    """The replicas, all alike."""
    if fleet.replicas < 1:
        raise ValueError(f"fleet.replicas={fleet.replicas}: must be at least 1")
    numbers = range(fleet.replicas)
    return [Replica(number, device, batcher, recorder, seed=seed) for number in numbers]


def play(
    replicas: Sequence[Replica],
    requests: Sequence[SimRequest],
    routing: Routing,
    progress: Progress = nobody,
) -> float:
    """Run ``requests`` (in order of arrival) to the last token. Returns when that came."""
    router = Router(routing, replicas)
    for number, request in enumerate(requests):
        for replica in replicas:
            replica.advance(request.arrival_s)
        router.choose().add(request)
        if number % _NEWS_EVERY == 0:
            progress(number / len(requests))
    for replica in replicas:
        replica.advance(inf)
    progress(1.0)
    return max(replica.clock.now_s for replica in replicas)
