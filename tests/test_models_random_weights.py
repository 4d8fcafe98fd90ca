"""Random weights: the same for a seed, normal, converted, endless."""

import pytest
import torch

from prelude.models import random_weights
from prelude.models.random_weights import RandomWeights
from tests.model_samples import CPU


def numbers(seed: int, *sizes: int, total: int = 1000) -> torch.Tensor:
    source = RandomWeights(seed, 0.5, total, CPU)
    parts = [torch.empty(size) for size in sizes]
    for part in parts:
        source.fill(part)
    return torch.cat(parts)


def test_a_seed_is_a_sequence_however_it_is_taken() -> None:
    assert torch.equal(numbers(1, 1000), numbers(1, 10, 490, 500))
    assert not torch.equal(numbers(1, 100), numbers(2, 100))
    assert abs(numbers(1, 1000).std().item() - 0.5) < 0.05


def test_nothing_repeats_before_the_stretch_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(set(numbers(0, 1000).tolist())) == 1000
    monkeypatch.setattr(random_weights, "_TILE", 101)
    repeated = numbers(0, 30, 300)
    assert torch.equal(repeated[:101], repeated[101:202])
    rows = repeated[:320].view(32, 10)
    assert len({tuple(row.tolist()) for row in rows}) == 32


def test_matrices_of_other_types_get_the_same_numbers_rounded() -> None:
    half, full = torch.empty(4, 8, dtype=torch.bfloat16), torch.empty(4, 8)
    RandomWeights(3, 1.0, 32, CPU).fill(half)
    RandomWeights(3, 1.0, 32, CPU).fill(full)
    assert torch.equal(half, full.bfloat16())
