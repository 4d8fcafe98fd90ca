"""The comparison with other engines: the task's timing on an engine that moves the clock itself,
the pairing of runs, and ours against transformers on the same tiny weights."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from benchmarks.peers import compare, worker
from benchmarks.peers.checkpoint import INITIALIZER_RANGE, checkpoint, shape_of
from benchmarks.peers.engines import lineup
from benchmarks.peers.prelude_peer import PreludeEngine
from benchmarks.peers.roof import PHASES
from benchmarks.peers.task import MARK, Ids, Task, measure
from benchmarks.peers.transformers_peer import TransformersEngine
from prelude.bench.result import PeerResult, PeerRun, decode, encode
from tests.bench_results import PROBE, peer_run

TASK = Task(prefill_len=64, prompt_len=8, decode_len=5, streams=3, warmup=1, repeats=2, threads=1)


class Fake:
    """Takes 1 ms a prompt token and 10 ms a step; answers with the number of its calls."""

    name, version, vocab_size = "fake", "1.0", 50

    def __init__(self, missing: int = 0) -> None:
        self.time_s = 0.0
        self.calls: list[tuple[int, int, int]] = []
        self.prompts: list[tuple[int, ...]] = []
        self._missing = missing

    def generate(self, prompts: list[Ids], num_tokens: int) -> list[Ids]:
        self.calls.append((len(prompts), len(prompts[0]), num_tokens))
        self.prompts += [tuple(prompt) for prompt in prompts]
        self.time_s += sum(map(len, prompts)) * 1e-3 + (num_tokens - 1) * 10e-3
        return [[len(self.calls)] * (num_tokens - self._missing) for _ in prompts]

    def close(self) -> None: ...


def measured(task: Task = TASK) -> tuple[dict[str, Any], Fake]:
    fake = Fake()
    return measure(fake, task, 1.5, clock=lambda: fake.time_s), fake


def test_three_numbers() -> None:
    run, _ = measured()
    assert run["prefill_samples_ms"] == pytest.approx([64.0] * 2)
    assert run["prefill_tok_s"] == pytest.approx(1000.0)
    assert run["decode_samples_ms"] == pytest.approx([50.0] * 2), "the prompt drops out"
    assert run["decode_tok_s"] == pytest.approx(100.0)
    assert run["streams_samples_ms"] == pytest.approx([24.0 + 40.0] * 2)
    assert run["streams_tok_s"] == pytest.approx(15 / 0.064)


def test_what_is_asked_of_the_engine() -> None:
    _, fake = measured()
    assert fake.calls == [(1, 64, 1)] * 3 + [(1, 8, 1), (1, 8, 6)] * 3 + [(3, 8, 5)] * 3
    assert len(set(fake.prompts)) == len(fake.prompts), "no prompt twice: no prefix to reuse"


def test_a_run_decodes_as_the_result_wants_it() -> None:
    run, _ = measured()
    decoded = msgspec.convert({**run, "cores": [0]}, PeerRun)
    assert (decoded.engine, decoded.version, decoded.startup_s) == ("fake", "1.0", 1.5)
    assert decoded.first_ids == [5] * 6, "of the first decode, a warm-up"


def test_prompts_depend_on_seed_and_turn_only() -> None:
    (_, first), (_, again) = measured(), measured()
    assert first.prompts == again.prompts
    for other in (Task(turn=1), Task(seed=1)):
        changed = Task(**{**json.loads(TASK.dumps()), "turn": other.turn, "seed": other.seed})
        assert measured(changed)[1].prompts != first.prompts


def test_an_engine_that_stops_early_is_an_error() -> None:
    fake = Fake(missing=1)
    with pytest.raises(RuntimeError, match="fake: asked for 1 x 1"):
        measure(fake, TASK, 0.0)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint("tiny", tmp_path_factory.mktemp("weights"))


def runs_of(*scales: tuple[float, float]) -> list[PeerRun]:
    runs = []
    for turn, (ours, theirs) in enumerate(scales):
        for engine, scale in (("prelude", ours), ("transformers", theirs)):
            run = peer_run(engine, turn)
            samples = [100.0 / scale, 110.0 / scale]
            changes = {f"{phase}_samples_ms": samples for phase in PHASES}
            runs.append(msgspec.structs.replace(run, **changes))
    return runs


def test_ratios_pair_equal_prompts() -> None:
    found = compare.ratios(runs_of((2.0, 1.0), (4.0, 2.0)), "transformers")
    assert set(found) == set(PHASES)
    assert all(ratio.value == pytest.approx(2.0) for ratio in found.values())
    assert all(ratio.low == pytest.approx(2.0) for ratio in found.values())


def test_turns_that_differ_widen_the_interval() -> None:
    ratio = compare.ratios(runs_of((2.0, 1.0), (4.0, 1.0)), "transformers")["decode"]
    assert ratio.low is not None and ratio.high is not None
    assert ratio.low < ratio.value < ratio.high


def test_equal_ids_count_up_to_the_first_difference() -> None:
    runs = runs_of((1.0, 1.0), (1.0, 1.0))
    runs[1] = msgspec.structs.replace(runs[1], first_ids=[1, 9, 3])
    assert compare.equal_ids(runs) == {"prelude": (1 + 3, 6)}, "transformers is the reference"


def test_without_transformers_ours_is_the_reference() -> None:
    runs = [peer_run("prelude", 0), peer_run("llamacpp", 0), peer_run("llamacpp", 1)]
    total = len(runs[0].first_ids)
    assert compare.equal_ids(runs) == {"llamacpp": (total, total)}, "turns that both took"


def arguments(tmp_path: Path, *extra: str) -> argparse.Namespace:
    base = ["--shape", "tiny", "--cache", str(tmp_path), "--peers", "transformers"]
    return compare.parse([*base, "--threads", "1", *extra])


def finished(run: dict[str, Any], returncode: int = 0) -> Any:
    def process(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        out = f"progress\n{MARK}{json.dumps(run)}\nafterwards\n" if run else "last words"
        return subprocess.CompletedProcess(command, returncode, stdout=out)

    return process


def test_a_worker_is_read_by_its_marked_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = {**measured()[0], "cores": [0]}
    monkeypatch.setattr(subprocess, "run", finished(run))
    runner = compare.Runner(arguments(tmp_path), tmp_path)
    decoded = runner.run("transformers", TASK)
    assert decoded is not None and decoded.decode_tok_s == pytest.approx(100.0)


def test_a_worker_that_failed_is_not_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(subprocess, "run", finished({}, returncode=3))
    runner = compare.Runner(arguments(tmp_path), tmp_path)
    assert runner.run("transformers", TASK) is None
    assert "status 3" in runner.skipped["transformers"]
    assert "last words" in capsys.readouterr().err
    monkeypatch.setattr(subprocess, "run", None)
    assert runner.run("transformers", TASK) is None


def test_a_worker_that_takes_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(command: list[str], **options: Any) -> None:
        raise subprocess.TimeoutExpired(command, options["timeout"])

    monkeypatch.setattr(subprocess, "run", late)
    runner = compare.Runner(arguments(tmp_path, "--max-s", "5"), tmp_path)
    assert runner.run("transformers", TASK) is None
    assert runner.skipped == {"transformers": "not done in --max-s 5 seconds"}


@pytest.mark.parametrize("module", ["vllm", "llamacpp"])
def test_a_peer_is_used_where_its_interpreter_is(tmp_path: Path, module: str) -> None:
    runner = compare.Runner(arguments(tmp_path), tmp_path)
    assert runner.run(module, TASK) is None
    assert "not installed" in runner.skipped[module]
    given = arguments(tmp_path, f"--{module}-python", sys.executable)
    assert compare.Runner(given, tmp_path)._python(module) == sys.executable


def test_what_a_worker_is_started_with(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[list[str], dict[str, str]]] = []

    def process(command: list[str], env: dict[str, str], **_: Any) -> Any:
        started.append((command[3:], env))
        return finished({**measured()[0], "cores": [0]})(command)

    monkeypatch.setattr(subprocess, "run", process)
    given = ["--llamacpp-python", sys.executable, "--llamacpp-override", "offload_kqv=true"]
    runner = compare.Runner(arguments(tiny.parent, *given, "--vllm-python", sys.executable), tiny)
    run = runner.run("llamacpp-q8_0", TASK)
    assert run is not None and run.engine == "llamacpp-q8_0"
    command, env = started[-1]
    assert command == [
        "llamacpp",
        str(tiny),
        TASK.dumps(),
        "weights=q8_0",
        "offload_kqv=true",
    ]
    assert (tiny / "model-q8_0.gguf").exists()
    assert env["HF_HUB_OFFLINE"] == "1"
    runner.run("vllm", TASK)
    assert started[-1][1]["VLLM_CPU_KVCACHE_SPACE"] == "2"
    runner.run("prelude-int8", TASK)
    assert started[-1][0][3:] == ["model.weights=int8"]


def test_peers_default_to_what_there_is(tmp_path: Path) -> None:
    base = ["--cache", str(tmp_path)]
    assert compare.parse(base).peers == ["transformers"]
    assert compare.parse([*base, "--vllm-python", "python"]).peers == ["transformers", "vllm"]
    assert compare.parse([*base, "--peers", "vllm"]).peers == ["vllm"]
    llamacpp = compare.parse([*base, "--llamacpp-python", "python"]).peers
    assert llamacpp == ["transformers", "llamacpp", "llamacpp-q8_0"]


def test_quantized_peers_meet_ours_quantized() -> None:
    assert lineup(["transformers"]) == ["prelude", "transformers"]
    assert lineup(["llamacpp-q8_0"]) == ["prelude", "prelude-int8", "llamacpp-q8_0"]
    runs = [*runs_of((2.0, 1.0)), peer_run("prelude-int8", 0), peer_run("llamacpp-q8_0", 0)]
    found = compare.ratios(runs, "llamacpp-q8_0")
    assert all(ratio.value == pytest.approx(1.0) for ratio in found.values())


@pytest.mark.parametrize("option", ["--turns", "--repeats", "--threads", "--streams"])
def test_counts_must_be_positive(
    tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        arguments(tmp_path, option, "0")
    assert option in capsys.readouterr().err


def test_shapes_come_from_the_configuration() -> None:
    shape = shape_of("qwen3_0_6b")
    assert (shape["vocab_size"], shape["num_hidden_layers"]) == (151936, 28)
    assert shape["initializer_range"] == INITIALIZER_RANGE


def test_a_shape_needs_random_weights() -> None:
    with pytest.raises(ValueError, match="try qwen3_0_6b"):
        shape_of("demo")


def test_an_unknown_engine() -> None:
    with pytest.raises(ValueError, match="choose prelude"):
        worker.build("other")


def test_pinning() -> None:
    before = os.sched_getaffinity(0)
    try:
        assert worker.pin(1) == sorted(before)[:1]
        assert os.sched_getaffinity(0) == set(sorted(before)[:1])
        with pytest.raises(ValueError, match="threads"):
            worker.pin(2)
    finally:
        os.sched_setaffinity(0, before)


def test_weights_are_written_once(tiny: Path) -> None:
    before = (tiny / "model.safetensors").stat().st_mtime_ns
    assert checkpoint("tiny", tiny.parent) == tiny
    assert (tiny / "model.safetensors").stat().st_mtime_ns == before
    assert {path.name for path in tiny.parent.iterdir()} == {tiny.name}
    assert checkpoint("tiny", tiny.parent, seed=1) != tiny


def test_ours_and_transformers_say_the_same(tiny: Path) -> None:
    torch.set_num_threads(1)
    prompts = [[1, 2, 3, 4], [900, 50, 7, 4000]]
    ours = PreludeEngine(tiny, TASK, ["graphs.capture=eager"])
    theirs = TransformersEngine(tiny, TASK, [])
    try:
        assert ours.vocab_size == theirs.vocab_size == 4096
        outputs = ours.generate(prompts, 6)
        assert outputs == theirs.generate(prompts, 6)
        assert [len(ids) for ids in outputs] == [6, 6]
        with pytest.raises(RuntimeError):
            ours.generate([[1] * 5000], 1)
    finally:
        ours.close()


def test_transformers_takes_no_overrides(tiny: Path) -> None:
    with pytest.raises(ValueError, match="no overrides"):
        TransformersEngine(tiny, TASK, ["a=b"])


def test_a_comparison_end_to_end(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    order: list[str] = []

    def process(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        engine, task = command[3], Task(**json.loads(command[5]))
        order.append(engine)
        run = {**measured(task)[0], "engine": engine, "cores": [0]}
        return subprocess.CompletedProcess(command, 0, stdout=MARK + json.dumps(run))

    monkeypatch.setattr(subprocess, "run", process)
    monkeypatch.setattr(compare, "probe_apart", lambda *_: PROBE)
    short = ["--prefill", "16", "--prompt", "4", "--decode", "3", "--streams", "2"]
    base = ["--shape", "tiny", "--cache", str(tiny.parent), "--threads", "1", "--turns", "2"]
    compare.main([*base, *short, "--peers", "transformers", "vllm"])
    captured = capsys.readouterr()
    result = decode(captured.out.splitlines()[-1])
    assert isinstance(result, PeerResult)
    assert order == ["prelude", "transformers"] * 2
    assert result.ratios["transformers"]["decode"].value == pytest.approx(1.0)
    assert result.equal_ids == {"prelude": (8, 8)}
    assert result.probes == [PROBE] * 5, "one before each run, one after the last"
    assert set(result.roof_shares) == {"prelude", "transformers"}
    assert list(result.skipped) == ["vllm"]
    assert result.shape["hidden_size"] == 64
    assert decode(encode(result)) == result
    assert "prelude / transformers" in captured.err


def test_no_turn_begins_after_the_budget(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", finished({**measured()[0], "cores": [0]}))
    monkeypatch.setattr(compare, "probe_apart", lambda *_: PROBE)
    result = compare.compare(arguments(tiny.parent, "--turns", "3", "--budget-s", "0"))
    assert [run.engine for run in result.runs] == ["prelude", "transformers"]
    assert len(result.probes) == 3


def test_ours_must_not_fail(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(subprocess, "run", finished({}, returncode=1))
    monkeypatch.setattr(compare, "probe_apart", lambda *_: PROBE)
    with pytest.raises(RuntimeError, match="prelude: ended with status 1"):
        compare.compare(arguments(tiny.parent))
