"""The requests of a simulation, drawn before it from one seed: every policy gets the same ones.

Arrivals, the choice of kinds, and each kind's lengths have random streams of their own, so that a
change of one leaves the others as they were.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from random import Random

import msgspec

from prelude.bench.arrivals import draw_arrivals
from prelude.bench.prompts import draw_length
from prelude.conf.bench import Arrival, Lengths
from prelude.conf.simulate import Labels, Limit, SimArrival, SimClass, Traffic
from prelude.simulate.prompts import Part, Texts, num_tokens, token_ids
from prelude.types.request import Request, SamplingParams
from prelude.types.service import Hints

_KINDS = {
    SimArrival.poisson: Arrival.poisson,
    SimArrival.gamma: Arrival.gamma,
    SimArrival.constant: Arrival.constant,
}
_LOOSE = (2.0, 8.0)  # times the true length


@dataclass(frozen=True, slots=True)
class SimRequest:
    """One request as it truly is (``kind``, ``num_output``), and what it says of itself. Its
    answer is the text number ``answer``."""

    uid: int
    kind: str
    arrival_s: float
    prompt: tuple[Part, ...]
    num_output: int
    max_tokens: int | None
    hints: Hints
    answer: int

    @property
    def num_prompt(self) -> int:
        return num_tokens(self.prompt)

    def request(self) -> Request:
        """As the engine gets it. One whose limit is not its length ends by itself."""
        is_exact = self.max_tokens == self.num_output
        params = SamplingParams(max_tokens=self.max_tokens, temperature=0.0, ignore_eos=is_exact)
        return Request(
            uid=self.uid,
            prompt_ids=token_ids(self.prompt),
            params=params,
            arrival_s=self.arrival_s,
            hints=self.hints,
        )


@dataclass(frozen=True, slots=True)
class Start:
    """Of a conversation."""

    kind: str
    arrival_s: float
    client: str


class Drawer:
    """Draws requests of a mix. Raises ``ValueError`` for a mix that makes no sense."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self.classes = {name: c for name, c in traffic.classes.items() if c.weight > 0}
        if not self.classes or any(c.weight < 0 for c in traffic.classes.values()):
            raise ValueError("traffic.classes: needs weights of 0 or more, one of them positive")
        self._texts = Texts()
        self._lengths = {name: self.stream(f"lengths/{name}") for name in self.classes}
        self._labels = self.stream("labels")
        self._limits = self.stream("limits")
        self._prefixes = {
            name: [self._texts.part(c.prefix_len) for _ in range(c.num_prefixes)]
            for name, c in self.classes.items()
        }

    def stream(self, purpose: str) -> Random:
        return Random(f"{self._traffic.seed}/{purpose}")

    def conversation(self, start: Start, rng: Random) -> Iterator[SimRequest]:
        """Its turns; what was said before is the beginning of the next prompt. They come when they
        come: nobody waits for an answer. uids are given later."""
        kind = self.classes[start.kind]
        prefix = rng.choice(self._prefixes[start.kind])
        said: tuple[Part, ...] = (prefix,) if prefix.length else ()
        arrival_s = start.arrival_s
        for _ in range(kind.turns):
            lengths = self._lengths[start.kind]
            said = (*said, self._texts.part(self._length(kind.prompt, lengths)))
            answer = self._texts.part(self._length(kind.output, lengths))
            yield self.request(start, arrival_s, said, answer)
            said = (*said, answer)
            arrival_s += rng.expovariate(1.0 / kind.think_s) if kind.think_s else 0.0

    def request(
        self, start: Start, arrival_s: float, prompt: tuple[Part, ...], answer: Part
    ) -> SimRequest:
        return SimRequest(
            uid=0,
            kind=start.kind,
            arrival_s=arrival_s,
            prompt=prompt,
            num_output=answer.length,
            max_tokens=self._limit(answer.length),
            hints=self._hints(start),
            answer=answer.text,
        )

    def text(self, length: int) -> Part:
        return self._texts.part(length)

    def _length(self, lengths: Lengths, rng: Random) -> int:
        return max(round(draw_length(lengths, rng) * self._traffic.length_scale), 1)

    def _limit(self, num_output: int) -> int | None:
        match self._traffic.limit:
            case Limit.exact:
                return num_output
            case Limit.loose:
                return int(num_output * self._limits.uniform(*_LOOSE)) + 1
            case Limit.none:
                return None

    def _hints(self, start: Start) -> Hints:
        """The labels of its kind, or of another one if it lies."""
        if self._traffic.labels is Labels.none:
            return Hints(client=start.client)
        others = [name for name in self.classes if name != start.kind]
        draw = self._labels.random()
        lies = self._traffic.labels is Labels.lies or draw < self._traffic.label_error
        label = self._labels.choice(others) if lies and others else start.kind
        return hints_of(self.classes[label], start.client, template=label)


