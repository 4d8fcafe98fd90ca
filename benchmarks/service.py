"""A server under load, from its start to its end, one workload at several loads:

    python -m benchmarks.service --model qwen3_4b --workload prefill --loads 1 4 16 64 96 128
    python -m benchmarks.service --model qwen3_0_6b --workload chat --loads 0.5 1 --requests 100
    python -m benchmarks.service --small

Starts ``prelude serve`` with compiled programs in use, sends each load through HTTP (requests in
flight for closed workloads, requests a second for open ones), and prints the floor of the probed
roof, other servers that are running (``--peer NAME=URL``, the same requests right after ours) and
published figures beside ours. Tables on stderr, the result as one line of JSON on stdout.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.service_result import Level, ServiceResult, published, service_floor
from prelude.bench import machine
from prelude.bench.frontend import running_server
from prelude.bench.observer import Observer
from prelude.bench.probe import probe_apart
from prelude.bench.result import Environment, Probe, ServeResult
from prelude.bench.serve import measure, validate
from prelude.conf.bench import Arrival, ServeBenchConfig
from prelude.conf.command import BENCH_SERVE
from prelude.conf.load import load, load_config
from prelude.conf.schema import Config, Device
from prelude.models.paths import resolve_model_path
from prelude.models.spec import ModelSpec, read_config, read_spec

OURS = "prelude"
LOADS = (1, 4, 16, 64, 96, 128)
SMALL = (
    "--model",
    "tiny",
    "--loads",
    "1",
    "4",
    "--requests",
    "8",
    "--override",
    "runner.threads=1",
)


class Service:
    """What is served, and the roof above it."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.overrides = [model_override(args.model), *slots(args), *args.override]
        config = load_config(self.overrides)
        self.shape = config.model.hf_config or read_config(resolve_model_path(config.model.path))
        self.spec: ModelSpec = read_spec(self.shape)
        self.device = device_of(config)
        self.dtype = self.spec.dtype if self.device == "cuda" else "float32"
        threads = config.runner.threads or len(machine.my_cores())
        self.probe: Probe = probe_apart(self.device, threads, self.dtype)


def device_of(config: Config) -> str:
    """The device that the configuration means on this machine."""
    if config.runner.device is Device.auto:
        return "cuda" if machine.accelerators() else "cpu"
    return config.runner.device.value


def model_override(model: str) -> str:
    """A checkpoint's folder, or the name of a model or shape."""
    return f"model.path='{model}'" if Path(model).is_dir() else f"model={model}"


def slots(args: argparse.Namespace) -> list[str]:
    """A slot for every request that a closed load keeps in flight."""
    config = workload_config(args, args.loads[0], "http://127.0.0.1/v1")
    if config.arrival is not Arrival.closed:
        return []
    return [f"runner.max_seqs={max(64, *map(int, args.loads))}"]


