"""The table of figures says what the results say, and nothing where there is none."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.figures import (
    FIGURES,
    HERE,
    UNMEASURED,
    Figure,
    against_flashinfer,
    median_ms,
    rates,
    requests_a_second,
    row,
    share,
    step_ms,
    written,
)

SUMMARY = {"p50": {"value": 7.26}}
TOTAL = {"req_s": 171.04, "e2e_ms": SUMMARY}
LEVEL = {
    "load": 96.0,
    "floor": {"req_s": 207.4, "first_token_ms": 4.81},
    "result": {"total": TOTAL},
}
TIMINGS = [
    {"batch": batch, "step_ms": {"p50": {"value": ms}}, "floor": {"ms": ms / 2}}
    for batch, ms in ((1, 4.0), (32, 5.5))
]
RUN = {"prefill_tok_s": 100.0, "decode_tok_s": 12.0, "streams_tok_s": 50.0}
PEERS = {
    "runs": [
        {"engine": "prelude", **RUN},
        {"engine": "prelude", **RUN, "decode_tok_s": 14.0},
        {"engine": "llamacpp", **RUN},
    ],
    "ratios": {"llamacpp": {"decode": {"value": 1.0833}}},
    "roof_shares": {"prelude": {"decode": 0.914}, "llamacpp": {"decode": 0.8}},
}


def device(result: Any, status: int | None = 0) -> dict[str, Any]:
    names = ("prefill_512", "decode_8b")
    return {"parts": {name: {"status": status, "result": result} for name in names}}


def test_the_page_is_up_to_date() -> None:
    page = (HERE / "README.md").read_text()
    assert written(page) == page, "run python -m benchmarks.figures"


def test_shares_of_steps_are_those_of_their_shape() -> None:
    shapes = (("prefill", 1, 0.86), ("decode", 16, 0.6), ("decode", 1, 0.914))
    timings = [{"kind": kind, "batch": n, "floor": {"share": of}} for kind, n, of in shapes]
    assert share("decode", 1)({"timings": timings}) == "91% of the roof right before each step"
    with pytest.raises(LookupError):
        share("decode", 4)({"timings": timings})


def test_every_figure_is_a_row(tmp_path: Path) -> None:
    rows = [row(figure, tmp_path) for figure in FIGURES]
    assert len(set(rows)) == len(FIGURES)
    assert all(f"| {UNMEASURED} |" in text for text in rows), "an empty folder measures nothing"


def test_readings() -> None:
    service = device({"levels": [LEVEL]})
    assert requests_a_second(96)(service) == "171.0 (floor 207)"
    assert median_ms(96)(service) == "7.3 ms (floor 4.8)"
    decode = device({"timings": TIMINGS})
    assert step_ms("decode_8b", (1, 32))(decode) == "4.00 / 5.50 ms (floor 2.00 / 2.75)"
    assert rates("decode", "prelude", "llamacpp", "vllm")(PEERS) == (
        "**13.0** tok/s, 91% of the roof; llama.cpp 12.0 (ours 1.08x)"
    )
    times = [("decode", 11.0, 10.0), ("decode", 9.0, 10.0), ("prefill", 50.0, 40.0)]
    rows = [
        {"kernel": k, "ours_us": a, "peer_us": b} for k, a, b in (*times, ("decode", 1.0, None))
    ]
    kernels = {"parts": {"kernels": {"status": 0, "result": {"results": rows}}}}
    assert against_flashinfer(kernels) == "decode +0% (2 shapes), prefill +25% (1 shapes)"
    with pytest.raises(LookupError):
        against_flashinfer({"parts": {"kernels": {"status": 0, "result": {"results": rows[:2]}}}})


def test_results_beside_each_other(tmp_path: Path) -> None:
    environment = {"command": ["python", "-m", "b.x"], "quiet": True}
    (tmp_path / "x.json").write_text(json.dumps({"environment": environment, **PEERS}))
    beside = (("x.json", lambda document: "as well"), ("y.json", share("decode", 1)))
    figure = Figure("CPU", "x", "1", "2", "x.json", rates("decode", "prelude"), beside)
    expected = "**13.0** tok/s, 91% of the roof; as well | `python -m b.x` |\n"
    assert row(figure, tmp_path).endswith(expected), "a command is named once"


@pytest.mark.parametrize(
    "document",
    [
        {"parts": {}},
        device(None),
        device({"levels": [LEVEL]}, status=1),
        device({"levels": [LEVEL]}, status=None),
        device({"levels": [{**LEVEL, "load": 4.0}]}),
    ],
)
def test_what_was_not_finished_is_unmeasured(tmp_path: Path, document: dict[str, Any]) -> None:
    (tmp_path / "x.json").write_text(json.dumps(document))
    figure = Figure("H200", "x", "1", "2", "x.json", requests_a_second(96))
    assert row(figure, tmp_path) == f"| H200 | x | 1 | 2 | {UNMEASURED} |  |\n"


def test_a_row_names_its_command_and_its_noise(tmp_path: Path) -> None:
    figure = Figure("CPU", "x", "1", "2", "x.json", lambda document: str(document["value"]))
    command = ["python3.11", "-m", "b.x", "--result", "x.json", "a b"]
    environment = {"command": command, "quiet": False}
    document = {"environment": environment, "value": 3}
    (tmp_path / "x.json").write_text(json.dumps(document))
    expected = "3 (the machine was not quiet) | `python -m b.x 'a b'` |\n"
    assert row(figure, tmp_path).endswith(expected)
    (tmp_path / "h.json").write_text(json.dumps(device({"levels": [LEVEL]})))
    h200 = replace(figure, file="h.json", read=requests_a_second(96))
    assert row(h200, tmp_path).endswith("171.0 (floor 207) | `sh benchmarks/h200.sh` |\n")
