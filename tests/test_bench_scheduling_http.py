"""Scheduling over HTTP: what is sent to whom, and what is made of the answers."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from benchmarks import scheduling_http, scheduling_http_table
from benchmarks.peers import vllm_server
from benchmarks.scheduling_cells import OURS
from benchmarks.scheduling_http import (
    SERVERS,
    Comparison,
    HttpDocument,
    Level,
    line_of,
    parse,
    sustained_a_second,
)
from prelude.bench.observer import Observer
from prelude.bench.result import RequestSample
from prelude.bench.workload import Workload, request_body
from prelude.conf.bench import Arrival
from prelude.conf.load import load_config

FAKE_VLLM = """
import http.server, sys
arguments = sys.argv
port = int(arguments[arguments.index("--port") + 1])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_):
        pass
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def comparison(tmp_path: Path, *arguments: str) -> Comparison:
    args = parse(["--result", str(tmp_path / "http.json"), *arguments])
    document = HttpDocument(["python"], "demo", args.scale, args.load, [])
    return Comparison(args, document, vocab_size=640)


def sample(index: int, e2e_ms: float, kind: str = "chat") -> RequestSample:
    return RequestSample(
        index=index, kind=kind, scheduled_ms=100.0, slip_ms=1.0, ttft_ms=5.0, e2e_ms=e2e_ms
    )


def level(samples: list[tuple[str, float, float, float]]) -> Level:
    return Level("fcfs", 2.0, 3.0, 100.0, {}, samples, Observer(None).finish())


def test_all_servers_get_the_same_requests_and_only_labels_they_know(tmp_path: Path) -> None:
    found = comparison(tmp_path, "--requests", "30")
    bodies = {}
    for name in SERVERS:
        config = found.open(name, "http://127.0.0.1:1/v1", rate=5.0)
        assert config.arrival is Arrival.trace
        drafts = Workload(config).drafts()
        bodies[name] = [request_body(draft, config, "m") for draft in drafts]
        assert len(drafts) == 30
    for name, others in bodies.items():
        for ours, theirs in zip(bodies["fcfs"], others, strict=True):
            assert ours["prompt"] == theirs["prompt"]
            assert ours["max_tokens"] == theirs["max_tokens"]
            assert ours["ignore_eos"] is True
        fields = {field for body in others for field in body}
        assert ("priority" in fields) == (name in ("priority", "vllm-priority"))
        assert ("service_class" in fields) == (name == OURS)


def test_servers_are_configurations() -> None:
    for server in SERVERS.values():
        if not server.is_vllm:
            load_config(server.arguments)
    ours = load_config(SERVERS[OURS].arguments)
    assert not ours.batcher.use.contract


def test_a_level_is_as_long_as_asked_and_no_larger(tmp_path: Path) -> None:
    found = comparison(tmp_path, "--requests", "50", "--seconds", "4")
    assert found.open("fcfs", "http://127.0.0.1:1/v1", 5.0).num_requests == 20
    assert found.open("fcfs", "http://127.0.0.1:1/v1", 500.0).num_requests == 50
    many = comparison(tmp_path, "--saturation-requests", "70")
    assert many.closed("fcfs", "http://127.0.0.1:1/v1").num_requests == 70


def test_others_also_run_at_their_own_share(tmp_path: Path) -> None:
    found = comparison(tmp_path, "--servers", "vllm", OURS, "--load", "0.5")
    found.sustained = {"vllm": 4.0, OURS: 10.0}
    assert found.rates("vllm") == [2.0]
    assert found.rates(OURS) == [2.0, 5.0]


def test_what_is_sustained_is_seen_before_the_last_answers_are_alone() -> None:
    """Ten prompts a second, and answers of as many tokens, each in four seconds."""
    samples = [
        RequestSample(
            index=i,
            kind="chat",
            scheduled_ms=0.0,
            slip_ms=0.0,
            prompt_tokens=10,
            output_tokens=10,
            ttft_ms=100.0 * (i + 1),
            e2e_ms=4000.0 + 100.0 * (i + 1),
        )
        for i in range(40)
    ]
    rate = sustained_a_second(samples)  # at 4.45 s: all 400 of the prompts, and 240 of 400
    assert rate == pytest.approx(0.8 * 40 / 4.45, rel=0.02)
    long = msgspec.structs.replace(samples[0], index=41, e2e_ms=60_000.0)
    assert sustained_a_second([*samples, long]) == pytest.approx(rate, rel=0.05)
    failed = RequestSample(index=99, kind="chat", scheduled_ms=0.0, slip_ms=0.0, failure="timeout")
    assert sustained_a_second([*samples, failed]) == pytest.approx(rate)
    with pytest.raises(ValueError, match="too few"):
        sustained_a_second(samples[:1])


