"""Sampling against exact probabilities, against transformers' processors, and alone against in a
batch, bit for bit."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from prelude.kernels.sampling import (
    PURPOSE_ACCEPT,
    PURPOSE_SAMPLE,
    draw,
    filter_logits,
    filtered,
    forbid,
    greedy,
    logprobs,
    penalize,
    uniform,
)

VOCAB = 2000  # beyond the candidates of the fast path


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def column(rows: int, value: float, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.full((rows,), value, dtype=dtype)


def sample(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    seed: int = 7,
) -> Tensor:
    """One draw per row, rows differing in their output index."""
    rows = logits.shape[0]
    return filtered(
        logits,
        column(rows, temperature),
        column(rows, top_k, torch.int64),
        column(rows, top_p),
        column(rows, min_p),
        column(rows, seed, torch.int64),
        torch.arange(rows),
    )


def chi_square(ids: Tensor, probs: Tensor) -> float:
    """Statistic over its degrees of freedom, about 1 where ``ids`` follow ``probs``."""
    expected = probs.double() * len(ids)
    seen = torch.bincount(ids, minlength=len(probs)).double()
    assert int(seen[expected == 0].sum()) == 0
    likely = expected > 0
    statistic = ((seen - expected)[likely] ** 2 / expected[likely]).sum()
    return float(statistic) / max(1, int(likely.sum()) - 1)


# ---- the source of randomness


def test_uniform_never_changes() -> None:
    """These numbers are a promise: a seed gives the same text in every release."""
    seeds = torch.tensor([0, 0, 1, -1, 2**63 - 1, -(2**63)])
    index = torch.tensor([0, 1, 0, 5, 10**6, 0])
    expected = [
        0.13870936632156372,
        0.9711020588874817,
        0.6935121417045593,
        0.734598696231842,
        0.3431980013847351,
        0.1446961760520935,
    ]
    assert uniform(seeds, index, PURPOSE_SAMPLE).tolist() == expected


def test_uniform_follows_its_definition_in_plain_integers() -> None:
    def mix(x: int) -> int:
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        return x ^ x >> 31

    golden = 0x9E3779B97F4A7C15
    for seed, index, purpose in [(0, 0, 0), (-5, 3, 1), (2**62 + 11, 900, 2)]:
        state = mix((seed + golden) % 2**64)
        state = mix((state + golden * (purpose + 1)) % 2**64)
        state = mix((state + golden * (index + 1)) % 2**64)
        u = uniform(torch.tensor([seed]), torch.tensor([index]), purpose)
        assert u.item() == ((state >> 41) + 0.5) / 2**23


@given(seed=st.integers(-(2**63), 2**63 - 1), index=st.integers(0, 2**31))
def test_uniform_is_strictly_between_zero_and_one(seed: int, index: int) -> None:
    u = uniform(torch.tensor([seed]), torch.tensor([index]), PURPOSE_SAMPLE)
    assert u.dtype is torch.float32
    assert 0.0 < u.item() < 1.0


@pytest.mark.parametrize("what", ["index", "seed", "purpose"])
def test_uniform_is_uniform_along_each_argument(what: str) -> None:
    count = 20_000
    steps, zeros = torch.arange(count), torch.zeros(count, dtype=torch.int64)
    if what == "purpose":
        u = torch.cat([uniform(zeros[:1], zeros[:1], purpose) for purpose in range(2000)])
    else:
        u = uniform(*((zeros, steps) if what == "index" else (steps, zeros)), PURPOSE_SAMPLE)
    assert 0.6 < chi_square((u * 64).long(), column(64, 1 / 64)) < 1.5
    pairs = (u[:-1] * 8).long() * 8 + (u[1:] * 8).long()  # neighbours are independent
    assert 0.6 < chi_square(pairs, column(64, 1 / 64)) < 1.5


def test_purposes_are_independent() -> None:
    steps, seeds = torch.arange(20_000), column(20_000, 3, torch.int64)
    a, b = uniform(seeds, steps, PURPOSE_SAMPLE), uniform(seeds, steps, PURPOSE_ACCEPT)
    assert chi_square((a * 8).long() * 8 + (b * 8).long(), column(64, 1 / 64)) < 1.5


# ---- greedy and drawing


def test_greedy_takes_the_lowest_of_tied_ids() -> None:
    logits = torch.tensor([[0.0, 2.0, 2.0], [5.0, 5.0, 5.0], [-9.0, -torch.inf, -8.0]])
    assert greedy(logits).tolist() == [1, 0, 2]
    wide = torch.zeros(1, 200_000).index_fill(1, torch.tensor([150_000, 170_000]), 1.0)
    assert greedy(wide).tolist() == [150_000]


def test_draw_inverts_the_cdf_in_vocabulary_order() -> None:
    logits = torch.tensor([0.5, 0.25, 0.0, 0.25]).log().expand(5, 4)
    u = torch.tensor([1e-7, 0.49, 0.51, 0.76, 1 - 2**-24])
    assert draw(logits, u).tolist() == [0, 0, 1, 3, 3]


def test_draw_never_takes_an_excluded_token_at_the_ends() -> None:
    logits = torch.full((2, VOCAB), -torch.inf)
    logits[:, 5:9] = 0.0
    assert draw(logits, torch.tensor([2**-24, 1 - 2**-24])).tolist() == [5, 8]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_probabilities(temperature: float) -> None:
    logits = randn(40, seed=1)
    ids = sample(logits.expand(20_000, -1), temperature=temperature)
    assert 0.4 < chi_square(ids, torch.softmax(logits / temperature, -1)) < 1.7


@pytest.mark.parametrize(
    "filters", [{"top_k": 6}, {"top_p": 0.7}, {"min_p": 0.2}, {"top_k": 9, "top_p": 0.8}]
)
def test_filtered_draws_follow_the_renormalised_probabilities(filters: dict[str, float]) -> None:
    logits = randn(40, seed=2)
    ids = sample(logits.expand(10_000, -1), temperature=0.8, **filters)  # type: ignore[arg-type]
    kept = hugging_face(logits[None], temperature=0.8, **filters)[0]  # type: ignore[arg-type]
    assert chi_square(ids, torch.softmax(kept, -1)) < 2.2
    assert set(ids.tolist()) == set(kept.isfinite().nonzero().flatten().tolist())


@pytest.mark.parametrize("filters", [{"top_k": 6}, {"top_p": 0.3}, {"top_p": 0.97}, {"min_p": 0.1}])
@pytest.mark.parametrize("spread", [1.0, 4.0])
def test_drawing_among_candidates_is_drawing_from_all(
    filters: dict[str, float], spread: float
) -> None:
    logits = randn(200, VOCAB, seed=5) * spread
    u = uniform(column(200, 7, torch.int64), torch.arange(200), PURPOSE_SAMPLE)
    expected = draw(ours(logits, **filters), u)  # type: ignore[arg-type]
    assert torch.equal(sample(logits, **filters), expected)  # type: ignore[arg-type]


def test_temperature_zero_is_greedy_and_tiny_temperature_nearly() -> None:
    logits = randn(50, VOCAB)
    assert torch.equal(sample(logits, temperature=0.0), greedy(logits))
    assert torch.equal(sample(logits, temperature=1e-4), greedy(logits))


def test_half_precision_logits_are_sampled_in_float32() -> None:
    logits = randn(30, VOCAB).bfloat16()
    assert torch.equal(sample(logits, top_p=0.9), sample(logits.float(), top_p=0.9))


def test_rows_of_nothing_but_excluded_tokens_give_some_id() -> None:
    ids = sample(torch.full((2, 50), -torch.inf), top_p=0.5)
    assert ((ids >= 0) & (ids < 50)).all()


# ---- the filters, against transformers


def hugging_face(
    logits: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> Tensor:
    ids = torch.empty(logits.shape[0], 0, dtype=torch.int64)
    scores: Tensor = TemperatureLogitsWarper(temperature)(ids, logits)
    if top_k:
        scores = TopKLogitsWarper(top_k)(ids, scores)
    if top_p < 1.0:
        scores = TopPLogitsWarper(top_p)(ids, scores)
    return MinPLogitsWarper(min_p)(ids, scores) if min_p else scores


def ours(logits: Tensor, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> Tensor:
    rows = logits.shape[0]
    return filter_logits(
        logits, column(rows, top_k, torch.int64), column(rows, top_p), column(rows, min_p)
    )


@given(
    vocab=st.sampled_from([1, 5, 300, VOCAB]),
    top_k=st.sampled_from([0, 1, 3, 50, 511, 512, 513, 1500, 5000]),
    top_p=st.sampled_from([1.0, 0.99, 0.9, 0.5, 0.01]),
    min_p=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    spread=st.sampled_from([0.1, 1.0, 6.0]),
    seed=st.integers(0, 100),
)
def test_the_same_sets_as_transformers(
    vocab: int, top_k: int, top_p: float, min_p: float, spread: float, seed: int
) -> None:
    logits = randn(3, vocab, seed=seed) * spread
    expected = hugging_face(logits, top_k=top_k, top_p=top_p, min_p=min_p)
    assert torch.equal(ours(logits, top_k, top_p, min_p), expected)


def test_filters_that_are_off_change_nothing() -> None:
    logits = randn(3, VOCAB)
    assert torch.equal(ours(logits), logits)
    assert torch.equal(ours(logits, top_k=VOCAB), logits)
    assert torch.equal(ours(logits, top_k=VOCAB + 5), logits)


def test_the_best_token_always_stays() -> None:
    logits = randn(4, VOCAB)
    kept = ours(logits, top_k=1, top_p=1e-6, min_p=1.0).isfinite()
    assert kept.sum(-1).tolist() == [1] * 4
    assert torch.equal(kept.long().argmax(-1), greedy(logits))


def test_tokens_tied_with_the_last_one_kept_are_kept() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0, 2.0, 0.0]])
    assert ours(logits, top_k=2).isfinite().tolist() == [[True, False, True, True, False]]
    assert ours(logits, top_p=0.6).isfinite().tolist() == [[True, False, True, True, False]]
    flat = torch.zeros(1, VOCAB)
    assert ours(flat, top_k=600, top_p=0.5).isfinite().all()


def test_tokens_a_grammar_excluded_stay_excluded() -> None:
    logits = randn(2, VOCAB)
    logits[:, 10:] = -torch.inf
    for filters in ({"top_k": 50}, {"top_p": 0.9999}, {"top_k": 1000, "top_p": 0.5}):
        kept = ours(logits, **filters).isfinite()
        assert not kept[:, 10:].any()
        assert kept.any(-1).all()


# ---- independence of the batch

ROWS = [  # temperature, top_k, top_p, min_p
    (1.0, 0, 1.0, 0.0),
    (0.0, 0, 1.0, 0.0),
    (0.7, 50, 1.0, 0.0),
    (1.3, 0, 0.9, 0.0),
    (1.0, 0, 0.999, 0.0),
    (0.9, 700, 0.95, 0.1),
    (1.0, 0, 1.0, 0.3),
    (2.0, 1, 0.5, 0.0),
]


@pytest.mark.parametrize("spread", [0.05, 1.0, 5.0])
def test_a_rows_draw_does_not_depend_on_the_batch(spread: float) -> None:
    logits = randn(len(ROWS), 30_000) * spread
    temperature, top_k, top_p, min_p = (torch.tensor(p) for p in zip(*ROWS, strict=True))
    seeds, index = torch.arange(len(ROWS)) * 77, torch.arange(len(ROWS)) + 5

    def run(rows: list[int]) -> list[int]:
        parts = (temperature[rows], top_k[rows], top_p[rows], min_p[rows])
        ids: list[int] = filtered(logits[rows], *parts, seeds[rows], index[rows]).tolist()
        return ids

    together = run(list(range(len(ROWS))))
    assert [run([i])[0] for i in range(len(ROWS))] == together
    assert run(list(range(len(ROWS)))[::-1]) == together[::-1]
    assert run([3, 0, 6]) == [together[i] for i in (3, 0, 6)]


def test_filtered_logits_do_not_depend_on_the_batch_bit_for_bit() -> None:
    logits = randn(len(ROWS), 30_000)
    _, top_k, top_p, min_p = (torch.tensor(p) for p in zip(*ROWS, strict=True))
    together = filter_logits(logits, top_k, top_p, min_p)
    for i in range(len(ROWS)):
        row = slice(i, i + 1)
        alone = filter_logits(logits[row], top_k[row], top_p[row], min_p[row])
        assert torch.equal(alone, together[row])


def test_draws_repeat_and_differ_by_seed_and_index() -> None:
    logits = torch.zeros(64, VOCAB)
    assert torch.equal(sample(logits, seed=1), sample(logits, seed=1))
    assert (sample(logits, seed=1) != sample(logits, seed=2)).float().mean() > 0.9
    assert len(set(sample(logits, seed=1).tolist())) > 55


# ---- penalties, exclusions, logprobs


def penalties(rows: int, vocab: int) -> dict[str, Tensor]:
    return {
        "output_counts": torch.zeros(rows, vocab, dtype=torch.int32),
        "seen_prompt": torch.zeros(rows, vocab, dtype=torch.bool),
        "presence": column(rows, 0.0),
        "frequency": column(rows, 0.0),
        "repetition": column(rows, 1.0),
    }


def test_neutral_penalties_change_nothing() -> None:
    logits = randn(2, 50)
    state = penalties(2, 50)
    state["output_counts"][:, :7] = 3
    assert torch.equal(penalize(logits, **state, bias=None), logits)


def test_presence_and_frequency_are_openais() -> None:
    logits = randn(1, 6)
    state = penalties(1, 6)
    state["output_counts"][0] = torch.tensor([0, 1, 4, 0, 0, 2])
    state["seen_prompt"][0, 3] = True  # prompt tokens do not count here
    state["presence"][0], state["frequency"][0] = 0.5, 0.25
    lowered = logits[0] - penalize(logits, **state, bias=None)[0]
    torch.testing.assert_close(lowered, torch.tensor([0, 0.75, 1.5, 0, 0, 1.0]))


def test_repetition_is_that_of_transformers() -> None:
    logits = randn(2, 30)
    prompt, output = [[1, 2, 2], [9, 4, 9]], [[3, 3], [1, 28]]
    state = penalties(2, 30)
    state["repetition"] = column(2, 1.3)
    for row in range(2):
        state["seen_prompt"][row, prompt[row]] = True
        for token in output[row]:
            state["output_counts"][row, token] += 1
    ids = torch.tensor([p + o for p, o in zip(prompt, output, strict=True)])
    expected = RepetitionPenaltyLogitsProcessor(1.3)(ids, logits)
    torch.testing.assert_close(penalize(logits, **state, bias=None), expected)


def test_bias_is_added_before_penalties() -> None:
    logits = torch.tensor([[-1.0, 0.5, 2.0]])
    state = penalties(1, 3)
    state["repetition"][0] = 2.0
    state["seen_prompt"][0, 0] = True
    scores = penalize(logits, **state, bias=torch.tensor([[5.0, -100.0, 0.0]]))
    torch.testing.assert_close(scores, torch.tensor([[2.0, -99.5, 2.0]]))


def test_penalties_are_per_row_and_leave_the_input_alone() -> None:
    logits = randn(3, 20)
    before = logits.clone()
    state = penalties(3, 20)
    state["output_counts"][:, 4] = 2
    state["frequency"] = torch.tensor([0.0, 1.0, -1.0])
    change = penalize(logits, **state, bias=None) - logits
    torch.testing.assert_close(change[:, 4], torch.tensor([0.0, -2.0, 2.0]))
    assert change.abs().sum(-1)[0] == 0
    assert torch.equal(logits, before)


def test_forbid_excludes_the_pairs_and_nothing_else() -> None:
    logits = randn(3, 10)
    out = forbid(logits, torch.tensor([0, 2, 2]), torch.tensor([4, 4, 9]))
    excluded = (out == -torch.inf).nonzero().tolist()
    assert excluded == [[0, 4], [2, 4], [2, 9]]
    assert torch.equal(torch.where(out.isfinite(), out, logits), logits)
    assert logits.isfinite().all()


@pytest.mark.parametrize("k", [0, 1, 5])
def test_logprobs_are_those_of_raw_logits(k: int) -> None:
    logits = randn(4, 60)
    ids = torch.tensor([3, 59, 0, 7])
    own, top_ids, top = logprobs(logits, ids, k)
    expected = torch.log_softmax(logits.double(), -1)
    torch.testing.assert_close(own.double(), expected[torch.arange(4), ids], atol=1e-6, rtol=1e-6)
    assert top_ids.shape == top.shape == (4, k)
    order = logits.argsort(descending=True)[:, :k]
    assert torch.equal(top_ids, order)
    torch.testing.assert_close(top.double(), expected.gather(1, order), atol=1e-6, rtol=1e-6)
