"""How well a newcomer's first token is foretold, and what letting in and refusing costs:

    python -m benchmarks.admission --output benchmarks/results/cpu/admission.json

The engine's own core on a simulated device (``prelude.simulate``): every request's foretold time
to first token, as it was when it came, against the real one. Then microseconds of CPU: of refusals
with 1,024 requests waiting, and of charging a decode launch of 64 rows to eight clients.
"""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import msgspec
import numpy as np

from benchmarks.predictor_replay import spearman
from prelude.batcher.admission import Admission
from prelude.batcher.fairness import Account, Fairness
from prelude.batcher.sequence import Sequence
from prelude.bench import machine
from prelude.conf.command import SIMULATE
from prelude.conf.load import load
from prelude.conf.schema import BatcherConfig, CacheConfig, Policy
from prelude.conf.simulate import SimulateConfig
from prelude.engine import core as core_module
from prelude.engine.core import EngineCore
from prelude.runner.fake import FakeRunner
from prelude.simulate.run import simulate
from prelude.types.plan import BucketKey, Launch, Row
from prelude.types.prices import flat_prices
from prelude.types.request import Request, SamplingParams
from prelude.types.service import Hints

NUM_REQUESTS = 1500
LOAD = 0.9
NUM_WAITING = 1024
REPEATS = 2000
LEAST = 20  # of a class, or nothing is said of it


@dataclass(slots=True)
class Told:
    name: str
    foretold_ms: float
    real_ms: float


def foretold(policy: str, device: str) -> dict[str, dict[str, float]]:
    """Of every class: real and foretold milliseconds, and by what factor these differ."""
    told: list[Told] = []

    class Watched(Admission):
        def answered(self, seq: Sequence) -> None:
            name = seq.waited_as or seq.service_class
            if seq.leader is None and seq.first_token_s is not None:
                wait_ms = seq.wait_ms * self._waits[name].ratio
                real_ms = (seq.first_token_s - seq.arrival_s) * 1e3
                told.append(Told(name, wait_ms + seq.own_ms, real_ms))
            super().answered(seq)

    options = [f"batcher.policy={policy}", f"device={device}", f"traffic.load={LOAD}"]
    options += ["mix=m1", f"traffic.num_requests={NUM_REQUESTS}"]
    with patch.object(core_module, "Admission", Watched):
        simulate(load(SIMULATE, SimulateConfig, options))
    told = told[-NUM_REQUESTS:]  # what comes before finds out what the load is
    names = sorted({one.name for one in told})
    return {name: found for name in names if (found := score(told, name))}


def score(told: list[Told], name: str) -> dict[str, float]:
    mine = [one for one in told if one.name == name]
    if len(mine) < LEAST:
        return {}
    real_ms = np.array([one.real_ms for one in mine])
    foretold_ms = np.array([one.foretold_ms for one in mine])
    error = np.abs(np.log((foretold_ms + 1.0) / (real_ms + 1.0)))
    found = {
        "num": len(mine),
        "real_p50_ms": np.median(real_ms),
        "real_p99_ms": np.quantile(real_ms, 0.99),
        "foretold_p50_ms": np.median(foretold_ms),
        "foretold_p99_ms": np.quantile(foretold_ms, 0.99),
        "factor_p50": np.exp(np.median(error)),
        "factor_p90": np.exp(np.quantile(error, 0.9)),
        "spearman": spearman(foretold_ms, real_ms),
    }
    return {key: round(float(value), 3) for key, value in found.items()}


def cpu_us(function: Callable[[int], object]) -> float:
    start_s = time.process_time()
    for number in range(REPEATS):
        function(number)
    return round((time.process_time() - start_s) / REPEATS * 1e6, 2)


def crowded(policy: Policy, max_waiting: int) -> EngineCore:
    """An engine with a long queue, which never takes a step."""
    runner = FakeRunner(num_blocks=40_000, max_len=4000, vocab_size=512)
    engine = EngineCore(
        runner,
        batcher=BatcherConfig(policy=policy, max_waiting=max_waiting),
        cache=CacheConfig(),
        max_seqs=64,
        eos_ids=(0,),
        seed=0,
    )
    for uid in range(NUM_WAITING):
        assert not engine.add(asked(uid, 100))
    return engine


def asked(uid: int, num_prompt: int, hints: Hints | None = None) -> Request:
    params = SamplingParams(temperature=0, max_tokens=4)
    return Request(uid=uid, prompt_ids=[1] * num_prompt, params=params, hints=hints or Hints())


def refusals() -> dict[str, float]:
    found = {}
    for policy in (Policy.fcfs, Policy.class_aware):
        for num_prompt in (16, 1000):
            full, late = crowded(policy, NUM_WAITING), crowded(policy, 2 * NUM_WAITING)
            hints = Hints(ttft_deadline_ms=0.01)
            found[f"queue_full {policy} {num_prompt}"] = refusal_us(full, num_prompt)
            found[f"ttft_infeasible {policy} {num_prompt}"] = refusal_us(late, num_prompt, hints)
    return found


def refusal_us(engine: EngineCore, num_prompt: int, hints: Hints | None = None) -> float:
    requests = [asked(10_000 + number, num_prompt, hints) for number in range(REPEATS)]
    found = cpu_us(lambda number: engine.add(requests[number]))
    assert sum(engine.stats().refused) == REPEATS
    return found


@dataclass(slots=True)
class _Owner:
    account: Account


def charging() -> float:
    fairness, prices = Fairness(10.0), flat_prices()
    owners = [_Owner(fairness.open(str(number % 8))) for number in range(64)]
    rows = tuple(Row(number, number, 500 + number, 1) for number in range(64))
    launch = Launch(BucketKey("decode", 64, 64), rows, 0.0)
    return cpu_us(lambda number: fairness.charge(launch, owners, 20.0, prices))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    before = machine.quietness()
    result = {
        "command": shlex.join(["python", "-m", "benchmarks.admission", *sys.argv[1:]]),
        "versions": machine.versions(),
        "host_cpu": machine.host_cpu(),
        "quiet": msgspec.to_builtins(before),
        "refusal_us": refusals(),
        "charge_64_rows_us": charging(),
        "ttft": {
            f"{policy} {device}": foretold(policy, device)
            for device in ("h200_8b", "h200_32b")
            for policy in ("fcfs", "class_aware")
        },
    }
    args.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
