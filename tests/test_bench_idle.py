"""Gaps in a trace, by hand; and a real trace of a tiny model, where operators are the kernels."""

import json

import pytest
import torch

from benchmarks import idle
from benchmarks.idle import Gap, Span, gaps_of, report


def test_gaps_are_what_nothing_covers() -> None:
    spans = [
        Span("c", 30.0, 40.0),
        Span("a", 0.0, 20.0),
        Span("b", 5.0, 10.0),
        Span("d", 40.0, 41.0),
    ]
    assert gaps_of(spans) == [Gap(10.0, "a", "c")], "b lies within a, d follows c at once"


def test_short_gaps_are_not_idle() -> None:
    spans = [Span("k", start, start + 10.0) for start in (0.0, 12.0, 42.0, 90.0)]
    found = report(spans, num_steps=2)
    assert found["step_us"] == 50.0
    assert found["short_gaps_us_a_step"] == 1.0
    assert found["idle_us_a_step"] == (20.0 + 38.0) / 2
    assert found["idle_share"] == pytest.approx(0.58)
    assert [gap["us"] for gap in found["largest_gaps"]] == [38.0, 20.0]


def test_an_empty_trace_is_an_error() -> None:
    with pytest.raises(ValueError, match="no kernels"):
        report([], 1)


def test_a_tiny_engine(capsys: pytest.CaptureFixture[str]) -> None:
    torch.set_num_threads(1)
    eager = ["model=tiny", "runner.threads=1", "graphs.capture=eager"]
    result = idle.main(["--batch", "3", "--context", "20", "--steps", "4", *eager])
    captured = capsys.readouterr()
    assert json.loads(captured.out)["idle_share"] == result["idle_share"]
    assert (result["batch"], result["context"], result["steps"]) == (3, 20, 4)
    assert 0.0 <= result["idle_share"] < 1.0
    assert result["spans_a_step"] > 10
    assert "us a step" in captured.err
