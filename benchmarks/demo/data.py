"""Packed training rows: every batch is a function of (seed, step, worker), so a run can resume."""

from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from torch import Tensor

from benchmarks.demo import tasks
from benchmarks.demo.problem import Problem, Turn
from benchmarks.demo.tokenizer import Encoder

MISSES = 6  # dialogues that fit nowhere before a batch counts as full


@dataclass(frozen=True, slots=True)
class Batch:
    """``tokens``, ``targets`` and ``documents`` int64, ``weights`` float32, all [rows, length].

    Where there is no loss the target is -1 and the weight 0.
    """

    tokens: Tensor
    targets: Tensor
    weights: Tensor
    documents: Tensor

    @property
    def num_targets(self) -> int:
        return int((self.targets >= 0).sum())


class Rows:
    """Rows being filled with whole dialogues, first fit."""

    def __init__(self, rows: int, length: int) -> None:
        self.length = length
        self.used = [0] * rows
        self.tokens = np.zeros((rows, length), dtype=np.int64)
        self.targets = np.full((rows, length), -1, dtype=np.int64)
        self.weights = np.zeros((rows, length), dtype=np.float32)
        self.documents = np.zeros((rows, length), dtype=np.int64)
        self.count = 0

    def add(self, ids: list[int], learnt: list[float]) -> bool:
        size = len(ids)
        row = next((i for i, used in enumerate(self.used) if used + size <= self.length), None)
        if row is None:
            return False
        used = self.used[row]
        self.count += 1
        self.tokens[row, used : used + size] = ids
        # The target of a position is the next token, if the model is to say that one.
        self.weights[row, used : used + size - 1] = learnt[1:]
        wanted = np.where(np.array(learnt[1:]) > 0, ids[1:], -1)
        self.targets[row, used : used + size - 1] = wanted
        self.documents[row, used : used + size] = self.count
        self.used[row] += size
        return True

    def batch(self) -> Batch:
        arrays = (self.tokens, self.targets, self.weights, self.documents)
        return Batch(*(torch.from_numpy(array) for array in arrays))


def packed(encoder: Encoder, rng: Random, level: float, rows: int, length: int) -> Batch:
    """Training dialogues that do not see each other."""
    filled, misses = Rows(rows, length), 0
    while misses < MISSES:
        ids, learnt = encoder.dialogue(tasks.training_problem(rng, level))
        misses += not filled.add(ids, learnt)
    return filled.batch()


def conversations(encoder: Encoder, rng: Random, level: float, rows: int, length: int) -> Batch:
    """Long chats of mixed exchanges, so that far positions mean something too."""
    filled, misses = Rows(rows, length), 0
    while misses < 2:
        wanted = rng.randint(length // 4, length - 1)
        turns: tuple[Turn, ...] = ()
        kept: tuple[list[int], list[float]] | None = None
        while True:
            problem = tasks.training_problem(rng, level)
            if turns and problem.turns[0].role == "system":
                continue
            turns += problem.turns
            candidate = encoder.dialogue(Problem("chat", (), turns, problem.mode))
            if len(candidate[0]) > wanted:
                break
            kept = candidate
        if kept is not None:
            misses += not filled.add(*kept)
    return filled.batch()


def held_out(encoder: Encoder, seed: int, batches: int, rows: int, length: int) -> list[Batch]:
    """Fixed batches of held-out problems in the proportions of the mix."""
    rng, result = Random(seed), []
    for _ in range(batches):
        filled, misses = Rows(rows, length), 0
        while misses < MISSES:
            task = rng.choices(list(tasks.MIX), weights=list(tasks.MIX.values()))[0]
            misses += not filled.add(*encoder.dialogue(tasks.draw(rng, task, "test")))
        result.append(filled.batch())
    return result
