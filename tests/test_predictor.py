"""Predictions: calibrated on stationary traffic, fair to answers cut off, and never in the way."""

import heapq
import logging
import math
import random
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prelude.batcher import predictor as predictors
from prelude.batcher.arrays import write_arrays
from prelude.batcher.predictor import MIN_OBSERVED, PREDICTOR_VERSION, Predictor, PredictorReport
from prelude.types.request import Request, SamplingParams
from prelude.types.service import Hints, Prediction

QUANTUM = 128
Length = Callable[[random.Random], int]


def ask(uid: int = 0, client: str = "", max_tokens: int | None = None, **params: bool) -> Request:
    return Request(
        uid=uid,
        prompt_ids=[1, 2, uid % 7],
        params=SamplingParams(max_tokens=max_tokens, ignore_eos=params.get("ignore_eos", False)),
        hints=Hints(client=client),
    )


def lognormal(median: float, sigma: float) -> Length:
    return lambda rng: max(1, round(rng.lognormvariate(math.log(median), sigma)))


def constant(num_tokens: int) -> Length:
    return lambda rng: num_tokens


def taught(num_tokens: int = 20, count: int = 100, **options: bool) -> Predictor:
    predictor = Predictor(QUANTUM, **options)
    for uid in range(count):
        predictor.predict(ask(uid))
        predictor.observe(ask(uid), num_tokens, censored=False)
    return predictor


def foreseen(predictor: Predictor, request: Request) -> Prediction:
    prediction = predictor.predict(request)
    assert prediction is not None
    return prediction


def play(predictor: Predictor, lengths: dict[str, Length], count: int, seed: int = 0) -> float:
    """Requests of clients in turn come every 15 tokens' time, and every answer gets a token in
    that time. Returns the share of the last half that got no longer than the 90th percentile."""
    rng, under_way, hits = random.Random(seed), list[tuple[int, int, int, int, Request]](), []
    for uid in range(count):
        client = list(lengths)[uid % len(lengths)]
        request, num_tokens = ask(uid, client), lengths[client](rng)
        prediction = predictor.predict(request)
        if uid >= count // 2 and prediction:
            hits.append(num_tokens <= prediction.q90)
        heapq.heappush(under_way, (15 * uid + 1, uid, 1, num_tokens, request))
        while under_way and under_way[0][0] <= 15 * uid:
            _live(predictor, under_way)
    while under_way:
        _live(predictor, under_way)
    return sum(hits) / len(hits)


def _live(predictor: Predictor, under_way: list[tuple[int, int, int, int, Request]]) -> None:
    """The next that ends or has doubled its length does so."""
    now, uid, done, num_tokens, request = heapq.heappop(under_way)
    if done == num_tokens:
        predictor.observe(request, num_tokens, censored=False)
        return
    predictor.survived(request, done)
    more = min(done, num_tokens - done)
    heapq.heappush(under_way, (now + more, uid, done + more, num_tokens, request))


@pytest.mark.parametrize(
    "lengths",
    [
        {"": lognormal(100, 1.0)},
        {"a": lognormal(20, 0.5), "b": lognormal(600, 0.9)},
        {"a": constant(3), "b": lognormal(50, 1.2), "c": lambda rng: rng.choice((5, 2000))},
    ],
    ids=["one", "two", "three"],
)
def test_coverage_converges_on_stationary_traffic(lengths: dict[str, Length]) -> None:
    predictor = Predictor(QUANTUM)
    share = play(predictor, lengths, 2400)
    at_least = 0.9 if any(length(random.Random(0)) == 3 for length in lengths.values()) else 0.87
    assert at_least <= share <= 0.96
    report = predictor.report()
    assert report.coverage_90 == pytest.approx(share, abs=0.03)
    assert report.num_observed == 2400 and report.num_failures == 0


