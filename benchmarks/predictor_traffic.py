"""Real answers to learn lengths from, collected once:

    python -m benchmarks.predictor_traffic --output benchmarks/results/cpu/predictor_traffic.jsonl

Clients with different habits ask the bundled model what it was trained for, and it answers to its
own end of sequence. Prompts are a function of the seed, so that the file holds only what the model
made of them: a first line that says what was run, with a digest of all prompts, and a line
``[client, limit, output tokens, finish reason]`` a request.
"""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from benchmarks.demo.chat import with_history
from benchmarks.demo.lexicon import SYSTEMS
from benchmarks.demo.problem import Problem
from benchmarks.demo.tasks import CHAT, LISTS, MIX, SHORT, THINKING, decorate, draw
from prelude.bench import machine
from prelude.conf.load import load_config
from prelude.conf.schema import ModelConfig
from prelude.engine.build import build_engine
from prelude.models.tokenizer import load_tokenizer
from prelude.types.prices import PriceTable
from prelude.types.request import FinishReason, Request, SamplingParams
from prelude.types.service import Hints

VERSION = 1
COUNT, SEED = 6000, 11


@dataclass(frozen=True, slots=True)
class Habit:
    """What a client asks: ``tasks`` with their frequencies, and how. ``then`` are its tasks in the
    second half of the traffic; a ``fresh`` client comes under a new name every time."""

    weight: float
    tasks: dict[str, float]
    system: str = ""
    max_tokens: int | None = None
    temperature: float = 0.0
    history: float = 0.0
    direct: float = 0.0
    then: dict[str, float] | None = None
    is_decorated: bool = False
    is_fresh: bool = False


HABITS: dict[str, Habit] = {
    "quiz": Habit(25, {"fact": 3, "yes_no": 3, "times": 1}, SYSTEMS[2], max_tokens=64),
    "shop": Habit(14, dict.fromkeys(["convert", "json", "compare", "echo"], 1), SYSTEMS[0]),
    "tutor": Habit(13, dict.fromkeys(THINKING, 1), temperature=0.6),
    "pupil": Habit(10, dict.fromkeys(THINKING, 1), direct=0.5),
    "lister": Habit(8, dict.fromkeys(LISTS, 1), SYSTEMS[3], max_tokens=512),
    "chatter": Habit(8, dict.fromkeys(CHAT, 1), temperature=0.9, history=0.5),
    "capped": Habit(4, {"sort": 1, "count": 1, "spell": 2}, max_tokens=48),
    "drifter": Habit(6, dict.fromkeys(SHORT, 1), then={"sort": 1, "count": 1, "addition": 1}),
    "": Habit(6, MIX, is_decorated=True, temperature=0.7),
    "visitor": Habit(6, MIX, is_decorated=True, is_fresh=True),
}


def requests(count: int, seed: int = SEED) -> Iterator[Request]:
    """The traffic in order of arrival."""
    rng = Random(seed)
    tokenizer = load_tokenizer(ModelConfig())
    weights = [habit.weight for habit in HABITS.values()]
    for uid, name in enumerate(rng.choices(list(HABITS), weights, k=count)):
        habit = HABITS[name]
        problem, system = _problem(rng, habit, late=uid >= count // 2), habit.system
        messages = [{"role": turn.role, "content": turn.content} for turn in problem.turns[:-1]]
        if system:
            messages.insert(0, {"role": "system", "content": system})
        template = blake2b(system.encode(), digest_size=8).hexdigest() if system else ""
        switches = {"enable_thinking": False} if problem.mode == "no_think" else {}
        yield Request(
            uid=uid,
            prompt_ids=tokenizer.encode_chat(messages, template_kwargs=switches),
            params=SamplingParams(
                max_tokens=habit.max_tokens, temperature=habit.temperature, seed=uid
            ),
            hints=Hints(client=f"{name}{uid}" if habit.is_fresh else name, template=template),
        )


def _problem(rng: Random, habit: Habit, *, late: bool) -> Problem:
    tasks = habit.then if late and habit.then else habit.tasks
    problem = draw(rng, rng.choices(list(tasks), list(tasks.values()))[0], "test")
    if habit.is_decorated:
        return decorate(rng, problem)
    if rng.random() < habit.history:
        problem = replace(with_history(rng, problem, list(SHORT.values())), task=problem.task)
    if rng.random() < habit.direct:
        problem = problem.direct(rng.choice(("no_think", "cue")), problem.task)
    return problem


def digest(traffic: list[Request]) -> str:
    total = blake2b(digest_size=12)
    for request in traffic:
        total.update(json.dumps([request.prompt_ids, request.params.max_tokens]).encode())
    return total.hexdigest()


def answers(traffic: list[Request]) -> tuple[list[tuple[int, FinishReason]], PriceTable]:
    """Output tokens and finish reason of every request, by its number, and the prices learned."""
    core, _ = build_engine(load_config({"model.path": "demo"}))
    waiting, found = iter(traffic), dict[int, tuple[int, FinishReason]]()
    lengths, pending = [0] * len(traffic), next(waiting, None)
    while pending or core.has_work:
        while pending and core.can_queue(1):
            assert not core.add(pending)
            pending = next(waiting, None)
        for event in core.step():
            lengths[event.uid] += len(event.token_ids)
            if event.finish_reason:
                found[event.uid] = lengths[event.uid], event.finish_reason
    prices = core.profile.prices.table
    core.close()
    return [found[request.uid] for request in traffic], prices


class Traffic(msgspec.Struct, frozen=True):
    """Requests in order of arrival, and how many tokens each was answered with."""

    requests: list[Request]
    lengths: list[int]
    prices: PriceTable


def read_traffic(path: Path) -> Traffic:
    """Raises ``ValueError`` if the prompts are not those that the file was made with."""
    head, *lines = [json.loads(line) for line in path.read_text().splitlines()]
    made = list(requests(head["count"], head["seed"]))
    if head["version"] != VERSION or head["digest"] != digest(made):
        raise ValueError(f"{path}: the prompts have changed since; make it again")
    prices = msgspec.convert(head["prices"], PriceTable)
    return Traffic(made, [num_tokens for _, _, num_tokens, _ in lines], prices)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--count", type=int, default=COUNT)
    args = parser.parse_args()
    start_s = time.perf_counter()
    traffic = list(requests(args.count))
    head: dict[str, Any] = {
        "version": VERSION,
        "command": shlex.join(["python", "-m", "benchmarks.predictor_traffic", *sys.argv[1:]]),
        "versions": machine.versions(),
        "count": args.count,
        "seed": SEED,
        "digest": digest(traffic),
    }
    found, prices = answers(traffic)
    head["prices"] = msgspec.to_builtins(replace(prices, scale=1.0))
    head["wall_s"] = round(time.perf_counter() - start_s, 1)
    lines = [
        [request.hints.client, request.params.max_tokens, num_tokens, reason]
        for request, (num_tokens, reason) in zip(traffic, found, strict=True)
    ]
    args.output.write_text("".join(json.dumps(line) + "\n" for line in [head, *lines]))


if __name__ == "__main__":
    main()
