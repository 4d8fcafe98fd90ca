"""The Triton sampler draws what the plain one draws."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prelude.kernels import sampling as plain
from prelude.kernels.sampling_static import filtered_static
from prelude.kernels.triton.sampling import filtered

Row = tuple[float, int, float, float]  # temperature, top_k, top_p, min_p
ROWS: list[Row] = [
    (0.0, 0, 1.0, 0.0),
    (1.0, 0, 1.0, 0.0),
    (0.7, 50, 1.0, 0.0),
    (1.3, 0, 0.9, 0.0),
    (1.0, 0, 0.999, 0.0),
    (0.9, 200, 0.95, 0.1),
    (1.0, 0, 1.0, 0.3),
    (2.0, 1, 0.5, 0.0),
    (0.5, 9000, 1e-6, 1.0),
    (1.0, 3, 0.7, 0.0),
]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def both(device: torch.device, logits: Tensor, rows: list[Row]) -> tuple[Tensor, Tensor]:
    names = ("temperature", "top_k", "top_p", "min_p")
    arguments = {n: torch.tensor(c) for n, c in zip(names, zip(*rows, strict=True), strict=True)}
    arguments |= {"seeds": torch.arange(len(rows)) * 77 - 5, "index": torch.arange(len(rows))}
    arguments = {n: x.to(device) for n, x in arguments.items()}
    logits = logits.to(device)
    return filtered(logits, **arguments).cpu(), filtered_static(logits, **arguments).cpu()


@settings(max_examples=10)
@given(
    vocab=st.sampled_from([1, 5, 256, 600]),
    row=st.tuples(
        st.sampled_from([0.0, 0.3, 1.0, 1.7]),
        st.sampled_from([0, 1, 3, 50, 400, 5000]),
        st.sampled_from([1.0, 0.99, 0.9, 0.5, 0.01]),
        st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    ),
    spread=st.sampled_from([0.1, 1.0, 6.0]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 100),
)
def test_the_same_draws(
    device: torch.device, vocab: int, row: Row, spread: float, dtype: torch.dtype, seed: int
) -> None:
    logits = (randn(1, vocab, seed=seed) * spread).to(dtype)
    ours, expected = both(device, logits, [row])
    assert torch.equal(ours, expected)


@pytest.mark.parametrize(("order", "spread"), [("random", 4.0), ("ascending", 1.0)])
def test_rows_of_all_kinds_in_one_batch(device: torch.device, order: str, spread: float) -> None:
    """Sorted vocabularies put the best tokens of all lanes side by side."""
    logits = randn(len(ROWS), 600, seed=3) * spread
    if order == "ascending":
        logits = logits.sort(dim=-1).values
    ours, expected = both(device, logits, ROWS)
    assert torch.equal(ours, expected)


def test_top_p_counts_all_that_top_k_keeps(device: torch.device) -> None:
    """More than the level of the lanes is sure to reach, whose mass would do for top-p alone."""
    logits = randn(600, seed=8).expand(8, -1) * 0.5
    ours, expected = both(device, logits, [(1.0, 200, 0.3, 0.0)] * 8)
    assert torch.equal(ours, expected)


def test_ties_and_excluded_tokens(device: torch.device) -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0, 2.0, 0.0, -0.0, -torch.inf]]).repeat(10, 1)
    for row in [(1.0, 2, 1.0, 0.0), (1.0, 0, 0.6, 0.0), (1.0, 5, 0.99, 0.0), (0.0, 0, 1.0, 0.0)]:
        ours, expected = both(device, logits, [row] * 10)
        assert torch.equal(ours, expected)
        assert (ours < 6).all()
    flat = torch.zeros(2, 500)
    ours, expected = both(device, flat, [(1.0, 30, 0.5, 0.0), (0.0, 0, 1.0, 0.0)])
    assert torch.equal(ours, expected)


@pytest.mark.parametrize("nothing", [-torch.inf, torch.nan])
def test_rows_without_a_finite_logit_give_some_id(device: torch.device, nothing: float) -> None:
    ours, _ = both(device, torch.full((len(ROWS), 150), nothing), ROWS)
    assert ((ours >= 0) & (ours < 150)).all()


def test_a_strided_view_is_read_in_place(device: torch.device) -> None:
    """Of logits and of parameters that lie together in one table, integers of any width."""
    logits = randn(3, 2, 200)[:, 1].to(device)
    floats = torch.tensor([[0.7, 0.9, 0.1], [1.3, 1.0, 0.0], [0.0, 0.5, 0.2]], device=device)
    ints = torch.tensor([[5, 0, 9], [7, 30, 8], [1, 2, 3]], device=device)
    names = ("temperature", "top_p", "min_p", "seeds", "top_k", "index")
    columns = dict(zip(names, (*floats.unbind(1), *ints.unbind(1)), strict=True))
    expected = filtered_static(logits, **columns)
    assert torch.equal(filtered(logits, **columns), expected)
    narrow = columns | {"top_k": ints.int()[:, 1], "index": ints.int()[:, 2]}
    assert torch.equal(filtered(logits, **narrow), expected)


def test_random_numbers_are_the_plain_ones(device: torch.device) -> None:
    """A flat vocabulary of a power of two tells the leading bits of each number."""
    rows = 16
    seeds = torch.randint(-(2**63), 2**63 - 1, (rows,), generator=torch.Generator().manual_seed(1))
    index = torch.arange(rows) * 1009
    ones, zeros = torch.ones(rows, device=device), torch.zeros(rows, device=device)
    logits, top_k = torch.zeros(rows, 256, device=device), zeros.long()
    keys = (seeds.to(device), index.to(device))
    ids = filtered(logits, ones, top_k, ones, zeros, *keys).cpu()
    assert torch.equal(ids, (plain.uniform(seeds, index, 0) * 256).long())
