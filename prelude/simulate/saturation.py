"""What a fleet can sustain: fcfs with more requests than it has room for, once it is in its stride.

Loads are shares of this, and the same for every policy and every setting of the batcher, so that
what is compared was offered the same traffic.
"""

from dataclasses import replace
from functools import cache

import msgspec

from prelude.conf.schema import BatcherConfig, Policy
from prelude.conf.simulate import SimDevice, Traffic
from prelude.simulate.records import Recorder
from prelude.simulate.replica import Replica
from prelude.simulate.traffic import draw

_ROUNDS = 6  # requests for each slot
_LEAST, _MOST = 400, 3000
_SAMPLE = 10_000  # requests that tell the mean length
_WARM = 0.4  # of the time until the queue is empty
_STEP_TOKENS = 2048
_AHEAD = 64  # waiting requests


def saturation(traffic: Traffic, device: SimDevice, replicas: int) -> float:
    """Requests a second that ``replicas`` finish under ``fcfs``, while others always wait."""
    plain = replace(traffic, seed=0, load=None, rate=1.0, trace=None, num_requests=_SAMPLE)
    key = msgspec.json.encode((plain, device)).decode()
    return replicas * _measured(key)


@cache
def _measured(key: str) -> float:
    traffic, device = msgspec.json.decode(key, type=tuple[Traffic, SimDevice])
    sample = draw(traffic, 1.0)
    mean_output = sum(request.num_output for request in sample) / len(sample)
    requests = sample[: min(max(_ROUNDS * device.max_seqs, _LEAST), _MOST)]
    batcher = BatcherConfig(policy=Policy.fcfs, max_step_tokens=_STEP_TOKENS)
    recorder = Recorder(0, 0)
    engine = Replica(0, replace(device, noise=0.0), batcher, recorder)
    marks = [(0.0, 0)]  # (seconds, output tokens so far)
    for request in requests:
        while engine.core.ledger.num_waiting >= _AHEAD:
            engine.advance(engine.clock.now_s + 1e-9)
            marks.append((engine.clock.now_s, recorder.num_output))
        engine.add(replace(request, arrival_s=engine.clock.now_s))
    while engine.core.ledger.num_waiting:
        engine.advance(engine.clock.now_s + 1e-9)
        marks.append((engine.clock.now_s, recorder.num_output))
    return _rate(marks) / mean_output


def _rate(marks: list[tuple[float, int]]) -> float:
    """Tokens a second, after the start."""
    end_s, end = marks[-1]
    start_s, start = next(mark for mark in marks if mark[0] >= _WARM * end_s)
    return (end - start) / (end_s - start_s)
