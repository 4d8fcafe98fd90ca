"""What a run of Schemathesis comes to."""

from typing import Any

import msgspec
import pytest

from benchmarks.schemathesis_run import count, summed

FAILURE = {"failure": {"type": "ServerError", "message": "Server error"}}


def event(label: str, *statuses: str) -> bytes:
    checks = {
        str(n): [{"name": "not_a_server_error", "status": status, "failure_info": FAILURE}]
        for n, status in enumerate(statuses)
    }
    sent = {name: {"request": {"body": "{}"}} for name in checks}
    recorder = {"label": label, "checks": checks, "interactions": sent}
    return msgspec.json.encode({"ScenarioFinished": {"recorder": recorder}})


def result(seed: int, engine: str = "null", phases: tuple[str, ...] = ("fuzzing",)) -> Any:
    found = count([event("GET /health", "success", "failure")])
    run = {"seed": seed, "phases": list(phases), "command": []}
    return {"engine": engine, "versions": {}, "runs": [run], **found}


def test_failures_are_counted_by_operation() -> None:
    error = {"label": "GET /metrics", "value": {"type": "ReadTimeout", "message": "late"}}
    lines = [
        event("GET /health", "success", "failure"),
        event("GET /health", "success"),
        b'{"ScenarioFinished": {"recorder": {"label": "GET /version"}}}',
        msgspec.json.encode({"NonFatalError": error}),
    ]
    found = count(lines)
    assert found["cases"] == {"GET /health": 3, "GET /version": 0}
    assert found["failures"] == {"GET /health: not_a_server_error": 1}
    assert found["errors"] == {"GET /metrics: ReadTimeout": 1}
    assert [one["body"] for one in found["examples"]] == ["{}"]


def test_runs_of_other_seeds_are_added() -> None:
    both = summed(result(1), result(2))
    assert both["cases"] == {"GET /health": 4}
    assert both["failures"] == {"GET /health: not_a_server_error": 2}
    assert [run["seed"] for run in both["runs"]] == [1, 2]
    assert len(summed(result(1), result(1, phases=("coverage",)))["runs"]) == 2
    with pytest.raises(ValueError, match="seed 2 was run already"):
        summed(both, result(2))
    with pytest.raises(ValueError, match="engine was null, and is demo"):
        summed(both, result(3, engine="demo"))