def test_the_median_is_near_the_true_one_of_each_client() -> None:
    predictor = Predictor(QUANTUM)
    play(predictor, {"a": lognormal(20, 0.5), "b": lognormal(600, 0.9)}, 1600)
    short, long = (foreseen(predictor, ask(9999, client)) for client in "ab")
    assert short.q50 == pytest.approx(20, rel=0.25) and short.p_deep < 0.1
    assert long.q50 == pytest.approx(600, rel=0.35) and long.p_deep > 0.9


def test_answers_under_way_keep_the_long_ones_from_being_overlooked() -> None:
    """Early on, only the short ones have ended."""
    predictor = Predictor(QUANTUM)
    for uid in range(60):
        predictor.observe(ask(uid, "ada"), 10, censored=False)
    without = foreseen(predictor, ask(1000, "ada"))
    for uid in range(60, 120):
        predictor.predict(ask(uid, "ada"))
        for num_tokens in range(1, 1025):
            predictor.survived(ask(uid, "ada"), num_tokens)
    assert foreseen(predictor, ask(1000, "ada")).p_deep > without.p_deep + 0.5


def test_being_cut_off_does_not_make_answers_look_short() -> None:
    """Half of the clients leave after some tokens; their answers count as far as they got."""
    rng, medians = random.Random(3), dict[bool, list[float]]({True: [], False: []})
    predictors = {censoring: Predictor(QUANTUM) for censoring in medians}
    length = lognormal(200, 0.6)
    for uid in range(2000):
        num_tokens, patience = length(rng), rng.randint(1, 400)
        cut = min(num_tokens, patience)
        for censoring, predictor in predictors.items():
            if (prediction := predictor.predict(ask(uid))) and uid >= 500:
                medians[censoring].append(prediction.q50)
            predictor.observe(ask(uid), cut, censored=censoring and cut < num_tokens)
    assert np.median(medians[True]) == pytest.approx(200, rel=0.1)
    assert np.median(medians[False]) < 140


def test_coverage_holds_for_answers_that_are_not_cut_off_too() -> None:
    rng, predictor, hits = random.Random(4), Predictor(QUANTUM), []
    length = lognormal(100, 0.8)
    for uid in range(3000):
        num_tokens, patience = length(rng), rng.randint(1, 600)
        prediction = predictor.predict(ask(uid))
        if uid >= 1000 and prediction:
            hits.append(num_tokens <= prediction.q90)
        cut = min(num_tokens, patience)
        predictor.observe(ask(uid), cut, censored=cut < num_tokens)
    assert sum(hits) / len(hits) == pytest.approx(0.9, abs=0.04)


observations = st.tuples(
    st.sampled_from(["", "a", "b"]),
    st.none() | st.integers(1, 4000),
    st.integers(0, 300_000),
    st.booleans(),
)


@settings(deadline=None)
@given(st.lists(observations, max_size=60), st.none() | st.integers(1, 500), st.booleans())
def test_quantiles_are_ordered_and_finite(
    history: list[tuple[str, int | None, int, bool]], limit: int | None, contract: bool
) -> None:
    predictor = Predictor(QUANTUM, contract=contract)
    for uid, (client, max_tokens, num_tokens, censored) in enumerate(history):
        request = ask(uid, client, max_tokens)
        predictor.predict(request)
        predictor.observe(request, num_tokens, censored=censored)
    prediction = predictor.predict(ask(99, "a", limit))
    assert predictor.report().num_failures == 0
    if prediction is not None:
        assert 1.0 <= prediction.q50 <= prediction.q90 < math.inf
        assert 0.0 <= prediction.p_deep <= 1.0
        assert not (contract and limit) or prediction.q90 <= limit


def test_nothing_is_predicted_before_there_is_something_to_know() -> None:
    predictor = taught(count=MIN_OBSERVED - 1)
    assert predictor.predict(ask()) is None
    predictor.observe(ask(), 20, censored=False)
    assert foreseen(predictor, ask()).q50 == pytest.approx(20, abs=2)