def workload_config(args: argparse.Namespace, level: float, base_url: str) -> ServeBenchConfig:
    """The load to send. Every level has prompts of its own, so that no prefix is cached from the
    one before. Closed loops get as many requests as fill their last wave, except the published
    workloads, whose count is part of them."""
    config = load(BENCH_SERVE, ServeBenchConfig, [f"workload={args.workload}", *args.set])
    config.base_url, config.probe, config.duration_s = base_url, False, args.max_s
    config.seed = config.seed * len(args.loads) + args.loads.index(level)
    if config.arrival is not Arrival.closed:
        config.rate, config.num_requests = level, args.requests
    else:
        config.concurrency = int(level)
        if not args.workload.startswith("headline"):
            config.num_requests = -(-args.requests // config.concurrency) * config.concurrency
    validate(config)
    return config


def run(args: argparse.Namespace) -> ServiceResult:
    """Start the server, send every load to every server, stop it."""
    service = Service(args)
    arguments = [*service.overrides, "graphs.background=false"]
    with running_server(arguments, start_timeout_s=args.start_s) as (base_url, pid):
        observer = Observer(service.probe, [pid])
        servers = {OURS: base_url, **dict(peer.split("=", 1) for peer in args.peer)}
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            levels = [
                level_of(args, service, load, name, runner.run(send(args, load, url)))
                for load in args.loads
                for name, url in servers.items()
            ]
        environment = observer.finish()
    return ServiceResult(
        environment=environment,
        workload=args.workload,
        model=args.model,
        shape=service.shape,
        dtype=service.dtype,
        overrides=service.overrides,
        levels=levels,
    )


async def send(args: argparse.Namespace, load: float, url: str) -> ServeResult:
    print(f"load {load:g} on {url}", file=sys.stderr, flush=True)
    return await measure(workload_config(args, load, url), None)


def level_of(
    args: argparse.Namespace, service: Service, load: float, name: str, result: ServeResult
) -> Level:
    in_flight = int(load) if result.config["arrival"] == Arrival.closed else None
    return Level(
        load=load,
        server=name,
        floor=service_floor(service.spec, service.dtype, service.probe, result, in_flight),
        published=published(args.workload, service.spec, load) if name == OURS else {},
        result=result,
    )


def table_of(result: ServiceResult) -> Table:
    table = Table(title=f"{result.workload}: {result.model} {result.dtype}")
    for column in (
        "load",
        "server",
        "req/s",
        "floor",
        "of floor",
        "in tok/s",
        "cached",
        "out tok/s",
    ):
        table.add_column(column, justify="left" if column == "server" else "right")
    for column in ("TTFT p50 ms", "TPOT p50", "E2E p50", "E2E p99", "floor ms"):
        table.add_column(column, justify="right")
    for level in result.levels:
        total, floor = level.result.total, level.floor
        floor_req_s = None if floor is None else floor.req_s
        table.add_row(
            f"{level.load:g}",
            level.server,
            f"{total.req_s:.2f}",
            "" if floor_req_s is None else f"{floor_req_s:.1f}",
            "" if floor_req_s is None else f"{total.req_s / floor_req_s:.0%}",
            f"{total.prompt_tok_s:.0f}",
            f"{total.cached_tokens / max(total.prompt_tokens, 1):.0%}",
            f"{total.output_tok_s:.1f}",
            *(
                "" if summary is None else f"{summary.p50.value:.1f}"
                for summary in (total.ttft_ms, total.tpot_ms, total.e2e_ms)
            ),
            "" if total.e2e_ms is None else f"{total.e2e_ms.p99.value:.1f}",
            "" if floor is None else f"{floor.first_token_ms:.2f} + {floor.token_ms:.2f}/token",
        )
        for name, (req_s, p50_ms) in level.published.items():
            row = [f"{level.load:g}", f"{name}, published", f"{req_s:.1f}"]
            table.add_row(*row, *[""] * 7, f"{p50_ms:.1f}")
    return table


def roof_line(environment: Environment) -> str:
    probe = environment.probe
    assert probe is not None
    roof = f"roof ({probe.device}): {probe.read_gb_s:.1f} GB/s, {probe.gemm_gflop_s:.0f} GFLOP/s"
    return roof + ("" if environment.quiet else "; the machine was not quiet")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help=f"the same as {' '.join(SMALL)}")
    parser.add_argument("--model", default="qwen3_0_6b", help="a model=NAME, or a folder")
    parser.add_argument("--workload", default="prefill", help="a file in conf/bench/serve")
    parser.add_argument("--loads", nargs="+", type=float, default=list(LOADS))
    parser.add_argument("--requests", type=int, default=200, help="at least, of each load")
    parser.add_argument("--max-s", type=float, default=600.0, help="limit of one load")
    parser.add_argument("--start-s", type=float, default=300.0, help="limit of the start")
    parser.add_argument("--override", action="append", default=[], help="of the server")
    parser.add_argument("--set", action="append", default=[], help="of the workload")
    parser.add_argument("--peer", action="append", default=[], help="NAME=URL of a running server")
    parser.add_argument("--result", type=Path, help="file for the result")
    given = list(sys.argv[1:] if argv is None else argv)
    return parser.parse_args([*SMALL, *given] if "--small" in given else given)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = parse(argv)
    result = run(args)
    line = msgspec.json.encode(result).decode()
    console = Console(stderr=True, width=150)
    console.print(table_of(result))
    console.print(roof_line(result.environment))
    if args.result is not None:
        args.result.parent.mkdir(parents=True, exist_ok=True)
        args.result.write_text(line + "\n")
    print(line, flush=True)
    document: dict[str, Any] = msgspec.json.decode(line)
    return document


if __name__ == "__main__":
    main()
