"""The sampler of captured programs draws what ``sampling.filtered`` draws, whatever the data."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from prelude.kernels.sampling import filtered, greedy
from prelude.kernels.sampling_static import filtered_static, sample_at

ROWS = [  # temperature, top_k, top_p, min_p
    (0.0, 0, 1.0, 0.0),
    (1.0, 0, 1.0, 0.0),
    (0.7, 50, 1.0, 0.0),
    (1.3, 0, 0.9, 0.0),
    (1.0, 0, 0.999, 0.0),
    (0.9, 700, 0.95, 0.1),
    (1.0, 0, 1.0, 0.3),
    (2.0, 1, 0.5, 0.0),
    (0.5, 9000, 1e-6, 1.0),
]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def parameters(rows: list[tuple[float, int, float, float]]) -> dict[str, Tensor]:
    names = ("temperature", "top_k", "top_p", "min_p")
    return {name: torch.tensor(c) for name, c in zip(names, zip(*rows, strict=True), strict=True)}


def both(logits: Tensor, rows: list[tuple[float, int, float, float]]) -> tuple[Tensor, Tensor]:
    arguments = parameters(rows) | {
        "logits": logits,
        "seeds": torch.arange(len(rows)) * 77,
        "index": torch.arange(len(rows)) + 5,
    }
    return filtered_static(**arguments), filtered(**arguments)


@given(
    vocab=st.sampled_from([1, 2, 5, 300, 2000]),
    top_k=st.sampled_from([0, 1, 3, 50, 511, 513, 5000]),
    top_p=st.sampled_from([1.0, 0.99, 0.9, 0.5, 0.01]),
    min_p=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    temperature=st.sampled_from([0.0, 0.3, 1.0, 1.7]),
    spread=st.sampled_from([0.1, 1.0, 6.0]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 100),
)
def test_the_same_draws_as_filtered(
    vocab: int,
    top_k: int,
    top_p: float,
    min_p: float,
    temperature: float,
    spread: float,
    dtype: torch.dtype,
    seed: int,
) -> None:
    logits = (randn(4, vocab, seed=seed) * spread).to(dtype)
    static, dynamic = both(logits, [(temperature, top_k, top_p, min_p)] * 4)
    assert torch.equal(static, dynamic)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("spread", [0.5, 3.0])
def test_rows_of_all_kinds_in_one_batch(dtype: torch.dtype, spread: float) -> None:
    logits = (randn(len(ROWS), 30_000) * spread).to(dtype)
    static, dynamic = both(logits, ROWS)
    assert torch.equal(static, dynamic)


def drawn_sets(logits: Tensor, **filters: float) -> list[set[int]]:
    """The tokens that 50 evenly spaced numbers draw from each row."""
    u = (torch.arange(50) + 0.5) / 50
    values = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0} | filters
    columns = {name: torch.full((50,), value) for name, value in values.items()}
    return [set(sample_at(row.expand(50, -1), **columns, u=u).tolist()) for row in logits]


def test_tokens_tied_with_the_last_one_kept_are_kept() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0, 2.0, 0.0]])
    assert drawn_sets(logits, top_k=2) == [{0, 2, 3}]
    assert drawn_sets(logits, top_p=0.6) == [{0, 2, 3}]
    assert drawn_sets(torch.tensor([[0.0, -0.0, -5.0]]), top_k=1) == [{0, 1}]


def test_top_p_counts_the_mass_that_top_k_left() -> None:
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    assert drawn_sets(logits, top_p=0.55) == [{0, 1}]
    assert drawn_sets(logits, top_k=2, top_p=0.55) == [{0}]


def test_excluded_tokens_stay_excluded() -> None:
    logits = randn(2, 200)
    logits[:, 10:] = -torch.inf
    for filters in ({}, {"top_k": 50}, {"top_p": 0.9999}, {"top_k": 1000, "top_p": 0.5}):
        assert all(drawn <= set(range(10)) for drawn in drawn_sets(logits, **filters))


def test_temperature_zero_takes_the_lowest_of_the_highest() -> None:
    logits = torch.tensor([[0.0, 2.0, 2.0], [5.0, 5.0, 5.0], [-9.0, -torch.inf, -8.0]])
    static, _ = both(logits, [(0.0, 0, 1.0, 0.0)] * 3)
    assert torch.equal(static, greedy(logits))
    assert static.tolist() == [1, 0, 2]


@pytest.mark.parametrize("nothing", [-torch.inf, torch.nan])
def test_rows_without_a_finite_logit_give_some_id(nothing: float) -> None:
    static, _ = both(torch.full((len(ROWS), 50), nothing), ROWS)
    assert ((static >= 0) & (static < 50)).all()


def test_a_rows_draw_does_not_depend_on_the_batch() -> None:
    logits = randn(len(ROWS), 5000)
    columns = parameters(ROWS) | {"logits": logits, "u": torch.rand(len(ROWS))}
    together = sample_at(**columns)
    for row in range(len(ROWS)):
        alone = sample_at(**{name: column[row : row + 1] for name, column in columns.items()})
        assert alone.tolist() == [together[row]]


def test_nothing_depends_on_the_data() -> None:
    """A fake tensor has no data: looking at it, as ``filtered`` does, is an error."""
    with FakeTensorMode():
        names = ("seeds", "index")
        arguments = parameters(ROWS) | {name: torch.arange(len(ROWS)) for name in names}
        ids = filtered_static(torch.empty(len(ROWS), 300), **arguments)
        assert ids.shape == (len(ROWS),) and ids.dtype is torch.int64
        with pytest.raises(DataDependentOutputException):
            filtered(torch.empty(len(ROWS), 300), **arguments)
