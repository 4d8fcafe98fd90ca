"""``prelude simulate`` as a user sees it: JSON on stdout, tables on stderr, files where asked."""

import json
from pathlib import Path

import msgspec
import pytest

from prelude.cli import main
from prelude.simulate.result import SimulateResult

FEW = ["traffic.num_requests=60", "traffic.load=null", "traffic.rate=4", "resamples=0"]


def lines(out: str) -> list[SimulateResult]:
    return [msgspec.json.decode(line, type=SimulateResult) for line in out.splitlines()]


def test_one_line_of_json_and_tables_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "mix=m4", *FEW]) == 0
    out, err = capsys.readouterr()
    (result,) = lines(out)
    assert (result.policy, result.total.num_completed) == ("class_aware", 51)
    assert list(result.classes) == ["chat"]
    assert "TTFT, ms" in err and "simulated in" in err


@pytest.mark.parametrize("policy", ["fcfs", "priority", "srpt_oracle", "class_aware"])
def test_every_policy_serves_everybody(policy: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", f"batcher.policy={policy}", *FEW]) == 0
    (result,) = lines(capsys.readouterr().out)
    assert result.policy == policy and not result.total.failures


def test_results_and_plots_go_to_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result, plot = tmp_path / "deep" / "result.json", tmp_path / "plots" / "latency.svg"
    assert main(["simulate", f"result={result}", f"plot={plot}", *FEW]) == 0
    assert json.loads(result.read_text()) == json.loads(capsys.readouterr().out)
    assert plot.read_text().lstrip().startswith("<?xml")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("traffic.rate=-1", "traffic.rate"),
        ("traffic.classes.chat.weight=-1", "traffic.classes"),
        ("device.prices=nowhere.json", "nowhere.json"),
        ("replay=nowhere.jsonl", "nowhere.jsonl"),
        ("traffic.nothing=1", "unknown key"),
        ("mix=m9", "no such option"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    override: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", *FEW, override]) != 0
    err = capsys.readouterr().err.strip()
    assert err.startswith("prelude: error: ") and message in err and len(err.splitlines()) == 1


def test_help_lists_mixes_and_keys(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["simulate", "--help"])
    out = capsys.readouterr().out
    assert "m1 | m2 | m3" in out and "traffic.load=0.85" in out
