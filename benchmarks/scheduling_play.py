"""Open-loop traffic on a real engine in this process: requests are handed over when they are due,
between two steps, as the engine's own loop does; there is nothing else on the way. Several engines
take turns, so that a machine whose speed changes changes it for all of them.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random

import msgspec

from prelude.engine.core import EngineCore
from prelude.simulate.records import Gaps, Life, Recorder
from prelude.simulate.traffic import SimRequest
from prelude.types.request import Request, TokenEvent

FIRST_ID = 16  # below are the tokens of the chat template and the ends of sequences

_SLICE_S = 0.25

Clock = Callable[[], float]
Sleep = Callable[[float], None]


def prompt_ids(request: SimRequest, seed: int, vocab_size: int) -> list[int]:
    """Real tokens, of which no two prompts have the beginning in common."""
    rng = Random(f"{seed}/{request.uid}")
    return rng.choices(range(FIRST_ID, vocab_size), k=request.num_prompt)


def real_requests(
    requests: Sequence[SimRequest], seed: int, vocab_size: int
) -> list[tuple[SimRequest, Request]]:
    """Each with what the engine is sent; made before the run, for it takes time."""
    return [
        (
            request,
            msgspec.structs.replace(
                request.request(), prompt_ids=prompt_ids(request, seed, vocab_size)
            ),
        )
        for request in requests
    ]


class TurnClock:
    """Seconds of one engine alone: it stands while others have their turn, and idling takes no
    time. ``source`` are seconds of the host."""

    def __init__(self, source: Clock = time.monotonic) -> None:
        self._source = source
        self._passed_s = 0.0
        self._since_s: float | None = source()

    def __call__(self) -> float:
        running_s = 0.0 if self._since_s is None else self._source() - self._since_s
        return self._passed_s + running_s

    def sleep(self, seconds: float) -> None:
        self._passed_s += seconds

    def stop(self) -> None:
        self._passed_s, self._since_s = self(), None

    def go(self) -> None:
        if self._since_s is None:
            self._since_s = self._source()


@dataclass(slots=True)
class Window:
    """Tokens while the load is what it is meant to be: output, and prompts that were computed."""

    start_s: float
    end_s: float
    output_tokens: int = 0
    prompt_tokens: int = 0

    @property
    def tok_s(self) -> float:
        return (self.output_tokens + self.prompt_tokens) / (self.end_s - self.start_s)


class Watch(Recorder):
    """A recorder that also counts tokens in a window, and the gaps between tokens of others while
    a prompt of kind ``long`` is computed."""

    def __init__(self, first: int, end: int, window: Window, long: str | None = None) -> None:
        super().__init__(first, end)
        self.window = window
        self.beside_long = Gaps()
        self._long = long
        self._computing: set[int] = set()

    def arrived(self, request: SimRequest, replica: int) -> None:
        super().arrived(request, replica)
        if request.kind == self._long:
            self._computing.add(request.uid)

    def events(self, events: Iterable[TokenEvent], now_s: float) -> list[Life]:
        events = list(events)
        in_window = self.window.start_s <= now_s <= self.window.end_s
        for event in events:
            life = self.lives[event.uid]
            if not event.token_ids:
                continue
            if self._computing and life.last_s >= 0.0:
                self.beside_long.add((now_s - life.last_s) * 1e3)
            if in_window:
                self.window.output_tokens += 1
                self.window.prompt_tokens += life.truth.num_prompt if life.last_s < 0.0 else 0
            self._computing.discard(event.uid)
        return super().events(events, now_s)


@dataclass(slots=True)
class Played:
    """What was seen. ``step_ms`` are all steps, from planning to commit."""

    watch: Watch
    wall_s: float = 0.0
    busy_s: float = 0.0
    num_steps: int = 0
    step_ms: Gaps = field(default_factory=Gaps)


Playing = Generator[None, None, Played]


def playing(
    core: EngineCore,
    requests: Sequence[tuple[SimRequest, Request]],
    watch: Watch,
    *,
    clock: Clock = time.monotonic,
    sleep: Sleep = time.sleep,
    limit_s: float = 600.0,
) -> Playing:
    """Until all requests that ``watch`` counts have ended; the others are cut off then. Whoever
    takes the next item lets it go on for a step. Raises ``TimeoutError`` after ``limit_s``."""
    played = Played(watch)
    due = deque(requests)
    open_uids = {request.uid for request, _ in requests if watch.counts(request.uid)}
    start_s = clock()
    while open_uids:
        yield
        now_s = clock()
        if now_s - start_s > limit_s:
            core.abort_all()
            raise TimeoutError(f"{len(open_uids)} requests are still open after {limit_s:g} s")
        while due and start_s + due[0][0].arrival_s <= now_s:
            truth, request = due.popleft()
            watch.arrived(truth, 0)
            arrival_s = start_s + truth.arrival_s
            refused = core.add(msgspec.structs.replace(request, arrival_s=arrival_s))
            open_uids -= {life.truth.uid for life in watch.events(refused, now_s - start_s)}
        if core.has_work:
            open_uids -= _step(core, played, clock, start_s)
        elif due and not core.learn():
            sleep(max(start_s + due[0][0].arrival_s - now_s, 0.0))
    played.wall_s = clock() - start_s
    _cut_off(core)
    return played


def in_turns(runs: Sequence[tuple[Playing, TurnClock]], slice_s: float = _SLICE_S) -> list[Played]:
    """All of them to their ends, each for ``slice_s`` of its clock at a time."""
    for _, clock in runs:
        clock.stop()
    played: dict[int, Played] = {}
    while len(played) < len(runs):
        for number, (run, clock) in enumerate(runs):
            if number not in played and (end := _turn(run, clock, slice_s)) is not None:
                played[number] = end
    for _, clock in runs:
        clock.go()
    return [played[number] for number in range(len(runs))]


def _turn(run: Playing, clock: TurnClock, slice_s: float) -> Played | None:
    clock.go()
    try:
        until_s = clock() + slice_s
        while clock() < until_s:
            next(run)
    except StopIteration as end:
        found: Played = end.value
        return found
    finally:
        clock.stop()
    return None


def _step(core: EngineCore, played: Played, clock: Clock, start_s: float) -> set[int]:
    """One turn of the engine; who ended with it."""
    begun_s = clock()
    events = core.step()
    now_s = clock()
    played.num_steps += 1
    played.busy_s += now_s - begun_s
    played.step_ms.add((now_s - begun_s) * 1e3)
    return {life.truth.uid for life in played.watch.events(events, now_s - start_s)}


def _cut_off(core: EngineCore) -> None:
    core.abort_all()
    while core.has_work:
        core.step()


def sustained(
    core: EngineCore,
    requests: Sequence[tuple[SimRequest, Request]],
    num_before: int,
    *,
    ahead: int = 64,
    clock: Clock = time.monotonic,
) -> float:
    """Output tokens a second while ``ahead`` requests always wait, once the first ``num_before``
    have their memory, until the last one has come. Raises ``ValueError`` if that is too soon."""
    marks: list[tuple[float, int]] = []
    new = {request.uid for _, request in requests[:num_before]}
    num = 0
    for _, request in requests:
        while core.ledger.num_waiting >= ahead:
            events = core.step()
            num += sum(len(event.token_ids) for event in events)
            new -= {event.uid for event in events}
            if not new:
                marks.append((clock(), num))
        core.add(msgspec.structs.replace(request, arrival_s=clock()))
    _cut_off(core)
    if len(marks) < 2:
        raise ValueError(f"{len(requests)} requests are too few to see what is sustained")
    (start_s, start), (end_s, end) = marks[0], marks[-1]
    return (end - start) / (end_s - start_s)
