"""What a training dialogue is, and the rule that decides which dialogues are held out."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import blake2b
from random import Random
from typing import Literal

Mode = Literal["auto", "no_think", "cue"]
Split = Literal["train", "test"]
CUE = " /no_think"
HELD_OUT_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Turn:
    role: str
    content: str
    reasoning: str = ""


@dataclass(frozen=True, slots=True)
class Problem:
    """One dialogue whose last turn is the answer under test.

    ``keys`` name, in canonical form, what the dialogue could leak: the last is the problem itself,
    earlier ones are problems that its earlier turns or its working solve along the way. ``mode``
    says how the answer is asked for: ``auto`` (the model decides whether to think), ``no_think``
    (the template closes an empty think block) or ``cue`` (the user writes /no_think).
    """

    task: str
    keys: tuple[str, ...]
    turns: tuple[Turn, ...]
    mode: Mode = "auto"

    @property
    def answer(self) -> str:
        return self.turns[-1].content

    def direct(self, mode: Mode, task: str) -> "Problem":
        """The same problem answered without working, reported as ``task``."""
        *history, question, reply = self.turns
        if mode == "cue":
            question = replace(question, content=question.content + CUE)
        turns = (*history, question, replace(reply, reasoning=""))
        return replace(self, task=task, turns=turns, mode=mode)


# Draws a problem; the level in [0, 1] is the curriculum's: 0 easy, 1 as evaluated.
Generator = Callable[[Random, float], Problem]


def held_out(key: str) -> bool:
    """A tenth of all keys, by hash: no list of problems has to be kept to stay disjoint."""
    digest = blake2b(key.encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") < HELD_OUT_SHARE * 2**32


def in_split(problem: Problem, split: Split) -> bool:
    """Training sees no held-out key, not even on the way; a test problem is held out itself."""
    if split == "test":
        return held_out(problem.keys[-1])
    return not any(held_out(key) for key in problem.keys)


def ask(task: str, key: str, question: str, answer: str, reasoning: str = "") -> Problem:
    """A dialogue of one question and one answer."""
    turns = (Turn("user", question), Turn("assistant", answer, reasoning))
    return Problem(task, (key,), turns)
