"""vLLM's client against our server: what it is asked, and what is said of its result."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks import vllm_client
from benchmarks.vllm_client import ENDPOINTS, OUTPUT_TOKENS, arguments, bench_serve, complaints

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results" / "cpu"


def client(folder: Path, code: str) -> Path:
    """A command that writes ``result.json`` where it is told to, as vLLM's client does."""
    path = folder / "python"
    path.write_text(f"#!/usr/bin/env python3\nimport json, pathlib, sys\nargs = sys.argv\n{code}\n")
    path.chmod(0o755)
    return path


def result(**changes: Any) -> dict[str, Any]:
    fields = {"completed": 50, "failed": 0, "total_output_tokens": 50 * OUTPUT_TOKENS}
    times = {"median_ttft_ms": 20.0, "median_itl_ms": 3.0, "median_e2el_ms": 200.0, "duration": 2.0}
    return fields | times | changes


def test_the_result_that_it_wrote(tmp_path: Path) -> None:
    place = "pathlib.Path(args[args.index('--result-dir') + 1], 'result.json')"
    python = client(tmp_path, f"{place}.write_text(json.dumps(args))")
    said: Any = bench_serve(python, "http://127.0.0.1:1/v1", arguments("chat", 3))
    assert said[said.index("--base-url") + 1] == "http://127.0.0.1:1"
    assert said[said.index("--endpoint") + 1] == "/v1/chat/completions"
    assert said[said.index("--num-prompts") + 1] == "3"


def test_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no such model"):
        bench_serve(client(tmp_path, "sys.exit('no such model')"), "http://127.0.0.1:1/v1", [])


def test_nothing_to_complain_of() -> None:
    assert complaints(result()) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"completed": 49},
        {"failed": 1},
        {"total_output_tokens": 50 * OUTPUT_TOKENS - 1},
        {"median_ttft_ms": 0.0},
        {"median_itl_ms": 300.0},
        {"median_ttft_ms": float("nan")},
        {"duration": 0.1},
    ],
)
def test_what_cannot_be_is_said(changes: dict[str, Any]) -> None:
    assert len(complaints(result(**changes))) == 1


def test_the_run_that_is_kept_has_nothing_to_complain_of() -> None:
    kept = json.loads((RESULTS / "vllm_bench_serve.json").read_bytes())
    assert set(kept["runs"]) == set(ENDPOINTS)
    for run in kept["runs"].values():
        assert complaints(run) == []


def test_the_exit_code_says_whether_all_is_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = {"runs": {"chat": result(failed=1)}}
    monkeypatch.setattr(vllm_client, "measure", lambda python: document)
    output = tmp_path / "result.json"
    assert vllm_client.main(["--vllm-python", "python", "--output", str(output)]) == 1
    assert msgspec.json.decode(output.read_bytes()) == document
