"""The benchmark of a decision: the crowd is as large as it says, whatever the policy does."""

import json
from pathlib import Path
from random import Random

import pytest

from benchmarks import scheduling_decide
from benchmarks.scheduling_decide import RUNNING, WAITING, crowded, decision_us, requests
from prelude.conf.schema import Policy


@pytest.mark.parametrize("policy", list(Policy))
def test_all_wait_for_slots(policy: Policy) -> None:
    core, watch = crowded(policy, full="slots")
    watch.us.clear()
    for _ in range(3):
        core.step()
    assert len(watch.us) == 3
    assert core.ledger.num_running + core.ledger.num_waiting == RUNNING + WAITING
    assert core.ledger.num_running >= RUNNING - 2  # a step in which somebody makes room


@pytest.mark.parametrize("policy", list(Policy))
def test_all_wait_for_memory(policy: Policy) -> None:
    core, _ = crowded(policy, full="memory")
    for _ in range(3):
        core.step()
    assert core.ledger.num_running + core.ledger.num_waiting == RUNNING + WAITING
    assert core.ledger.num_waiting > 0.9 * WAITING
    assert core.ledger.num_free_slots > 0


def test_requests_are_of_all_kinds_and_begin_differently() -> None:
    found = list(requests(300, 7, Random(1)))
    assert len({tuple(request.prompt_ids[:2]) for request in found}) == 300
    assert {len(request.prompt_ids) for request in found} == {60, 100, 1500}
    assert len({request.hints.client for request in found}) > 8
    assert {request.hints.service_class for request in found} == {None, "deep"}


def test_the_result_names_every_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, count in (("BLOCK", 2), ("TURNS", 2), ("SETTLE", 2)):
        monkeypatch.setattr(scheduling_decide, name, count)
    output = tmp_path / "decide.json"
    scheduling_decide.main(["--output", str(output)])
    document = json.loads(output.read_text())
    assert json.loads(capsys.readouterr().out) == document
    assert set(document["schedule_us"]) == {policy.value for policy in Policy}
    text = scheduling_decide.table(document)
    assert text.count("\n| ") == 1 + len(Policy)
    assert "| 200 / 80 |" in text
    for of in document["schedule_us"].values():
        assert of["slots"]["running"] >= RUNNING - 2
        assert 0.0 < of["slots"]["p50"] <= of["slots"]["p99"]


def test_the_best_turn_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, count in (("BLOCK", 3), ("TURNS", 2), ("SETTLE", 1)):
        monkeypatch.setattr(scheduling_decide, name, count)
    found = decision_us(Policy.fcfs, full="slots")
    assert found["waiting"] == WAITING
