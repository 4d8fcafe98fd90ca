"""The state that a long run settles in. Who is found running then is mostly long, for the chance
of being found grows with the time a request stays. A run that starts empty needs as long as its
longest requests to get there; one that starts with such a crowd is there at once.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from operator import attrgetter
from random import Random

from prelude.conf.simulate import SimDevice, Traffic
from prelude.simulate.prices import price_list
from prelude.simulate.prompts import Part
from prelude.simulate.traffic import SimRequest, draw
from prelude.types.prices import PriceTable, Sums

_SAMPLE = 20_000
_ROUNDS = 200  # of the fixed point; it gains at least a fraction of its error in each
_FILL = 0.95  # of the KV pool: the crowd should be resident, not evict itself at once


@dataclass(frozen=True, slots=True)
class Crowd:
    """What a mix is like in the long run: ``sample`` are some of its requests."""

    sample: Sequence[SimRequest]
    device: SimDevice

    @property
    def mean_output(self) -> float:
        return sum(request.num_output for request in self.sample) / len(self.sample)

    @property
    def mean_context(self) -> float:
        """Of a sequence that is found decoding."""
        tokens = sum(r.num_output * (r.num_prompt + r.num_output / 2) for r in self.sample)
        return tokens / sum(request.num_output for request in self.sample)

    def num_running(self, rate: float) -> int:
        """How many decode at a time, when ``rate`` requests a second come: by Little's law, with
        the step time that so many make. No more than there is room for."""
        table = price_list(self.device)
        most = self._most()
        mean_output, context, prompt = self.mean_output, self.mean_context, self._mean_prompt()
        num = 1.0
        for _ in range(_ROUNDS):
            step_s = _step_ms(table, num, context, prompt, mean_output) / 1e3
            num = min(max(0.5 * (num + rate * mean_output * step_s), 1.0), most)
        return int(num)

    def found(self, num: int, rng: Random) -> list[SimRequest]:
        """``num`` requests as they are found running: drawn by how long they stay, each somewhere
        on its way. What it has generated counts as prompt, for that is what is in memory. All
        lengths get their share (systematic sampling), so that no crowd is odd by chance."""
        ordered = sorted(self.sample, key=attrgetter("num_output"))
        stays = list(accumulate(request.num_output for request in ordered))
        first = rng.random()
        chosen = [ordered[bisect_right(stays, (first + i) / num * stays[-1])] for i in range(num)]
        rng.shuffle(chosen)
        room = _FILL * (self.device.num_blocks - 1) * self.device.block_size
        crowd: list[SimRequest] = []
        for request in chosen:
            aged = _aged(request, rng.randrange(request.num_output))
            room -= aged.num_prompt + self.device.block_size
            if room < 0 and crowd:
                break
            crowd.append(aged)
        return crowd

    def typical(self, num: int) -> list[SimRequest]:
        """``num`` requests of the mix, of all lengths as many as there should be."""
        ordered = sorted(self.sample, key=attrgetter("num_output"))
        chosen = [ordered[int((i + 0.5) * len(ordered) / num)] for i in range(num)]
        Random(0).shuffle(chosen)
        return chosen

    def _most(self) -> float:
        tokens = _FILL * (self.device.num_blocks - 1) * self.device.block_size
        return max(min(self.device.max_seqs, tokens / self.mean_context), 1.0)

    def _mean_prompt(self) -> float:
        return sum(request.num_prompt for request in self.sample) / len(self.sample)


def crowd_of(traffic: Traffic, device: SimDevice) -> Crowd:
    """The long run of a mix; the same for every seed and load."""
    plain = replace(traffic, seed=0, load=None, rate=1.0, trace=None, num_requests=_SAMPLE)
    return Crowd(draw(plain, 1.0), device)


def _step_ms(
    table: PriceTable, num: float, context: float, prompt: float, mean_output: float
) -> float:
    """Of ``num`` rows, and of the prompts of those who take the places of the ones that end."""
    rows = max(round(num), 1)
    sums = Sums().plus_decodes(int(rows * context), ["greedy"] * rows)
    return table.step_ms(sums._replace(tokens=sums.tokens + int(rows * prompt / mean_output)))


def _aged(request: SimRequest, age: int) -> SimRequest:
    left = request.num_output - age
    said = (*request.prompt, Part(request.answer, age)) if age else request.prompt
    limit = request.max_tokens
    return replace(
        request,
        prompt=said,
        num_output=left,
        max_tokens=None if limit is None else limit - age,
        arrival_s=0.0,
    )
