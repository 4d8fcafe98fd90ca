"""Searches with Optuna: proposals, objectives, and continuing where one was left."""

import builtins
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from prelude.conf.compose import ConfigError
from prelude.conf.sweep import SweepOptions
from prelude.sweep.outcome import Outcome
from prelude.sweep.points import Point, space_of
from prelude.sweep.search import after_search, objectives, problem, search
from prelude.sweep.targets import TARGETS
from tests.sweeps import outcome

OBJECTIVE = "chat.ttft_ms.p99"
CHEAP = ("mix=m4", "traffic.load=null", "traffic.rate=4", "traffic.num_requests=40")


def found(*lines: str, **options: Any) -> Any:
    chosen = SweepOptions(**{"objectives": [OBJECTIVE], "trials": 12, **options})
    return problem(space_of("simulate", TARGETS["simulate"], [*CHEAP, *lines]), chosen)


def parabola(points: Sequence[Point]) -> list[Outcome]:
    """Best at a share of 0.3."""
    made = []
    for point in points:
        share = float(dict(point.swept)["batcher.deep_share"])
        seed = int(dict(point.swept).get("traffic.seed", "0"))
        made.append(outcome(point, {OBJECTIVE: (share - 0.3) ** 2 + seed, "total.req_s": share}))
    return made


def test_a_search_finds_the_bottom() -> None:
    points, outcomes = search(found("batcher.deep_share=interval(0,1)", trials=40), 1, parabola)
    assert len(points) == len(outcomes) <= 40
    best = min(outcomes, key=lambda item: item.values()[OBJECTIVE])
    assert best.values()[OBJECTIVE] < 0.01


def test_every_trial_runs_under_all_seeds_and_traffic() -> None:
    made = found("batcher.deep_share=interval(0,1)", "traffic.seed=range(0,3)", trials=5)
    points, _ = search(made, 1, parabola)
    by_share: dict[str, list[str]] = {}
    for point in points:
        swept = dict(point.swept)
        by_share.setdefault(swept["batcher.deep_share"], []).append(swept["traffic.seed"])
    assert all(seeds == ["0", "1", "2"] for seeds in by_share.values())


def test_the_same_search_proposes_the_same() -> None:
    first, _ = search(found("batcher.deep_share=interval(0,1)"), 2, parabola)
    again, _ = search(found("batcher.deep_share=interval(0,1)"), 2, parabola)
    other, _ = search(found("batcher.deep_share=interval(0,1)", search_seed=1), 2, parabola)
    assert [point.digest for point in first] == [point.digest for point in again]
    assert [point.digest for point in first] != [point.digest for point in other]


def test_so_many_are_proposed_at_once() -> None:
    sizes: list[int] = []

    def gather(points: Sequence[Point]) -> list[Outcome]:
        sizes.append(len(points))
        return parabola(points)

    made = found("batcher.deep_share=interval(0,1)", "traffic.seed=1,2", trials=5)
    search(made, 2, gather)
    assert sizes == [4, 4, 2]


def test_whole_numbers_and_choices_are_proposed_as_such() -> None:
    def gather(points: Sequence[Point]) -> list[Outcome]:
        return [outcome(point, {OBJECTIVE: 1.0}) for point in points]

    made = found("batcher.max_bypass=interval(1,9)", "batcher.policy=fcfs,class_aware", trials=8)
    points, _ = search(made, 1, gather)
    assert {p.config.batcher.policy.value for p in points} <= {"fcfs", "class_aware"}
    assert all(1 <= point.config.batcher.max_bypass <= 9 for point in points)


def test_two_objectives_and_one_that_should_be_high() -> None:
    made = found("batcher.deep_share=interval(0,1)", objectives=[OBJECTIVE, "total.req_s"])
    points, outcomes = search(made, 3, parabola)
    assert len(points) == len(outcomes) > 0


def test_the_best_setting_is_put_on_top() -> None:
    made = found("batcher.deep_share=interval(0,1)", "traffic.seed=1,2")
    points, outcomes = search(made, 1, parabola)
    options = after_search(made.options, made.space, points, outcomes)
    best = min(outcomes, key=lambda item: item.values()[OBJECTIVE])
    assert options.subject == [line for line in best.overrides if "deep_share" in line]
    assert (options.headline, options.pareto) == ([OBJECTIVE], [])
    mine = replace(made.options, subject=["a=1"], headline=["x"])
    kept = after_search(mine, made.space, points, outcomes)
    assert (kept.subject, kept.headline) == (["a=1"], ["x"])
    lost = [outcome(point, {}, "no") for point in points]
    assert after_search(mine, made.space, points, lost) == mine


def test_trials_that_fail_do_not_end_the_search() -> None:
    calls = iter(range(100))

    def gather(points: Sequence[Point]) -> list[Outcome]:
        return [outcome(p, {OBJECTIVE: 1.0}, "no" if next(calls) % 2 else "") for p in points]

    _, outcomes = search(found("batcher.deep_share=interval(0,1)", trials=6), 1, gather)
    assert [bool(item.error) for item in outcomes].count(True) == 3


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        (["batcher.deep_share=interval(0,1)"], {"objectives": []}, "sweep.objectives: what to"),
        (["traffic.seed=1,2"], {}, "only traffic is swept"),
        (["traffic.rate=interval(1,2)", "batcher.policy=fcfs,priority"], {}, "not searched over"),
        (["batcher.max_waiting=interval(0,9)"], {}, "max_waiting"),
        (["batcher.policy=fcfs,nothing"], {}, "batcher.policy"),
        (["batcher.policy=fcfs,priority"], {"max_points": 11}, "12 points in this sweep"),
    ],
)
def test_what_cannot_be_searched_is_said_at_once(
    lines: list[str], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        found(*lines, **options)


def test_objectives_are_means_and_have_to_exist() -> None:
    of = found("batcher.deep_share=interval(0,1)", "traffic.seed=0,2")
    points = of.points((("batcher.deep_share", "0.3"),))
    made = parabola(points)
    assert objectives(made, [OBJECTIVE]) == [1.0]
    assert objectives([made[0], outcome(points[1], {}, "no")], [OBJECTIVE]) is None
    with pytest.raises(ConfigError, match=r"no metric chat.nothing; there are chat.ttft_ms"):
        objectives(made, ["chat.nothing"])


def test_without_optuna_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "optuna":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pip install 'prelude-llm\[sweep\]'"):
        found("batcher.deep_share=interval(0,1)")
