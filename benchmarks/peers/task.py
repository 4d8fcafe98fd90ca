"""What every engine is asked to do, and how it is timed. Nothing here but the standard library:
this module also runs inside the peers' own environments.

Three numbers. Prefill: one prompt, one token. Batch 1: the time of D+1 tokens less the time of
one, so that the prompt drops out. Streams: many short prompts together, their prefill included.
Prompts are drawn by seed, turn and repeat: equal for all engines, never equal to an earlier one.
"""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from random import Random
from typing import Any, Protocol

Ids = list[int]
# Begins the one line of a worker's output that is its result.
MARK = "peer run: "


@dataclass(frozen=True, slots=True)
class Task:
    """Lengths in tokens. ``repeats`` timed runs follow ``warmup`` untimed ones."""

    prefill_len: int = 512
    prompt_len: int = 32
    decode_len: int = 32
    streams: int = 16
    warmup: int = 1
    repeats: int = 3
    threads: int = 2
    seed: int = 0
    turn: int = 0

    def dumps(self) -> str:
        return json.dumps(asdict(self))


class Engine(Protocol):
    """``generate`` continues all prompts together, greedily, by exactly ``num_tokens`` each."""

    name: str
    version: str
    vocab_size: int

    def generate(self, prompts: list[Ids], num_tokens: int) -> list[Ids]: ...
    def close(self) -> None: ...


def measure(
    engine: Engine,
    task: Task,
    startup_s: float,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """One ``PeerRun`` as a dictionary."""
    timer = _Timer(engine, task, clock)
    turns = range(task.warmup + task.repeats)
    prefill_ms = [timer.ms("prefill", turn, 1, task.prefill_len, 1) for turn in turns]
    decode_ms = [_decode_ms(timer, task, turn) for turn in turns]
    streams_ms = [
        timer.ms("streams", turn, task.streams, task.prompt_len, task.decode_len) for turn in turns
    ]
    skip = task.warmup
    return {
        "engine": engine.name,
        "turn": task.turn,
        "version": engine.version,
        "threads": task.threads,
        "startup_s": startup_s,
        "prefill_tok_s": _rate(task.prefill_len, prefill_ms[skip:]),
        "decode_tok_s": _rate(task.decode_len, decode_ms[skip:]),
        "streams_tok_s": _rate(task.streams * task.decode_len, streams_ms[skip:]),
        "prefill_samples_ms": prefill_ms[skip:],
        "decode_samples_ms": decode_ms[skip:],
        "streams_samples_ms": streams_ms[skip:],
        "first_ids": timer.first_ids,
    }


class _Timer:
    def __init__(self, engine: Engine, task: Task, clock: Callable[[], float]) -> None:
        self.first_ids: Ids = []
        self._engine = engine
        self._task = task
        self._clock = clock

    def ms(self, phase: str, repeat: int, count: int, length: int, num_tokens: int) -> float:
        prompts = self._prompts(f"{phase}/{repeat}", count, length)
        start = self._clock()
        outputs = self._engine.generate(prompts, num_tokens)
        elapsed_ms = (self._clock() - start) * 1e3
        lengths = {len(ids) for ids in outputs}
        if lengths != {num_tokens} or len(outputs) != count:
            raise RuntimeError(f"{self._engine.name}: asked for {count} x {num_tokens}: {lengths}")
        if phase == "decode" and not self.first_ids:
            self.first_ids = outputs[0]
        return elapsed_ms

    def _prompts(self, name: str, count: int, length: int) -> list[Ids]:
        task = self._task
        rng = Random(f"{task.seed}/{task.turn}/{name}")
        vocab = range(self._engine.vocab_size)
        return [rng.choices(vocab, k=length) for _ in range(count)]


def _decode_ms(timer: _Timer, task: Task, repeat: int) -> float:
    one_ms = timer.ms("decode one", repeat, 1, task.prompt_len, 1)
    return timer.ms("decode", repeat, 1, task.prompt_len, task.decode_len + 1) - one_ms


def _rate(num_tokens: int, samples_ms: list[float]) -> float:
    return num_tokens / statistics.median(samples_ms) * 1e3
