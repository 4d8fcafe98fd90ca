"""``python -m benchmarks.service``: a real small server from start to end, and what is sent."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks import service
from benchmarks.service_result import ServiceResult
from prelude.bench import machine
from prelude.bench.workload import Workload
from prelude.conf.bench import Arrival
from prelude.conf.load import load_config
from tests.bench_results import PROBE

URL = "http://127.0.0.1:1/v1"


def prompts(*argv: str, level: float) -> list[Any]:
    config = service.workload_config(service.parse(list(argv)), level, URL)
    return [draft.prompt.content for draft in Workload(config).drafts()]


def test_closed_loads_fill_their_last_wave() -> None:
    args = service.parse(["--requests", "200"])
    counts = {c: service.workload_config(args, c, URL).num_requests for c in service.LOADS}
    assert counts == {1: 200, 4: 200, 16: 208, 64: 256, 96: 288, 128: 256}


def test_the_published_workload_keeps_its_count() -> None:
    config = service.workload_config(service.parse(["--workload", "headline_ids"]), 96, URL)
    assert (config.num_requests, config.concurrency, config.keepalive) == (200, 96, False)


def test_open_loads_are_rates() -> None:
    args = service.parse(["--workload", "chat", "--loads", "0.5", "2", "--requests", "30"])
    config = service.workload_config(args, 2.0, URL)
    assert (config.arrival, config.rate, config.num_requests) == (Arrival.poisson, 2.0, 30)
    assert service.slots(args) == []


def test_no_level_repeats_the_prompts_of_another() -> None:
    argv = ["--loads", "1", "4", "--requests", "8"]
    first, second = (prompts(*argv, level=level) for level in (1, 4))
    assert first == prompts(*argv, level=1)
    assert not {str(prompt) for prompt in first} & {str(prompt) for prompt in second}


def test_a_slot_for_each_request_in_flight() -> None:
    assert service.slots(service.parse([])) == ["runner.max_seqs=128"]
    assert service.slots(service.parse(["--loads", "1"])) == ["runner.max_seqs=64"]


def test_a_model_is_a_name_or_a_folder(tmp_path: Path) -> None:
    assert service.model_override("qwen3_4b") == "model=qwen3_4b"
    assert service.model_override(str(tmp_path)) == f"model.path='{tmp_path}'"


@pytest.mark.parametrize(
    ("overrides", "accelerators", "device"),
    [([], [], "cpu"), ([], ["H200"], "cuda"), (["runner.device=cpu"], ["H200"], "cpu")],
)
def test_the_device_that_is_meant(
    monkeypatch: pytest.MonkeyPatch, overrides: list[str], accelerators: list[str], device: str
) -> None:
    monkeypatch.setattr(machine, "accelerators", lambda: accelerators)
    assert service.device_of(load_config(["model=tiny", *overrides])) == device


def test_a_small_service_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(service, "probe_apart", lambda *_: PROBE)
    path = tmp_path / "deep" / "result.json"
    eager = ["--override", "graphs.capture=eager", "--set", "classes.prefill.prompt.value=40"]
    document = service.main(["--small", *eager, "--result", str(path)])
    captured = capsys.readouterr()
    assert json.loads(captured.out) == json.loads(path.read_text()) == document
    assert "prefill: tiny float32" in captured.err
    assert "roof (cpu): 30.0 GB/s, 177 GFLOP/s" in captured.err
    result = msgspec.convert(document, ServiceResult)
    assert [(level.load, level.server) for level in result.levels] == [
        (1, "prelude"),
        (4, "prelude"),
    ]
    for level in result.levels:
        total = level.result.total
        assert (total.num_completed, total.num_sent) == (8, 8)
        assert total.cached_tokens == 0
        assert level.floor is not None and level.floor.prompt_tokens == 40
        assert level.floor.req_s is not None and level.floor.req_s > 0
    assert result.environment.probe == PROBE
    assert {process.role for process in result.environment.processes} == {"benchmark", "server"}
