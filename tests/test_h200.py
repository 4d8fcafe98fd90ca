"""The H200 script: time is shared out, whatever happens is written down, and nothing is left."""

import json
import os
import select
import sys
import time
from pathlib import Path

import pytest

from benchmarks import h200
from benchmarks.h200 import Outcome, Part, run_all


def python(name: str, code: str, seconds: float = 20.0) -> Part:
    return Part(name, ("-c", code), seconds)


def test_outcomes_hold_the_last_json_and_the_last_words(tmp_path: Path) -> None:
    code = """print('{"a": 1}'); print('{"a": 2}'); print('{no json'); print('bye')"""
    outcomes = run_all([python("one", code)], tmp_path, 60.0)
    assert outcomes["one"].result == {"a": 2}
    assert outcomes["one"].tail.splitlines()[-1] == "bye"
    saved = json.loads((tmp_path / "h200.json").read_text())["parts"]["one"]
    assert saved["result"] == {"a": 2} and saved["status"] == 0
    assert saved["command"].startswith("python -c")
    assert "==== one" in (tmp_path / "h200.log").read_text()


def test_a_part_that_fails_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = [python("bad", "raise SystemExit(3)"), python("good", "print(1)")]
    monkeypatch.setattr(h200, "device_parts", lambda: parts)
    assert h200.main(["--out", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "bad" in out and "status 3" in out and "status 0" in out
    assert h200.main(["--out", str(tmp_path), "--only", "good"]) == 0


def test_a_part_that_overruns_is_ended_with_its_children(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'])\n"
        "print(child.pid, flush=True)\n"
        "child.wait()\n"
    )
    start = time.monotonic()
    (outcome,) = run_all([python("slow", code, 2.0)], tmp_path, 60.0).values()
    assert outcome.status is None and time.monotonic() - start < 20
    pid = int(outcome.tail.split()[0])
    try:
        child = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended, _, _ = select.select([child], [], [], 20.0)
    os.close(child)
    if not ended:
        os.kill(pid, 9)
        pytest.fail("the child runs on")


def shares(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, budget_s: float) -> list[float]:
    """What three parts of 10 seconds get where the first takes 1 and the second all it may."""
    now, limits = [0.0], []

    def part(_: Part, limit_s: float, __: object) -> Outcome:
        limits.append(limit_s)
        now[0] += 1.0 if len(limits) == 1 else max(limit_s, 0.0)
        return Outcome("", 0.0, 0, None, "")

    monkeypatch.setattr(h200, "run_part", part)
    run_all([python(name, "", 10.0) for name in "abc"], tmp_path, budget_s, clock=lambda: now[0])
    return limits


def test_time_left_over_is_for_later_parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert shares(monkeypatch, tmp_path, 100.0) == [10.0, 19.0, 10.0]


def test_the_budget_bounds_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert shares(monkeypatch, tmp_path, 15.0) == [10.0, 14.0, 0.0]


def test_no_time_is_no_process(tmp_path: Path) -> None:
    (outcome,) = run_all([python("late", "print(1)")], tmp_path, 0.0).values()
    assert (outcome.status, outcome.tail) == (None, "no time was left")


def test_the_device_run_fits_its_limit_and_names_modules_that_exist() -> None:
    parts = h200.device_parts()
    assert sum(part.seconds for part in parts) <= 570
    for part in (*parts, *h200.dry_parts()):
        if len(part.words) > 1:
            module = part.words[1]
            if module.startswith("benchmarks."):
                assert (h200.ROOT / (module.replace(".", "/") + ".py")).exists(), module
    assert [part.name for part in parts] == [part.name for part in h200.dry_parts()]


def test_tests_that_need_a_gpu_are_found() -> None:
    assert "tests/test_bench_probe.py" in h200.cuda_tests()


def test_an_unknown_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        h200.main(["--out", str(tmp_path), "--only", "lunch"])
    assert "no part lunch" in capsys.readouterr().err


def test_a_dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Parts that other tests do not run already."""
    argv = [
        "--out",
        str(tmp_path),
        "--dry-run",
        "--only",
        "environment",
        "correctness",
        "decode_4b",
    ]
    assert h200.main(argv) == 0, capsys.readouterr().out
    parts = json.loads((tmp_path / "h200.json").read_text())["parts"]
    assert list(parts) == ["environment", "correctness", "decode_4b"]
    assert parts["decode_4b"]["result"]["timings"][0]["kind"] == "decode"
    assert sys.executable not in (tmp_path / "h200.json").read_text(), "no machine's paths"


@pytest.mark.slow
def test_a_dry_run_of_all_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert h200.main(["--out", str(tmp_path), "--dry-run"]) == 0, capsys.readouterr().out
    parts = json.loads((tmp_path / "h200.json").read_text())["parts"]
    assert parts["ceilings"]["result"]["read_gb_s"] > 0
    assert len(parts["prefill_512"]["result"]["levels"]) == 2
    assert parts["idle"]["result"]["device"] == "cpu"
