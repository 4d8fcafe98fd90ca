"""The tasks of the demo model and their mix, drawn from one split."""

from random import Random

from benchmarks.demo import chat, long, short
from benchmarks.demo.lexicon import SYSTEMS
from benchmarks.demo.problem import Generator, Mode, Problem, Split, Turn, in_split

SHORT: dict[str, Generator] = {
    "fact": short.fact,
    "yes_no": short.yes_no,
    "arithmetic": short.arithmetic,
    "times": short.times,
    "compare": short.compare,
    "spell": short.spell,
    "echo": short.echo,
    "json": short.extract,
    "convert": short.convert,
}
THINKING: dict[str, Generator] = {
    "addition": long.addition,
    "sort": long.sort,
    "count": long.count,
    "sum": long.sum_steps,
}
EASY: dict[str, Generator] = {
    "addition_direct": long.addition_easy,
    "sort_direct": long.sort_easy,
    "count_direct": long.count_easy,
    "sum_direct": long.sum_easy,
}
LISTS: dict[str, Generator] = {
    "continue": long.continue_list,
    "range": long.count_range,
    "countdown": long.countdown,
}
CHAT: dict[str, Generator] = {
    "recall": chat.recall,
    "followup": chat.followup,
    "persona": chat.persona,
    "unknown": chat.unknown,
}
TASKS: dict[str, Generator] = {**SHORT, **THINKING, **EASY, **LISTS, **CHAT}

# Relative frequency of dialogues once the curriculum has ended.
MIX: dict[str, float] = {
    "fact": 7, "yes_no": 14, "arithmetic": 40, "times": 2, "compare": 3, "spell": 3, "echo": 4,
    "json": 2, "convert": 3, "addition": 6, "sort": 9, "count": 7, "sum": 5,
    "addition_direct": 2, "sort_direct": 1, "count_direct": 1, "sum_direct": 1, "continue": 4,
    "range": 6, "countdown": 1.5, "recall": 2, "followup": 4, "persona": 1.5, "unknown": 1,
}  # fmt: skip
# At the start: copying and look-up in short lines, from which the rest is built.
WARM_UP: dict[str, float] = {
    "echo": 10, "spell": 4, "recall": 5, "json": 4, "fact": 2, "yes_no": 2, "arithmetic": 3,
    "sort": 2, "count": 2, "range": 2, "persona": 0.5,
}  # fmt: skip


def draw(rng: Random, task: str, split: Split, level: float = 1.0) -> Problem:
    """A problem of ``task`` from ``split``; only short tasks and easy variants skip thinking."""
    while True:
        problem = TASKS[task](rng, level)
        if in_split(problem, split):
            break
    if task in EASY:
        modes: tuple[Mode, ...] = ("no_think", "no_think", "cue")
        return problem.direct(rng.choice(modes), task)
    return problem


def decorate(rng: Random, problem: Problem) -> Problem:
    """Training variety: earlier exchanges, a system prompt, short tasks asked not to think."""
    if rng.random() < 0.12:
        earlier = chat.with_history(rng, problem, [*SHORT.values(), *CHAT.values()])
        problem = Problem(problem.task, earlier.keys, earlier.turns, problem.mode)
    if problem.task not in THINKING and problem.mode == "auto" and rng.random() < 0.25:
        problem = problem.direct("no_think" if rng.random() < 0.7 else "cue", problem.task)
    if rng.random() < 0.15:
        turns = (Turn("system", rng.choice(SYSTEMS)), *problem.turns)
        problem = Problem(problem.task, problem.keys, turns, problem.mode)
    return problem


def training_problem(rng: Random, level: float) -> Problem:
    """A decorated training problem of the mix at ``level``; ``level`` 0 is the warm-up mix."""
    mix = WARM_UP if rng.random() > 0.2 + level * 2 else MIX
    task = rng.choices(list(mix), weights=list(mix.values()))[0]
    while True:
        problem = decorate(rng, draw(rng, task, "train", level))
        if in_split(problem, "train"):
            return problem
