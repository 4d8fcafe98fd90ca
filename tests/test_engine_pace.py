"""When the next step is planned: as late as experience allows."""

import random

import pytest

from prelude.engine.pace import Pace


def serve(pace: Pace, rng: random.Random, num_steps: int, planning_ms: float, error: float) -> int:
    """Steps of 20 ms whose successors are planned when they are due; how often the device waits."""
    now_s, num_waits = 100.0, 0
    for _ in range(num_steps):
        pace.started(now_s, 20.0)
        run_ms = 20.0 * rng.gauss(1.0, error)
        submitted_s = now_s + (pace.slack_ms(now_s) + rng.uniform(0.5, 1.0) * planning_ms) / 1e3
        pace.submitted(submitted_s)
        pace.ended(run_ms)
        now_s = max(now_s + run_ms / 1e3, submitted_s)
        num_waits += submitted_s > now_s - 1e-9
    return num_waits


def test_a_step_is_due_a_margin_before_its_predicted_end() -> None:
    pace = Pace()
    pace.started(10.0, 50.0)
    assert pace.slack_ms(10.0) == pytest.approx(50.0 - pace.margin_ms)
    assert pace.slack_ms(10.0501) < 0.0


@pytest.mark.parametrize(("planning_ms", "error"), [(0.2, 0.0), (3.0, 0.0), (0.5, 0.05)])
def test_the_margin_settles_where_the_device_hardly_waits(planning_ms: float, error: float) -> None:
    pace, rng = Pace(), random.Random(1)
    serve(pace, rng, 300, planning_ms, error)
    assert serve(pace, rng, 2000, planning_ms, error) < 130
    assert planning_ms * 0.8 < pace.margin_ms < 1.5 * planning_ms + 4.0 * 20.0 * error


def test_one_stall_does_not_spoil_it() -> None:
    pace, rng = Pace(), random.Random(1)
    serve(pace, rng, 300, 1.0, 0.0)
    before = pace.margin_ms
    serve(pace, rng, 1, 500.0, 0.0)
    assert pace.margin_ms < 1.5 * before


def test_the_margin_is_no_longer_than_the_step() -> None:
    pace = Pace()
    for _ in range(100):
        pace.started(10.0, 2.0)
        pace.submitted(10.1)
        pace.ended(2.0)
    assert pace.margin_ms == pytest.approx(2.0)
    assert pace.slack_ms(10.0) == pytest.approx(0.0)
