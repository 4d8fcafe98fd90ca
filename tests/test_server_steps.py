"""Steps as the server hears of them."""

from prelude.server.steps import StepWatch
from prelude.types.wire import EngineStats


def told(*steps: tuple[int, float, float]) -> StepWatch:
    watch = StepWatch()
    for num_steps, step_ms, budget_ms in steps:
        watch(EngineStats(num_steps=num_steps, step_ms=step_ms, budget_ms=budget_ms))
    return watch


def test_each_step_counts_once() -> None:
    watch = told((1, 10.0, 50.0), (1, 10.0, 50.0), (2, 20.0, 50.0), (2, 20.0, 50.0))
    assert sum(watch.durations.counts) == 2
    assert watch.durations.sum_s == 0.03


def test_an_engine_that_has_not_begun_has_no_steps() -> None:
    assert sum(told((0, 0.0, 0.0)).durations.counts) == 0


def test_a_step_is_over_its_own_budget() -> None:
    watch = told((1, 49.0, 50.0), (2, 51.0, 50.0), (3, 51.0, 500.0), (4, 10.0, 0.0))
    assert sum(watch.over.counts) == 1


def test_the_longest_is_taken_once() -> None:
    watch = told((1, 10.0, 50.0), (2, 30.0, 50.0), (3, 20.0, 50.0))
    assert watch.take_max() == 30.0
    assert watch.take_max() is None
    watch(EngineStats(num_steps=4, step_ms=5.0))
    assert watch.take_max() == 5.0
