"""What a decision costs: ``schedule`` with 64 sequences running and 200 waiting, by policy.

    python -m benchmarks.scheduling_decide --output benchmarks/results/cpu/scheduling_decide.json

The real engine with real queues, of chat, reasoning and documents of several clients, on a runner
that makes up the tokens; slots or memory are full, so that everybody is looked at and, once those
who may make room have done so, nobody gets in. Microseconds: the median of 40 steps in the best of
10 turns (others may use the machine), and the 99th percentile there.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import numpy as np
import torch

from benchmarks.host_runner import HostRunner
from prelude.batcher.view import Policy, PolicyState, ScheduleConfig, SystemView
from prelude.bench.observer import Observer
from prelude.conf.schema import BatcherConfig, CacheConfig
from prelude.conf.schema import Policy as PolicyName
from prelude.engine.core import EngineCore
from prelude.engine.policies import POLICIES
from prelude.types.plan import Plan
from prelude.types.prices import PriceTable
from prelude.types.request import Request, SamplingParams
from prelude.types.service import Hints

RUNNING, WAITING = 64, 200
BLOCK, TURNS, SETTLE = 40, 10, 60
PROMPTS = {"chat": 60, "deep": 100, "doc": 1500}
SHARES = (0.75, 0.22, 0.03)


class Stopwatch:
    """A policy, and what each decision takes in microseconds of a core. None is used again, so that
    there is one for every step."""

    def __init__(self, policy: Policy) -> None:
        self.us: list[float] = []
        self._policy = policy

    def __call__(
        self, view: SystemView, state: PolicyState, prices: PriceTable, config: ScheduleConfig
    ) -> tuple[Plan, PolicyState]:
        start_ns = time.thread_time_ns()
        plan, state = self._policy(view, state, prices, config)
        self.us.append((time.thread_time_ns() - start_ns) / 1e3)
        return replace(plan, holds_for=1), state


class CoarseRunner(HostRunner):
    """Its blocks are so large that streams can go on for a while where memory is full."""

    block_size = 1024


def requests(count: int, first_uid: int, rng: Random) -> Iterator[Request]:
    """Prompts of which no two begin alike; answers that never end here."""
    params = SamplingParams(max_tokens=2000, temperature=0.0, ignore_eos=True)
    for uid in range(first_uid, first_uid + count):
        (kind,) = rng.choices(list(PROMPTS), SHARES)
        hints = Hints(
            client=f"{kind}-{rng.randrange(8)}",
            service_class="deep" if kind == "deep" else None,
            priority=int(kind != "chat"),
        )
        prompt = [uid + 1, *range(1000, 999 + PROMPTS[kind])]
        yield Request(uid=uid, prompt_ids=prompt, params=params, hints=hints)


def crowded(policy: PolicyName, *, full: str, seed: int = 0) -> tuple[EngineCore, Stopwatch]:
    """``RUNNING`` sequences that decode and ``WAITING`` others; ``full`` is what there is no more
    of."""
    rng = Random(seed)
    watch = Stopwatch(POLICIES[policy])
    runner = CoarseRunner(depth=1, max_seqs=4 * RUNNING, num_blocks=4000, max_len=4096)
    core = EngineCore(
        runner,
        batcher=BatcherConfig(
            policy=policy, max_step_tokens=10**6, step_ms=1e9, idle_step_ms=1e9, headroom=0
        ),
        cache=CacheConfig(),
        max_seqs=RUNNING if full == "slots" else 4 * RUNNING,
        eos_ids=(0,),
        policy=watch,
    )
    add(core, requests(RUNNING, 0, rng))
    while any(not seq.is_decoding for seq in core.ledger.running) or not core.ledger.num_running:
        core.step()
    if full == "memory":
        core.ledger.pool.allocate(core.ledger.num_available_blocks)
    add(core, requests(WAITING, RUNNING, rng))
    return core, watch


def add(core: EngineCore, found: Iterator[Request]) -> None:
    for request in found:
        assert not core.add(request)


def decision_us(policy: PolicyName, *, full: str) -> dict[str, Any]:
    """Median and 99th percentile of one decision, and whom it was about."""
    core, watch = crowded(policy, full=full)
    for _ in range(SETTLE):
        core.step()
    turns = []
    for _ in range(TURNS):
        watch.us.clear()
        for _ in range(BLOCK):
            core.step()
        turns.append(list(watch.us))
    best = min(turns, key=lambda us: float(np.median(us)))
    return {
        "p50": float(np.median(best)),
        "p99": float(np.percentile(best, 99)),
        "running": core.ledger.num_running,
        "waiting": core.ledger.num_waiting,
    }


def table(document: dict[str, Any]) -> str:
    """A result as rows; microseconds of a core."""
    heads = "policy | slots are full: p50 | p99 | memory is full: p50 | p99 | required / aim"
    rows = [f"| {heads} |\n|{'---|' * 6}\n"]
    for policy, of in document["schedule_us"].items():
        numbers = [f"{of[full][p]:.0f}" for full in ("slots", "memory") for p in ("p50", "p99")]
        asked = "200 / 80" if policy == PolicyName.class_aware else ""
        rows.append(f"| {policy} | {' | '.join(numbers)} | {asked} |\n")
    title = f"{RUNNING} running, {WAITING} waiting: microseconds of one `schedule()`"
    return f"\n**{title}** (`python -m benchmarks.scheduling_decide`):\n\n{''.join(rows)}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    observer = Observer(None)
    measured = {
        policy.value: {full: decision_us(policy, full=full) for full in ("slots", "memory")}
        for policy in PolicyName
    }
    environment = msgspec.to_builtins(observer.finish())
    line = json.dumps({"environment": environment, "schedule_us": measured})
    print(line)
    if options.output:
        options.output.write_text(line + "\n")


if __name__ == "__main__":
    main()
