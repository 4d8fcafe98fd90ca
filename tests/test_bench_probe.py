"""The probe measures what it says, here and in a process of its own; sizes shrunk for the test."""

import json
import subprocess
import sys
import time

import pytest
import torch

from prelude.bench import probe as module
from prelude.bench.result import Probe
from prelude.kernels import pages
from tests.bench_results import PROBE


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READ_BYTES", {"cpu": 2**20, "cuda": 2**20})
    monkeypatch.setattr(module, "GEMM_SIZE", {"cpu": 64, "cuda": 64})


def test_a_probe_here() -> None:
    probe = module.probe("cpu", 1, "float32", repeats=2)
    assert (probe.device, probe.threads, probe.dtype) == ("cpu", 1, "float32")
    assert probe.read_gb_s > 0.01
    assert probe.gemm_gflop_s > 0.001
    assert 0.0 < probe.quiet.spin_share <= 1.0


def test_what_is_read_lies_where_weights_do(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    empty = pages.empty

    def spy(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        shapes.append(shape)
        return empty(shape, dtype, device)

    monkeypatch.setattr(pages, "empty", spy)
    module.probe("cpu", 1, "float32", repeats=1)
    assert shapes == [(2**18,)]


@pytest.mark.cuda
def test_a_probe_of_the_gpu() -> None:
    probe = module.probe("cuda", 1, "bfloat16", repeats=2)
    assert probe.device == torch.cuda.get_device_name()
    assert probe.read_gb_s > 0.0 and probe.gemm_gflop_s > 0.0


def test_the_best_of_the_repeats_counts_and_the_first_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = iter([0.0, 0.5, 1.0, 4.0, 4.0, 6.0, 6.0, 9.0])  # lasting 0.5, 3, 2, 3
    monkeypatch.setattr(time, "perf_counter", lambda: next(times))
    calls: list[str] = []
    best = module._best_s(lambda: calls.append("work"), lambda: calls.append("sync"), 3)
    assert best == 2.0
    assert calls == ["sync", "work", "sync"] * 4


def test_apart_decodes_what_the_child_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = {"load_1min": 0.5, "busy_share": 0.0, "spin_share": 1.0, "quiet": True}
    record = {"device": "cpu", "threads": 2, "dtype": "float32", "quiet": quiet}
    line = json.dumps({**record, "read_gb_s": 30.0, "gemm_gflop_s": 177.0})
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, stdout=f"noise\n{line}\n", stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    probe = module.probe_apart("cpu", 2, "float32")
    assert isinstance(probe, Probe)
    assert (probe.read_gb_s, probe.quiet.quiet) == (30.0, True)
    (command,) = commands
    assert command == [sys.executable, "-P", "-m", "prelude.bench.probe", "cpu", "2", "float32"]


def test_a_child_that_failed_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, stdout="", stderr="no such thing as torch")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(RuntimeError, match=r"probe=false skips it.*no such thing"):
        module.probe_apart("cpu", 1, "float32")


def test_a_roof_of_now_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    roof = module.Roof("cpu", "float32")
    times = iter([0.0, 0.5, 1.0, 1.25])
    monkeypatch.setattr(time, "perf_counter", lambda: next(times))
    now = roof.of_now(PROBE)
    assert now.read_gb_s == pytest.approx(2**20 / 0.5 / 1e9)
    assert now.gemm_gflop_s == pytest.approx(2 * 64**3 / 0.25 / 1e9)
    assert (now.device, now.quiet) == (PROBE.device, PROBE.quiet)


def test_the_command_prints_one_record(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["probe", "cpu", "1"])
    module.main()
    record = json.loads(capsys.readouterr().out)
    assert (record["threads"], record["dtype"]) == (1, "float32")


def test_an_unknown_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["probe", "tpu"])
    with pytest.raises(SystemExit):
        module.main()
