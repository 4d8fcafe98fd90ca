"""The command as a user meets it: help, exit codes, one-line errors, nothing left behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import prelude
from prelude import cli
from prelude.cli import COMMANDS, main, usage
from prelude.client.client import EngineDeadError
from prelude.commands.bench import BENCHES
from prelude.conf.keys import list_keys
from prelude.conf.load import load_config
from prelude.conf.schema import Config

ROOT = Path(__file__).resolve().parent.parent
Capture = pytest.CaptureFixture[str]


def prelude_command(*args: str, cwd: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "prelude", *args],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
    )


def refusal(capsys: Capture, *argv: str) -> str:
    """The one line on stderr of a command line that is wrong."""
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("prelude: error: ")
    return lines[0].removeprefix("prelude: error: ")


@pytest.mark.parametrize("flag", ["-h", "--help", "help"])
def test_help_lists_the_commands(capsys: Capture, flag: str) -> None:
    assert main([flag]) == 0
    out = capsys.readouterr().out
    assert out == usage() + "\n"
    assert all(f"  {name} " in out for name in COMMANDS)


def test_no_command_is_an_error_with_the_help(capsys: Capture) -> None:
    assert main([]) == 2
    assert "usage: prelude COMMAND" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [["version"], ["--version"]])
def test_version(capsys: Capture, argv: list[str]) -> None:
    assert main(argv) == 0
    assert capsys.readouterr().out == f"{prelude.__version__}\n"


def test_unknown_commands(capsys: Capture) -> None:
    assert refusal(capsys, "serv") == "serv: unknown command; did you mean serve?"
    assert f"there are {', '.join(COMMANDS)}" in refusal(capsys, "zzz")


@pytest.mark.parametrize("command", ["serve", "generate", "config", "bench serve", "bench engine"])
def test_help_of_commands_lists_groups_and_keys(capsys: Capture, command: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*command.split(), "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    schema = BENCHES[command.split()[1]].command.schema if " " in command else Config
    assert out.startswith(f"usage: prelude {command} ")
    assert all(f"  {key.name}=" in out for key in list_keys(schema))
    assert "groups:" in out and "examples:" in out


def test_help_shows_every_option_of_a_group(capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "-h"])
    out = capsys.readouterr().out
    assert "preset=       balanced | cpu | cuda | latency | lowmem | throughput" in out


@pytest.mark.parametrize("command", ["serve", "generate", "config", "bench serve", "bench engine"])
def test_mistyped_keys(capsys: Capture, command: str) -> None:
    key, wrong = ("rate", "raet") if command == "bench serve" else ("server.port", "server.prot")
    text = refusal(capsys, *command.split(), f"{wrong}=1")
    assert text == f"{wrong}: unknown key; did you mean {key}?"


def test_values_of_the_wrong_type(capsys: Capture) -> None:
    assert refusal(capsys, "serve", "server.port=x") == "server.port=x: must be a whole number"
    assert "expected one of" in refusal(capsys, "serve", "graphs.capture=fast")
    assert "set at most one" in refusal(capsys, "serve", "cache.num_blocks=4", "cache.memory_gib=1")


def test_a_missing_model_is_found_out_before_anything_starts(
    capsys: Capture, tmp_path: Path
) -> None:
    text = refusal(capsys, "serve", f"model.path={tmp_path / 'none'}")
    assert "no such folder, and the bundled models are: demo" in text
    text = refusal(capsys, "serve", "model=tiny", f"model.tokenizer={tmp_path / 'none'}")
    assert "no such folder" in text


def test_flags_may_stand_anywhere(capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "mine.yaml").write_text("port: 7\n")
    argv = ["config", "server=mine", "--config-dir", str(tmp_path), "model=tiny"]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "server.port=7 " in out and "model.path=tiny " in out


def test_wrong_flags(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["serve", "--prot", "9000"])
    assert caught.value.code == 2
    assert "--prot" in capsys.readouterr().err


def test_config_prints_values_sources_and_digest(capsys: Capture) -> None:
    assert main(["config", "preset=latency", "server.port=9"]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith("# digest ") and len(first.split()[-1]) == 16
    table = {line.split("=")[0]: line for line in lines}
    assert set(table) == {key.name for key in list_keys(Config)}
    assert table["server.port"].split() == ["server.port=9", "#", "command", "line"]
    assert table["runner.max_seqs"].endswith("# preset/latency.yaml")
    assert table["cache.block_size"].endswith("# schema default")


def test_configs_lines_are_overrides(capsys: Capture) -> None:
    assert main(["config", "model=tiny", "model.path='/a b'"]) == 0
    _, *lines = capsys.readouterr().out.splitlines()
    overrides = [line.rpartition("#")[0].strip() for line in lines]
    assert load_config(overrides) == load_config(["model=tiny", "model.path='/a b'"])


def test_reference_is_a_table_of_all_keys(capsys: Capture) -> None:
    assert main(["config", "--reference"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(list(list_keys(Config)))
    assert all(line.count("|") == 5 for line in lines)


def test_generate_needs_a_prompt(capsys: Capture) -> None:
    assert refusal(capsys, "generate", "-p", "").startswith("the prompt is empty")


def test_bench_lists_its_benchmarks(capsys: Capture) -> None:
    assert main(["bench", "--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out and bench.summary in out for name, bench in BENCHES.items())
    assert main(["bench"]) == 2
    assert main(["bench", "nothing"]) == 2
    assert "bench nothing: unknown benchmark" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["bench serve", "bench engine", "simulate"])
def test_several_values_are_for_sweeps(capsys: Capture, command: str) -> None:
    key = {"bench serve": "rate", "simulate": "traffic.load"}.get(command, "runner.threads")
    assert "only `prelude sweep`" in refusal(capsys, *command.split(), f"{key}=1,2")


class Failing:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def run(self, argv: list[str]) -> int:
        raise self.error


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ValueError("mend this"), 2, "prelude: error: mend this\n"),
        (OSError("port taken"), 1, "prelude: error: port taken\n"),
        (EngineDeadError("no memory"), 1, "prelude: error: no memory\n"),
        (ValueError(), 2, "prelude: error: ValueError\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_failures_become_codes(
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    text: str,
) -> None:
    monkeypatch.setattr(cli, "_load", lambda name: Failing(error).run)
    assert main(["serve"]) == code
    assert capsys.readouterr().err == text


@pytest.mark.parametrize("error", [RuntimeError("bug"), AssertionError("bug"), KeyError("bug")])
def test_bugs_keep_their_traceback(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setattr(cli, "_load", lambda name: Failing(error).run)
    with pytest.raises(type(error)):
        main(["serve"])


def test_the_traceback_of_a_users_error_is_there_for_debugging(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "_load", lambda name: Failing(ValueError("x")).run)
    with caplog.at_level("DEBUG", "prelude"):
        assert main(["serve"]) == 2
    assert caplog.records[-1].exc_info


def test_a_reader_that_goes_away_is_no_traceback(tmp_path: Path) -> None:
    command = f"{sys.executable} -m prelude config --reference | head -n 1"
    run = subprocess.run(
        ["bash", "-c", f"for i in 1 2 3 4 5; do {command}; done"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert run.stderr == ""
    assert run.stdout.splitlines() == ["| key | default | type | meaning |"] * 5


def test_module_entry_leaves_no_file_and_returns_the_code(tmp_path: Path) -> None:
    run = prelude_command("config", "preset=cpu", cwd=tmp_path)
    assert (run.returncode, run.stderr) == (0, "")
    run = prelude_command("serve", "server.prot=1", cwd=tmp_path)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == ("prelude: error: server.prot: unknown key; did you mean server.port?\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "argv", [["version"], ["--help"], ["serve", "--help"], ["bench", "engine", "--help"]]
)
def test_help_and_version_load_neither_torch_nor_hydra(argv: list[str]) -> None:
    code = f"""
import sys
from prelude.cli import main
try:
    main({argv})
except SystemExit:
    pass
print([name for name in ("torch", "transformers", "hydra", "omegaconf", "uvicorn")
       if name in sys.modules])
"""
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines()[-1] == "[]"