def test_levels_are_kept_as_they_come(tmp_path: Path) -> None:
    found = comparison(tmp_path)
    found.keep(level([("chat", 5.0, 9.0, 1.0), ("deep", 6.0, 99.0, 2.0)]))
    found.keep(level([]))
    kept = msgspec.json.decode(found.args.result.read_bytes(), type=HttpDocument)
    assert [len(one.samples) for one in kept.levels] == [2, 0]
    assert "p99 5 ms of 1, deep 99 ms" in line_of(kept.levels[0])
    assert "0 chat, 0 deep" in line_of(kept.levels[1])


def test_vllm_needs_its_python(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="install_vllm_cpu"):
        comparison(tmp_path).start(SERVERS["vllm"])


def fake_python(tmp_path: Path, program: str) -> Path:
    script = tmp_path / "server.py"
    script.write_text(program)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {script} "$@"\n')
    python.chmod(0o755)
    return python


def test_a_vllm_server_is_ready_when_it_says_so_and_gone_afterwards(tmp_path: Path) -> None:
    python = fake_python(tmp_path, FAKE_VLLM)
    with vllm_server.running_vllm(python, tmp_path, ("--scheduling-policy", "priority")) as found:
        base_url, pid = found
        port = int(base_url.rsplit(":", 1)[1].removesuffix("/v1"))
        assert vllm_server.is_ready(port)
    assert not vllm_server.is_ready(port)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_vllm_server_that_ends_at_once_leaves_its_last_words(tmp_path: Path) -> None:
    python = fake_python(tmp_path, "raise SystemExit('no such model')")
    with (
        pytest.raises(RuntimeError, match="no such model"),
        vllm_server.running_vllm(python, tmp_path),
    ):
        pass


def test_quick_is_short(tmp_path: Path) -> None:
    args = parse(["--quick", "--result", str(tmp_path / "x.json")])
    assert (args.requests, args.saturation_requests) == (60, 60)
    assert replace(SERVERS["fcfs"], labels=("priority",)).labels == ("priority",)


def test_the_command_compares_what_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(Comparison, "run", lambda self: asked.extend(self.args.servers))
    scheduling_http.main(["--servers", "fcfs", OURS, "--result", str(tmp_path / "x.json")])
    assert asked == ["fcfs", OURS]


def test_help_says_how() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scheduling_http", "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).resolve().parent.parent,
    )
    assert "--vllm-python" in done.stdout


def test_the_table_holds_others_against_ours_at_the_same_rate_and_at_the_same_load() -> None:
    def of(server: str, rate: float, ms: float) -> Level:
        samples = [("chat", ms, 2 * ms, 1.0)] * 3 + [("deep", ms, 900.0, 1.0)]
        return Level(server, rate, sustained[server], 10.0, {}, samples, Observer(None).finish())

    sustained = {"vllm": 4.0, OURS: 8.0}
    levels = [of("vllm", 2.0, 300.0), of(OURS, 2.0, 10.0), of(OURS, 4.0, 60.0)]
    document = HttpDocument(["python"], "demo", 0.125, 0.5, [], levels)
    lines = scheduling_http_table.table(document).splitlines()
    assert lines[1].startswith("**Over HTTP, demo, lengths times 0.125, at 0.5 of what vllm")
    assert lines[5] == "| vllm | 2.00 | 0.50 | 300.0 | 300.0 | 30.0 | 5.0 | 1.0 | 900 | 10 | 0 |"
    assert lines[6] == f"| {OURS} | 2.00 | 0.25 | 10.0 | 10.0 |  |  | 1.0 | 900 | 10 | 0 |"
    assert scheduling_http_table.table(HttpDocument(["python"], "demo", 1.0, 0.9, [])) == ""
