"""When the next step is planned: as late as experience allows."""

import random

import pytest

from prelude.engine.pace import Pace


def test_a_step_is_due_before_its_predicted_end_by_the_planning_time() -> None:
    pace = Pace()
    pace.started(10.0, 50.0)
    assert pace.slack_ms(10.0) == pytest.approx(50.0 - pace.planning_ms - pace.early_ms)
    assert pace.slack_ms(10.0501) < 0.0


def test_the_margin_covers_nine_in_ten() -> None:
    pace, rng = Pace(), random.Random(1)
    lengths = [rng.uniform(1.0, 3.0) for _ in range(2000)]
    errors = [rng.gauss(0.0, 2.0) for _ in range(2000)]
    late = 0
    for planning_ms, error_ms in zip(lengths, errors, strict=True):
        late += planning_ms > pace.planning_ms
        pace.planned(planning_ms)
        pace.ended(20.0 + error_ms, 20.0)
    assert 0.05 < late / 2000 < 0.15
    assert 2.0 < pace.planning_ms < 4.0
    assert 1.5 < pace.early_ms < 5.0


def test_one_stall_does_not_spoil_it() -> None:
    pace = Pace()
    for _ in range(100):
        pace.planned(1.0)
    before = pace.planning_ms
    pace.planned(500.0)
    assert pace.planning_ms < 1.5 * before


def test_steps_that_take_longer_than_their_price_need_no_margin() -> None:
    pace = Pace()
    for _ in range(300):
        pace.ended(20.0, 25.0)
    assert pace.early_ms == pytest.approx(0.01)
