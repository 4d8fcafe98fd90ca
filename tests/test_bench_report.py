"""The tables say what the result says, and stdout stays clean for the JSON."""

import io

import pytest
from rich.console import Console

from prelude.bench.report import show
from prelude.bench.result import Result
from tests.bench_results import engine_result, peer_result, serve_result


def shown(result: Result) -> str:
    console = Console(file=io.StringIO(), width=160, force_terminal=False)
    show(result, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def row(text: str, label: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"│ {label} ")]
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_counts_of_a_serve_run() -> None:
    cells = row(shown(serve_result()), "all")
    assert cells == ["all", "12", "10", "2.50", "25", "12.5", "2.00", "80%", "timeout 2"]


def test_latencies_with_and_without_intervals() -> None:
    text = shown(serve_result())
    interval = "11.0 [10.0, 12.0]"
    assert row(text, "TTFT") == ["TTFT", "11.0", interval, interval, interval, "13.0"]
    assert row(text, "ITL") == ["ITL", "13.0", "13.0", "13.0", "13.0", "15.0"]
    assert "TPOT" not in text, "a metric without samples has no row"


def test_one_class_is_not_shown_twice() -> None:
    text = shown(serve_result())
    assert "latency in ms: all" in text
    assert "latency in ms: chat" not in text


def test_every_class_of_a_mix_has_its_table() -> None:
    text = shown(serve_result(classes=("chat", "doc")))
    assert "latency in ms: chat" in text
    assert row(text, "doc")[1] == "12"


def test_the_generator_and_the_roof_are_shown() -> None:
    text = shown(serve_result())
    assert "offered 2.10 req/s, at most 3 in flight, 5% of a core, sent p99 0.5 ms late" in text
    assert "roof (cpu, 2 threads): 30.0 GB/s read, 177 GFLOP/s float32" in text
    assert "Fast One, cores 0,1" in text


def test_warnings_are_shown() -> None:
    assert "warning: too little" in shown(serve_result(warnings=("too little",)))


def test_steps_of_an_engine() -> None:
    text = shown(engine_result(skipped=("decode x64",)))
    expected = ["decode 4", "128", "20.00", "200.0", "0.250", "10.00 memory", "50%"]
    assert row(text, "decode 4") == expected
    assert "1 of 2 compiled programs in use" in text
    assert "front end: 12.5 us of a core per streamed token" in text
    assert "skipped: decode x64" in text


def test_a_busy_machine_is_named() -> None:
    assert "the machine was not quiet (others used 60% of the cores)" in shown(engine_result())


def test_peers_and_ratios() -> None:
    text = shown(peer_result())
    assert row(text, "prelude 1.0") == ["prelude 1.0", "0", "200.0", "20.00", "100.0", "2.0"]
    assert "prelude / transformers: prefill 2.00x [1.90, 2.10]" in text
    assert "of the roof, prelude: prefill 87%" in text
    assert "transformers: 30 of 33 greedy tokens equal the reference's" in text
    assert "skipped: vllm: not installed" in text
    assert "roof (" not in text, "without a probe"


def test_tables_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    show(serve_result())
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "tiny" in captured.err