def test_in_a_hurry_who_has_short_answers_is_known_by_its_history_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    predictor = Predictor(QUANTUM)
    lengths: dict[str, Length] = {"short": lognormal(20, 0.3), "long": lognormal(900, 0.3)}
    play(predictor, lengths, 400)
    with monkeypatch.context() as patched:
        patched.setattr(predictors, "features", None)  # nobody looks at the request
        brief = predictor.predict(ask(1, "short"), in_a_hurry=True)
        assert brief is not None and abs(brief.q50 - 20) <= 5
        assert brief.q90 < 60 and brief.p_deep < 0.05
        limited = predictor.predict(ask(1, "short", max_tokens=3), in_a_hurry=True)
        assert limited == (3, 3, 0.0)
    long = predictor.predict(ask(2, "long"), in_a_hurry=True)
    assert long == predictor.predict(ask(2, "long")) and long is not None and long.q50 > 500
    predictor.observe(ask(1, "short"), 20, censored=False)
    report = predictor.report()
    assert (report.num_observed, report.num_failures) == (401, 0)


def test_who_changes_its_ways_in_a_hurry_is_noticed() -> None:
    predictor = taught(20)
    assert predictor.predict(ask(), in_a_hurry=True) == predictor.predict(ask(1), in_a_hurry=True)
    for uid in range(200):
        predictor.observe(ask(uid), 900, censored=False)
    found = predictor.predict(ask(), in_a_hurry=True)
    assert found is not None and found.p_deep > 0.9


def test_in_a_hurry_nothing_is_computed_before_there_is_something_to_know(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    predictor = taught(count=MIN_OBSERVED - 1)
    monkeypatch.setattr(predictors, "features", None)
    assert predictor.predict(ask(), in_a_hurry=True) is None
    assert predictor.report().num_failures == 0


def test_a_limit_bounds_the_prediction_if_it_may_be_looked_at() -> None:
    assert foreseen(taught(400), ask(max_tokens=50)) == (50, 50, 0.0)
    assert foreseen(taught(400, contract=False), ask(max_tokens=50)).q50 > 300


def test_an_answer_that_reached_its_limit_would_have_gone_on() -> None:
    predictor = Predictor(QUANTUM)
    for uid in range(200):
        predictor.observe(ask(uid, max_tokens=10), 10, censored=False)
    assert foreseen(predictor, ask()).q50 > 20
    blind = Predictor(QUANTUM, contract=False)
    for uid in range(200):
        blind.observe(ask(uid, max_tokens=10), 10, censored=False)
    assert foreseen(blind, ask()).q50 == 10


def test_an_answer_of_fixed_length_is_known_and_teaches_nothing() -> None:
    predictor, fixed = taught(20), ask(5, max_tokens=700, ignore_eos=True)
    before = foreseen(predictor, ask(1))
    assert foreseen(predictor, fixed) == foreseen(Predictor(QUANTUM), fixed) == (700, 700, 1.0)
    for num_tokens in range(1, 701):
        predictor.survived(fixed, num_tokens)
    predictor.observe(fixed, 700, censored=False)
    assert foreseen(predictor, ask(1)) == before
    assert predictor.report().num_observed == 100


def test_without_the_contract_a_fixed_length_leaks_nothing() -> None:
    predictor = taught(20, contract=False)
    fixed = ask(5, max_tokens=700, ignore_eos=True)
    assert foreseen(predictor, fixed) == foreseen(predictor, ask(5))


def test_an_answer_without_a_token_teaches_nothing() -> None:
    predictor = taught()
    predictor.observe(ask(1), 0, censored=True)
    assert predictor.report().num_observed == 100


def test_the_report_is_about_predictions_made_before_the_answer() -> None:
    predictor = taught(20)
    foreseen(predictor, ask(1))
    before = predictor.report()
    for num_tokens in (64, 128, 256):
        predictor.survived(ask(1), num_tokens)
    predictor.observe(ask(1), 500, censored=False)
    report = predictor.report()
    assert report.pinball_50 > before.pinball_50 + 3 and report.coverage_90 < before.coverage_90
    assert (report.num_predicted, report.num_observed, report.num_censored) == (69, 101, 0)
    predictor.observe(ask(2), 5, censored=True)
    assert predictor.report().num_censored == 1


def test_choices_of_one_request_all_count() -> None:
    predictor, request = taught(), ask(1)
    request = msgspec.structs.replace(request, params=SamplingParams(n=3))
    before = foreseen(predictor, request)
    predictor.survived(request, 64)
    assert foreseen(predictor, request) == before
    for num_tokens in (10, 100, 1000):
        predictor.observe(request, num_tokens, censored=False)
    assert predictor.report().num_observed == 103
    assert foreseen(predictor, request).p_deep > before.p_deep + 0.02


def test_an_answer_is_learned_from_once_however_often_it_was_seen_on_its_way() -> None:
    seen, unseen = taught(), taught()
    for predictor in (seen, unseen):
        foreseen(predictor, ask(1))
    for num_tokens in range(1, 300):
        seen.survived(ask(1), num_tokens)
    for predictor in (seen, unseen):
        predictor.observe(ask(1), 300, censored=False)
    assert foreseen(seen, ask(2)) == pytest.approx(foreseen(unseen, ask(2)), rel=1e-4)


def test_memory_is_bounded_over_very_many_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictors, "_MAX_GUESSES", 50)
    predictor, shapes = Predictor(QUANTUM), None
    for uid in range(100_000):
        predictor.predict(ask(uid, f"client {uid}"))
        if uid % 50 == 0:
            predictor.observe(ask(uid, f"client {uid}"), 5, censored=False)
        if uid == 100:
            shapes = {name: array.shape for name, array in predictor._arrays().items()}
    assert len(predictor._guesses) <= 50
    assert {name: array.shape for name, array in predictor._arrays().items()} == shapes