def hints_of(kind: SimClass, client: str, template: str) -> Hints:
    """Raises ``ValueError`` for a label that does not exist."""
    labels = {
        "service_class": kind.service_class,
        "reasoning": kind.reasoning,
        "priority": kind.priority,
        "is_bounded": kind.bounded,
        "client": client,
        "template": template,
    }
    return msgspec.convert(labels, Hints)


def draw(traffic: Traffic, rate: float) -> list[SimRequest]:
    """``num_requests`` requests in order of arrival, at ``rate`` requests a second."""
    drawer = Drawer(traffic)
    kinds, clients = drawer.stream("kinds"), drawer.stream("clients")
    names, weights = list(drawer.classes), [c.weight for c in drawer.classes.values()]
    turns = sum(w * c.turns for w, c in zip(weights, drawer.classes.values(), strict=True))
    starts = []
    for arrival_s in arrivals(traffic, rate * sum(weights) / turns, drawer.stream("arrivals")):
        name = kinds.choices(names, weights)[0]
        client = f"{name}-{clients.randrange(drawer.classes[name].clients)}"
        starts.append(Start(name, arrival_s, client))
    threads = drawer.stream("conversations")
    found = chain.from_iterable(drawer.conversation(start, threads) for start in starts)
    return numbered(sorted(found, key=lambda r: r.arrival_s)[: traffic.num_requests])


def numbered(requests: list[SimRequest]) -> list[SimRequest]:
    return [replace(request, uid=uid) for uid, request in enumerate(requests)]


def arrivals(traffic: Traffic, rate: float, rng: Random) -> list[float]:
    """Ascending seconds of ``num_requests`` arrivals. Raises ``ValueError``."""
    if traffic.arrival is SimArrival.onoff:
        return _onoff(traffic, rate, rng)
    if traffic.cv <= 0:
        raise ValueError(f"traffic.cv={traffic.cv}: must be positive")
    return draw_arrivals(
        _KINDS[traffic.arrival],
        traffic.num_requests,
        rate=rate,
        burstiness=traffic.cv**-2,
        rng=rng,
    )


def _onoff(traffic: Traffic, rate: float, rng: Random) -> list[float]:
    """Poisson bursts of exponential length between silent pauses, of mean ``rate`` in all."""
    if traffic.on_s <= 0 or traffic.off_s < 0:
        raise ValueError("traffic.on_s, traffic.off_s: must be positive, and 0 or more")
    busy_rate = rate * (traffic.on_s + traffic.off_s) / traffic.on_s
    times: list[float] = []
    start_s = 0.0
    while len(times) < traffic.num_requests:
        end_s = start_s + rng.expovariate(1.0 / traffic.on_s)
        now_s = start_s + rng.expovariate(busy_rate)
        while now_s < end_s and len(times) < traffic.num_requests:
            times.append(now_s)
            now_s += rng.expovariate(busy_rate)
        start_s = end_s + (rng.expovariate(1.0 / traffic.off_s) if traffic.off_s else 0.0)
    return times
