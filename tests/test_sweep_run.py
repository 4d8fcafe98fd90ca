"""``prelude sweep`` as a user meets it: what runs, what is run again, what is refused, what is left
in the folder."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from prelude.bench.result import (
    EngineResult,
    Interval,
    PriceError,
    PricesResult,
    StepTiming,
    Summary,
)
from prelude.cli import main
from prelude.conf.command import SWEEP
from prelude.conf.compose import ConfigError
from prelude.conf.load import load
from prelude.conf.sweep import SweepConfig, SweepOptions
from prelude.sweep import run
from prelude.sweep.measures import measures_of
from prelude.sweep.outcome import Outcome
from prelude.sweep.points import grid, space_of
from prelude.sweep.pool import MakePool
from prelude.sweep.targets import TARGETS, server_arguments
from prelude.sweep.worker import Task, lost, run_task

Capture = pytest.CaptureFixture[str]
FEW = [
    "mix=m4",
    "traffic.load=null",
    "traffic.rate=4",
    "traffic.num_requests=40",
    "resamples=0",
]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Points run in this process; their digests."""
    digests: list[str] = []

    def here(tasks: Any, jobs: int, make: MakePool) -> Any:
        for task in tasks:
            digests.append(task.digest)
            yield run_task(task)

    monkeypatch.setattr(run, "run_all", here)
    return digests


def sweep(out: Path, *lines: str) -> int:
    return main(["sweep", "simulate", *FEW, f"sweep.out={out}", *lines])


def test_a_sweep_leaves_a_table_a_plot_and_a_report(
    tmp_path: Path, capsys: Capture, ran: list[str]
) -> None:
    lines = ("batcher.policy=fcfs,class_aware", "traffic.seed=range(0,2)")
    assert sweep(tmp_path / "out", *lines) == 0
    out, err = capsys.readouterr()
    assert out == f"{tmp_path / 'out' / 'report.html'}\n"
    assert err.count("batcher.policy=class_aware") == 2 and " s\n" in err
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"points", "points.jsonl", "table.csv", "pareto.svg", "report.html"}
    assert len(ran) == 4 == len(list((tmp_path / "out" / "points").iterdir()))
    text = (tmp_path / "out" / "report.html").read_text()
    assert "Policy: prelude simulate" in text
    assert "prelude sweep simulate mix=m4" in text and "traffic.seed=range(0,2)" in text


def test_what_is_there_is_not_run_again(tmp_path: Path, capsys: Capture, ran: list[str]) -> None:
    assert sweep(tmp_path, "traffic.seed=1,2") == 0
    first = (tmp_path / "table.csv").read_text()
    assert sweep(tmp_path, "traffic.seed=1,2") == 0
    assert len(ran) == 2 and (tmp_path / "table.csv").read_text() == first
    assert sweep(tmp_path, "traffic.seed=1,2,3") == 0
    assert len(ran) == 3
    assert sweep(tmp_path, "traffic.seed=1,2", "traffic.rate=5") == 0
    assert len(ran) == 5


def test_equal_points_are_run_once_and_both_in_the_table(tmp_path: Path, ran: list[str]) -> None:
    assert sweep(tmp_path, "mix=m4,m4") == 0
    assert len(ran) == 1
    lines = [json.loads(line) for line in (tmp_path / "points.jsonl").read_text().splitlines()]
    assert len(lines) == 2 and lines[0]["metrics"] == lines[1]["metrics"]


