"""The hazard model and its features: what is learned, from whom, and from what is cut off."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelude.batcher.features import NUM_CLIENTS, NUM_ROWS, features
from prelude.batcher.hazards import HazardModel
from prelude.batcher.lengths import EDGES, quantile
from prelude.types.request import Request, SamplingParams
from prelude.types.service import Hints


def ask(
    client: str = "", prompt: tuple[int, ...] = (1, 2, 3), max_tokens: int | None = None
) -> Request:
    params, hints = SamplingParams(max_tokens=max_tokens), Hints(client=client)
    return Request(uid=0, prompt_ids=list(prompt), params=params, hints=hints)


def median(model: HazardModel, request: Request) -> float:
    return quantile(model.cdf(features(request, contract=True)).tolist(), 0.5)


def teach(model: HazardModel, request: Request, *lengths: int) -> None:
    for num_tokens in lengths:
        model.learn(features(request, contract=True), num_tokens, censored=False)


requests = st.builds(
    Request,
    uid=st.just(0),
    prompt_ids=st.lists(st.integers(0, 300_000), min_size=1, max_size=100),
    params=st.builds(SamplingParams, max_tokens=st.none() | st.integers(1, 10**6)),
    hints=st.builds(Hints, client=st.text(max_size=8), template=st.text(max_size=8)),
)


@given(requests, st.booleans())
def test_features_are_distinct_rows_of_the_table(request: Request, contract: bool) -> None:
    found = features(request, contract=contract)
    rows = found.rows.tolist()
    assert rows == sorted(set(rows)) and rows[0] >= 0 and rows[-1] < NUM_ROWS
    assert len(rows) <= 68 and 0 < found.client < NUM_CLIENTS


def test_features_are_the_same_in_every_process() -> None:
    found = features(ask("ada", (5, 6, 7)), contract=True)
    assert found.client == 100
    assert found.rows.tolist() == [
        1016, 1107, 1376, 1813, 1998, 2619, 2834, 3290, 3355, 3676,
    ]  # fmt: skip


def test_a_limit_is_not_looked_at_unless_it_may_be() -> None:
    one, other = ask(max_tokens=5), ask(max_tokens=500)
    assert (features(one, contract=False).rows == features(other, contract=False).rows).all()
    assert (features(one, contract=True).rows != features(other, contract=True).rows).any()


def test_only_the_end_of_a_long_prompt_counts_beside_its_length() -> None:
    rng = random.Random(0)
    opening, end = [7] * 16, [rng.randrange(500) for _ in range(32)]
    one, other = ((*opening, *[fill] * 4000, *end) for fill in (1, 2))
    of_one, of_other = (features(ask("", prompt), contract=True).rows for prompt in (one, other))
    assert (of_one == of_other).all()


@given(st.lists(st.tuples(requests, st.integers(1, 300_000), st.booleans()), max_size=12), requests)
def test_whatever_it_is_taught_a_distribution_comes_out(
    history: list[tuple[Request, int, bool]], request: Request
) -> None:
    model = HazardModel()
    for of, num_tokens, censored in history:
        model.learn(features(of, contract=True), num_tokens, censored=censored)
    cdf = model.cdf(features(request, contract=True))
    assert np.isfinite(cdf).all() and (np.diff(cdf) >= -1e-6).all()
    assert cdf[0] >= 0.0 and cdf[-1] <= 1.0


def test_before_the_first_answer_all_prompts_are_alike() -> None:
    assert median(HazardModel(), ask("ada")) == median(HazardModel(), ask("bob", (9,)))


def test_a_client_is_told_from_others_and_a_newcomer_is_like_everybody() -> None:
    rng, model = random.Random(1), HazardModel()
    for _ in range(150):
        teach(model, ask("short", (rng.randrange(500),)), 5)
        teach(model, ask("long", (rng.randrange(500),)), 900)
    assert median(model, ask("short", (700,))) == 5
    assert median(model, ask("long", (700,))) == pytest.approx(900, rel=0.15)
    assert 5 <= median(model, ask("newcomer", (700,))) < 1100


def test_a_client_that_changes_its_ways_is_followed_within_some_tens_of_answers() -> None:
    model = HazardModel()
    teach(model, ask("ada"), *[10] * 400)
    assert median(model, ask("ada")) == pytest.approx(10, abs=1)
    teach(model, ask("ada"), *[300] * 60)
    assert median(model, ask("ada")) == pytest.approx(300, rel=0.2)


def test_one_client_is_read_by_its_words() -> None:
    rng, model = random.Random(2), HazardModel()
    for _ in range(400):
        teach(model, ask("ada", (rng.randrange(100, 500), 1, 2)), 4)
        teach(model, ask("ada", (rng.randrange(100, 500), 8, 9)), 120)
    assert median(model, ask("ada", (600, 1, 2))) == pytest.approx(4, abs=1)
    assert median(model, ask("ada", (600, 8, 9))) == pytest.approx(120, rel=0.2)


def test_an_answer_cut_off_says_nothing_about_what_comes_later() -> None:
    model, of = HazardModel(), features(ask("ada"), contract=True)
    teach(model, ask("ada"), *[200] * 50)
    before = model.cdf(of)
    for _ in range(50):
        model.learn(of, 20, censored=True)
    after, at = model.cdf(of), EDGES.index(20)
    survival = (1.0 - before) / (1.0 - before[at - 1])
    assert (1.0 - after)[at:] / (1.0 - after[at - 1]) == pytest.approx(survival[at:], abs=1e-5)
    assert after[at - 1] <= before[at - 1]


def test_learning_in_parts_is_learning_at_once() -> None:
    """Hazards of different bins do not depend on one another."""
    parts, whole = HazardModel(), HazardModel()
    of = features(ask("ada"), contract=True)
    for since, num_tokens in ((0, 64), (64, 128), (128, 256)):
        parts.learn(of, num_tokens, censored=True, since=since)
    parts.learn(of, 300, censored=False, since=256)
    whole.learn(of, 300, censored=False)
    for name in ("weights", "squares", "ends", "risks"):
        assert np.allclose(getattr(parts, name), getattr(whole, name), rtol=1e-5), name


def test_what_was_learned_before_is_not_learned_twice() -> None:
    model, of = HazardModel(), features(ask(), contract=True)
    before = model.weights.copy()
    model.learn(of, 64, censored=True, since=64)
    assert (model.weights == before).all()
