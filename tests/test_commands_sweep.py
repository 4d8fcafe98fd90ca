"""Sweeps: expansion, checks before the first run, results of each run."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from prelude.cli import main
from prelude.commands.sweep import expand, sweep
from prelude.conf.command import BENCH_SERVE
from prelude.conf.compose import ConfigError

Capture = pytest.CaptureFixture[str]
NOBODY = ["workload=smoke", "base_url=http://127.0.0.1:9/v1", "probe=false"]


@pytest.mark.parametrize(
    ("lines", "points"),
    [
        ([], [[]]),
        (["a=1"], [["a=1"]]),
        (["a=1,2"], [["a=1"], ["a=2"]]),
        (["a=1,2", "b=x", "c=range(0,2)"], [
            ["a=1", "b=x", "c=0"],
            ["a=1", "b=x", "c=1"],
            ["a=2", "b=x", "c=0"],
            ["a=2", "b=x", "c=1"],
        ]),
        (["a=[1,2]"], [["a=[1,2]"]]),
        (["a=[1,2],[3]"], [["a=[1,2]"], ["a=[3]"]]),
        (["+a.b=x,y"], [["+a.b=x"], ["+a.b=y"]]),
        (["~a"], [["~a"]]),
        (["a='x,y',z"], [["a='x,y'"], ["a=z"]]),
    ],
)  # fmt: skip
def test_expansion(lines: list[str], points: list[list[str]]) -> None:
    assert expand(lines) == points


@pytest.mark.parametrize("line", ["a=interval(0,1)", "a=glob(*)", "a=b(", "a"])
def test_what_cannot_be_swept(line: str) -> None:
    with pytest.raises(ConfigError):
        expand([line])


def test_a_sweep_is_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="1001 runs in this sweep; at most 1000"):
        sweep("serve", BENCH_SERVE, ["seed=range(0,1001)"], [], tmp_path)


def test_all_points_are_checked_before_the_first_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(subprocess, "run", None)
    with pytest.raises(ConfigError, match="rate=x: must be a number"):
        sweep("serve", BENCH_SERVE, ["rate=1,x"], [], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_runs_that_fail_are_recorded(capsys: Capture, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["bench", "serve", "-m", *NOBODY, "seed=1,2", "--out", str(out)]) == 1
    captured = capsys.readouterr()
    assert captured.out == f"{out / 'sweep.json'}\n"
    assert "[2/2] workload=smoke" in captured.err
    points = json.loads((out / "sweep.json").read_text())
    assert [point["overrides"][-1] for point in points] == ["seed=1", "seed=2"]
    assert [point["exit_code"] for point in points] == [1, 1]


def test_results_of_runs_are_their_last_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # The child is this interpreter: -m prelude ... becomes arguments that it prints back.
    code = "import json, sys; print('table'); print(json.dumps(sys.argv[1:]))"
    run = subprocess.run

    def instead(command: list[str], **kwargs: Any) -> Any:
        return run([command[0], "-c", code, *command[3:]], **kwargs)

    monkeypatch.setattr(subprocess, "run", instead)
    folder = tmp_path / "mine"
    folder.mkdir()
    out = tmp_path / "out"
    assert sweep("serve", BENCH_SERVE, ["rate=1,2"], [str(folder)], out) == 0
    for number, rate in enumerate((1, 2)):
        result = json.loads((out / str(number) / "result.json").read_text())
        assert result == ["bench", "serve", "--config-dir", str(folder), f"rate={rate}"]


def test_results_go_to_a_folder_of_their_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["bench", "serve", "-m", *NOBODY])
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("bench-serve-20")
    assert sorted(path.name for path in folder.iterdir()) == ["0", "sweep.json"]
