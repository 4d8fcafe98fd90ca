"""The engine and its predictor: who is foreseen, what is learned from, and that nothing depends
on it."""

from pathlib import Path

import pytest

from prelude.batcher import predictor as predictors
from prelude.batcher.lessons import Lessons
from prelude.batcher.predictor import MIN_OBSERVED, Predictor
from prelude.conf.schema import MechanismsConfig, Policy
from prelude.engine.core import EngineCore
from prelude.engine.profile import Profile
from prelude.types.prices import flat_prices
from prelude.types.request import TokenEvent
from tests.engines import make_core, moody, request, run, tokens_of


def aware(profile: Profile | None = None, **use: bool) -> EngineCore:
    core = make_core(policy=Policy.class_aware, use=MechanismsConfig(**use), model=moody)
    if profile is not None:
        core.profile = profile
        core._lessons = Lessons(profile.predictor(core.rules))
    return core


def predictor_of(core: EngineCore) -> Predictor:
    predictor = core._lessons.predictor
    assert predictor is not None
    return predictor


def learn(core: EngineCore) -> None:
    while core.learn():
        pass


def serve(core: EngineCore, count: int = MIN_OBSERVED) -> list[TokenEvent]:
    events = []
    for i in range(count):
        events += core.add(request([i + 1, 7, 9], uid=i, max_tokens=40 if i % 2 else 3))
        events += run(core)
    learn(core)
    return events


def predicted(events: list[TokenEvent]) -> float:
    timings = events[-1].timings
    assert timings is not None
    return timings.predicted_tokens


def test_who_comes_after_some_answers_is_foreseen() -> None:
    core = aware()
    events = serve(core)
    assert {event.timings.predicted_tokens for event in events if event.timings} == {0.0}
    core.add(request([3, 4], uid=1000))
    (seq,) = core.ledger.waiting
    assert seq.prediction is not None and 1.0 <= seq.prediction.q50 <= seq.prediction.q90
    assert predicted(run(core)) == seq.prediction.q50


def test_who_does_not_come_alone_is_foreseen_in_a_hurry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    core, hurries = aware(), list[bool]()
    monkeypatch.setattr(
        predictor_of(core), "predict", lambda of, *, in_a_hurry: hurries.append(in_a_hurry)
    )
    for uid in (1, 2, 3):
        core.add(request([5, uid], uid=uid))
    run(core)
    core.add(request([5, 4], uid=4))
    core.step()
    core.add(request([5, 5], uid=5))
    assert hurries == [False, True, True, False, True]


def test_answers_are_learned_from_as_they_ended() -> None:
    core = aware()
    events = serve(core)
    ends = [event for event in events if event.finish_reason]
    assert {event.finish_reason for event in ends} == {"stop", "length"}
    report = predictor_of(core).report()
    assert (report.num_observed, report.num_censored, report.num_failures) == (len(ends), 0, 0)


def test_an_aborted_answer_is_cut_off_and_a_stopped_one_has_what_was_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    core, seen = aware(), list[tuple[int, int, bool]]()
    predictor_of(core)._counts.observed = 1000  # or it would not wait
    monkeypatch.setattr(
        predictor_of(core),
        "observe",
        lambda of, num_tokens, censored: seen.append((of.uid, num_tokens, censored)),
    )
    for uid in (1, 2, 3):
        core.add(request([5, uid], uid=uid, ignore_eos=True, max_tokens=50))
    core.abort(3)
    for _ in range(10):
        core.step()
    num_tokens = len(next(iter(core.ledger.group(1))).token_ids) - 2
    assert num_tokens > 4
    core.abort(1)
    core.truncate(2, 0, 4)
    assert not seen, "somebody may wait for what comes next"
    learn(core)
    assert seen == [(3, 0, True), (1, num_tokens, True), (2, 4, False)]


def test_long_answers_are_learned_from_on_their_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictors, "_FIRST_PARTIAL", 8)
    core, learned = aware(), list[tuple[int, bool, int]]()
    monkeypatch.setattr(
        predictor_of(core)._model,
        "learn",
        lambda of, num_tokens, *, censored, since: learned.append((num_tokens, censored, since)),
    )
    core.add(request([5, 6], uid=1, max_tokens=40, ignore_eos=True, stop_token_ids=(511,)))
    run(core)
    learn(core)
    assert learned == [(8, True, 0), (16, True, 8), (32, True, 16), (40, True, 32)]


@pytest.mark.parametrize(
    "core",
    [
        make_core(policy=Policy.fcfs),
        make_core(policy=Policy.class_aware, use=MechanismsConfig(prediction=False)),
    ],
    ids=["fcfs", "switched off"],
)
def test_nobody_is_foreseen_where_nobody_asks(core: EngineCore) -> None:
    assert core._lessons.predictor is None
    assert predicted(serve(core)) == 0.0


def test_the_next_engine_knows_what_this_one_learned(tmp_path: Path) -> None:
    path = tmp_path / "profiles" / "model.json"
    first = aware(Profile(flat_prices(), path=path))
    serve(first)
    first.close()
    assert {file.name for file in path.parent.iterdir()} == {"model.json", "model.lengths.npz"}
    second = aware(Profile(flat_prices(), path=path))
    second.add(request([1, 7, 9], uid=0, max_tokens=40))
    assert predicted(run(second)) > 0.0


def test_a_damaged_file_is_a_cold_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "model.json"
    path.with_suffix(".lengths.npz").write_bytes(b"no arrays")
    core = aware(Profile(flat_prices(), path=path))
    assert "model.lengths.npz is ignored" in caplog.text
    assert predicted(serve(core)) == 0.0


def test_who_is_never_idle_learns_all_the_same() -> None:
    core = aware()
    learned = list[int]()
    for uid in range(5 * MIN_OBSERVED):
        core.add(request([uid + 1, 7, 9], uid=uid, max_tokens=2))
    while core.has_work:
        core.step()
        learned.append(predictor_of(core).report().num_observed)
    assert {8, 16, 24, 32} <= set(learned), "the first at once"
    assert 3 * MIN_OBSERVED < learned[-1] < 5 * MIN_OBSERVED and len(set(learned[-10:])) < 5
    core.close()
    assert predictor_of(core).report().num_observed == 5 * MIN_OBSERVED


def test_a_predictor_that_fails_harms_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise ZeroDivisionError("played")

    expected = tokens_of(serve(aware(prediction=False)))
    monkeypatch.setattr(predictors, "features", fail)
    core = aware()
    assert tokens_of(serve(core)) == expected
    assert predictor_of(core).report().num_failures >= 2 * MIN_OBSERVED