def test_a_point_that_fails_is_in_the_table_and_run_again(
    tmp_path: Path, capsys: Capture, ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(task: Task) -> Outcome:
        bad = task.config.traffic.seed == 1
        return run_task(msgspec.structs.replace(task, target="nothing") if bad else task)

    def here(tasks: Any, jobs: int, make: MakePool) -> Any:
        yield from map(failing, tasks)

    monkeypatch.setattr(run, "run_all", here)
    assert sweep(tmp_path, "traffic.seed=0,1") == 1
    err = capsys.readouterr().err
    assert "KeyError: 'nothing'" in err and "1 of 2 points failed; see the report" in err
    table = (tmp_path / "table.csv").read_text()
    assert "1,1,failed,KeyError: 'nothing'" in table and "0,0,ok," in table
    assert "1 point failed" in (tmp_path / "report.html").read_text()
    monkeypatch.setattr(run, "run_all", lambda tasks, jobs, make: map(run_task, tasks))
    assert sweep(tmp_path, "traffic.seed=0,1") == 0


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["traffic.rate=1,x"], "traffic.rate=x: must be a number"),
        (["traffic.rate=1,-1"], "traffic.rate=-1.0: out of bounds"),
        (["traffic.seed=range(0,11)", "sweep.max_points=10"], "11 points in this sweep"),
        (["sweep.jbos=2"], "did you mean sweep.jobs"),
        (["sweep.jobs=0.5"], "must be a whole number"),
        (["sweep.timeout_s=0"], "sweep.timeout_s: must be between"),
        (["sweep.pareto=[a]"], "sweep.pareto: two metrics"),
        (["sweep=nothing"], "no such option"),
        (['sweep.baseline=["batcher.policy=fcfs"]'], "no swept setting has batcher.policy"),
        (["mix=m4,m4", 'sweep.subject=["mix=m4"]'], "no swept setting has mix=m4"),
        (["batcher.deep_share=interval(0,1)"], "sweep.search=optuna"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(
    lines: list[str], message: str, tmp_path: Path, capsys: Capture, ran: list[str]
) -> None:
    out = tmp_path / "out"
    assert sweep(out, *lines) == 2
    err = capsys.readouterr().err
    assert message in err and len(err.splitlines()) == 1
    assert ran == [] and not out.exists()


def test_keys_of_other_peoples_servers_are_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def here(tasks: Any, jobs: int, make: MakePool) -> Any:
        for task in tasks:
            assert task.config.api_key == "s3cret"
            yield lost(task, "nobody there")

    monkeypatch.setattr(run, "run_all", here)
    out = tmp_path / "out"
    argv = ["sweep", "bench-serve", "api_key=s3cret", "rate=1,2", f"sweep.out={out}"]
    assert main(argv) == 1
    files = [path for path in out.rglob("*") if path.is_file()]
    assert len(files) == 5
    assert not any("s3cret" in path.read_text() for path in files)
    assert "api_key=..." in (out / "report.html").read_text()


def test_without_a_folder_there_is_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ran: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", "simulate", *FEW]) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("sweep-simulate-20")


def test_usage_and_help(capsys: Capture) -> None:
    assert main(["sweep", "--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out and target.summary in out for name, target in TARGETS.items())
    assert main(["sweep"]) == 2
    assert main(["sweep", "nothing"]) == 2
    assert "sweep nothing: unknown target" in capsys.readouterr().err


@pytest.mark.parametrize("target", TARGETS)
def test_help_lists_the_keys_of_sweep_and_target(target: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main(["sweep", target, "--help"])
    out = capsys.readouterr().out
    assert "sweep.jobs=null" in out and f"{TARGETS[target].seed}=0" in out
    assert "ablation | empty | policies | tuned" in out


@pytest.mark.parametrize(
    ("name", "num", "settings"), [("policies", 12, 4), ("tuned", 12, 12), ("ablation", 13, 13)]
)
def test_ready_made_sweeps_are_whole(name: str, num: int, settings: int) -> None:
    options = load(SWEEP, SweepConfig, [f"sweep={name}"]).sweep
    of = space_of("simulate", TARGETS["simulate"], [*options.params, "traffic.seed=0"])
    found = grid(of, options.max_points)
    assert len(found) == num == len({point.digest for point in found})
    swept = {tuple(p for p in point.swept if of.is_setting(p[0])) for point in found}
    assert len(swept) == settings
    for lines in (options.baseline, options.subject):
        wanted = {tuple(line.split("=", 1)) for line in lines}
        assert any(wanted <= set(setting) for setting in swept)


def test_simulations_use_the_cores_and_measurements_have_the_machine_to_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    for name, target in TARGETS.items():
        of = space_of(name, target, [])
        plan = run.planned(of, SweepOptions(out=str(tmp_path / name)), "")
        assert plan.jobs == (7 if name == "simulate" else 1)
        plan = run.planned(of, SweepOptions(out=str(tmp_path / name), jobs=3), "")
        assert plan.jobs == 3


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_has_points_and_only_known_keys(target: str) -> None:
    of = space_of(target, TARGETS[target], [f"{TARGETS[target].seed}=1,2"])
    points = grid(of, 2)
    assert [dict(point.swept) for point in points] == [{of.target.seed: "1"}, {of.target.seed: "2"}]
    assert points[0].digest != points[1].digest
    for key in of.target.own:
        with pytest.raises(ConfigError, match="a sweep sets this itself"):
            space_of(target, of.target, [f"{key}=1"])


def test_a_server_gets_what_is_the_servers() -> None:
    lines = ["model=tiny", "workload=smoke", "bench.rate=3", "+x=1", "start_timeout_s=5"]
    of = space_of("serve", TARGETS["serve"], [line for line in lines if not line.startswith("+")])
    (point,) = grid(of, 1)
    assert point.config.bench.rate == 3.0 and "smoke" in point.config.bench.classes
    assert server_arguments(["--config-dir", "/bench.d", *lines]) == [
        "--config-dir", "/bench.d", "model=tiny", "+x=1"
    ]  # fmt: skip
    with pytest.raises(ValueError, match="num_requests"):
        grid(space_of("serve", TARGETS["serve"], ["bench.num_requests=0"]), 1)


def test_loads_on_one_server_are_regimes_and_its_settings_are_not() -> None:
    of = space_of("serve", TARGETS["serve"], [])
    assert of.is_regime("bench.rate") and of.is_regime("workload") and of.is_regime("model.path")
    assert of.is_setting("runner.max_seqs") and not of.is_setting("bench.seed")
    of = space_of("bench-serve", TARGETS["bench-serve"], [])
    assert of.is_regime("rate") and not of.is_regime("seed")


def test_prices_are_measured_as_errors() -> None:
    error = PriceError(10, 0.1, 0.3, 1.0, 1.2)
    environment: Any = None
    result = PricesResult(environment, {}, "m", (1, 1), error, {"decode": error}, [], 0, [])
    values = {measure.name: measure.value for measure in measures_of(result)}
    assert values["all.median"] == 0.1 and values["decode.p90"] == 0.3


def test_steps_are_measured_by_shape() -> None:
    point = Interval(2.0, 1.0, 3.0)
    summary = Summary(3, 2.0, 1.0, 3.0, point, point, point)
    rest: Any = (summary, 2000.0, summary, 1.0, 1.0, None, [])
    timings = [
        StepTiming("decode", 4, 4, 128, *rest),
        StepTiming("prefill", 1, 512, 0, *rest),
        StepTiming("prefill", 1, 128, 0, *rest),
    ]
    environment: Any = None
    result = EngineResult(environment, {}, "m", 1.0, {}, timings, (1, 1), None, [])
    values = {measure.name: measure.value for measure in measures_of(result)}
    assert values["decode_b4_c128.step_ms.p50"] == 2.0 and values["decode_b4_c128.tok_s"] == 2000.0
    assert {"prefill_b1_t512_c0.tok_s", "prefill_b1_t128_c0.tok_s"} <= set(values)
    assert not any(name.endswith(".batch") for name in values)
