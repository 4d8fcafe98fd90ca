"""What a fleet can sustain: fcfs with more requests than it has room for, in the state that a long
run settles in.

Loads are shares of this, and the same for every policy and every setting of the batcher, so that
what is compared was offered the same traffic.
"""

from dataclasses import replace
from functools import cache
from random import Random

import msgspec

from prelude.conf.schema import BatcherConfig, Policy
from prelude.conf.simulate import SimDevice, Traffic
from prelude.simulate.records import Recorder
from prelude.simulate.replica import Replica
from prelude.simulate.stationary import crowd_of

_ROUNDS = 3  # requests for each slot
_LEAST, _MOST = 300, 1000
_STEP_TOKENS = 2048
_AHEAD = 64  # waiting requests


def saturation(traffic: Traffic, device: SimDevice, replicas: int) -> float:
    """Requests a second that ``replicas`` finish under ``fcfs``, while others always wait."""
    plain = replace(traffic, seed=0, load=None, rate=1.0, trace=None, num_requests=1)
    key = msgspec.json.encode((plain, replace(device, noise=0.0))).decode()
    return replicas * _measured(key)


@cache
def _measured(key: str) -> float:
    traffic, device = msgspec.json.decode(key, type=tuple[Traffic, SimDevice])
    crowd = crowd_of(traffic, device)
    first = crowd.found(device.max_seqs, Random(0))
    more = crowd.typical(min(max(_ROUNDS * device.max_seqs, _LEAST), _MOST))
    recorder = Recorder(0, 0)
    batcher = BatcherConfig(policy=Policy.fcfs, max_step_tokens=_STEP_TOKENS)
    engine = Replica(0, device, batcher, recorder)
    marks: list[tuple[float, int]] = []  # (seconds, output tokens so far), once all are there
    for uid, request in enumerate([*first, *more]):
        while engine.core.ledger.num_waiting >= _AHEAD:
            engine.advance(engine.clock.now_s + 1e-9)
            if marks or _are_there(recorder, len(first)):
                marks.append((engine.clock.now_s, recorder.num_output))
        engine.add(replace(request, uid=uid, arrival_s=engine.clock.now_s))
    (start_s, start), (end_s, end) = marks[0], marks[-1]
    return (end - start) / (end_s - start_s) / crowd.mean_output


def _are_there(recorder: Recorder, num: int) -> bool:
    """True when the crowd has its memory again."""
    return all(recorder.lives[uid].ready_s >= 0.0 for uid in range(num))