def test_what_was_learned_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "profiles" / "lengths.npz"
    first, second = taught(20), Predictor(QUANTUM)
    first.save(path)
    assert second.load(path)
    assert foreseen(second, ask(1)) == foreseen(first, ask(1))
    assert second.report() == PredictorReport(num_predicted=1, num_observed=100)
    assert list(path.parent.iterdir()) == [path]


def test_no_file_is_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert not Predictor(QUANTUM).load(tmp_path / "lengths.npz")
    assert not caplog.records


@pytest.mark.parametrize("damage", ["text", "cut", "flipped", "older", "folder"])
def test_a_file_that_cannot_be_used_is_ignored_and_named(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "lengths.npz"
    taught().save(path)
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes({"text": bytearray(b"[1]"), "cut": data[:-1000]}.get(damage, data)))
    if damage == "older":
        write_arrays(path, PREDICTOR_VERSION - 1, taught()._arrays())
    if damage == "folder":
        path.unlink()
        path.mkdir()
    predictor = Predictor(QUANTUM)
    with caplog.at_level(logging.WARNING):
        assert not predictor.load(path)
    assert "lengths.npz is ignored" in caplog.text
    assert predictor.predict(ask()) is None
    predictor.observe(ask(), 5, censored=False)
    assert predictor.report().num_failures == 0


@pytest.mark.parametrize("call", ["predict", "observe", "survived"])
def test_a_failure_is_counted_and_said_once(
    call: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    predictor = taught()

    def fail(*args: object, **options: object) -> None:
        raise ZeroDivisionError("played")

    predictor.predict(ask(1))
    monkeypatch.setattr(predictors, "features", fail)
    monkeypatch.setattr(predictor._model, "learn", fail)
    calls: dict[str, Callable[[], object]] = {
        "predict": lambda: predictor.predict(ask(1)),
        "observe": lambda: predictor.observe(ask(1), 70, censored=False),
        "survived": lambda: predictor.survived(ask(1), 64),
    }
    assert calls[call]() is None and calls[call]() is None
    assert predictor.report().num_failures == 2
    assert [record.message for record in caplog.records] == [
        f"predictor: {call} failed, requests go on without: ZeroDivisionError('played')"
    ]


def test_nonsense_is_no_prediction() -> None:
    predictor = taught()
    predictor._model.weights[:] = math.nan
    assert predictor.predict(ask()) is None
    assert predictor.report().num_failures == 1
