"""What a person reads: tables on stderr, so that stdout ends in the JSON document alone."""

from collections.abc import Mapping

from rich.console import Console, RenderableType
from rich.table import Table

from prelude.bench.result import (
    ClassReport,
    EngineResult,
    Environment,
    PeerResult,
    PriceError,
    PricesResult,
    Result,
    ServeResult,
    Summary,
)

_MOST_KEYS = 24

METRICS = {
    "ttft_ms": "TTFT",
    "first_content_ms": "first content",
    "tpot_ms": "TPOT",
    "itl_ms": "ITL",
    "stall_ms": "longest gap",
    "e2e_ms": "end to end",
}


def show(result: Result, console: Console | None = None) -> None:
    """Print a result as tables (default: on stderr)."""
    console = console or Console(stderr=True)
    match result:
        case ServeResult():
            parts = _serve(result)
        case EngineResult():
            parts = _engine(result)
        case PeerResult():
            parts = _peers(result)
        case PricesResult():
            parts = _prices(result)
    for part in [*parts, *_environment(result.environment)]:
        console.print(part)


def _serve(result: ServeResult) -> list[RenderableType]:
    reports = {"all": result.total}
    if len(result.classes) > 1:
        reports |= result.classes
    generator = result.generator
    slip = generator.slip_ms
    lines: list[RenderableType] = [_counts(result.model, reports)]
    lines += [_latencies(name, report) for name, report in reports.items()]
    lines.append(
        f"load generator: offered {generator.offered_req_s:.2f} req/s, "
        f"at most {generator.max_in_flight} in flight, {generator.cpu_share:.0%} of a core"
        + (f", sent p99 {slip.p99.value:.1f} ms late" if slip is not None else "")
    )
    return lines + [f"[yellow]warning:[/] {warning}" for warning in result.warnings]


def _counts(model: str, reports: Mapping[str, ClassReport]) -> Table:
    table = Table(title=model)
    for column in ("", "sent", "done", "req/s", "in tok/s", "out tok/s", "good req/s", "good"):
        table.add_column(column, justify="right" if column else "left")
    table.add_column("failures")
    for name, report in reports.items():
        table.add_row(
            name,
            str(report.num_sent),
            str(report.num_completed),
            f"{report.req_s:.2f}",
            f"{report.prompt_tok_s:.0f}",
            f"{report.output_tok_s:.1f}",
            f"{report.goodput_req_s:.2f}",
            f"{report.attainment:.0%}",
            ", ".join(f"{kind} {count}" for kind, count in report.failures.items()),
        )
    return table


def _latencies(name: str, report: ClassReport) -> Table:
    table = Table(title=f"latency in ms: {name}")
    for column in ("", "mean", "p50", "p90", "p99", "max"):
        table.add_column(column, justify="right" if column else "left")
    for field, label in METRICS.items():
        summary: Summary | None = getattr(report, field)
        if summary is not None:
            table.add_row(label, f"{summary.mean:.1f}", *_cells(summary), f"{summary.max:.1f}")
    return table


def _cells(summary: Summary) -> list[str]:
    cells = []
    for interval in (summary.p50, summary.p90, summary.p99):
        bounds = "" if interval.low is None else f" [{interval.low:.1f}, {interval.high:.1f}]"
        cells.append(f"{interval.value:.1f}{bounds}")
    return cells


def _engine(result: EngineResult) -> list[RenderableType]:
    table = Table(title=f"{result.model}, weights {result.weights_mib:.0f} MiB")
    table.add_column("step")
    for column in ("context", "p50 ms", "tok/s", "overhead ms", "floor ms", "of floor"):
        table.add_column(column, justify="right")
    for timing in result.timings:
        floor = timing.floor
        table.add_row(
            f"{timing.kind} {timing.tokens}",
            str(timing.context),
            f"{timing.step_ms.p50.value:.2f}",
            f"{timing.tok_s:.1f}",
            f"{timing.overhead_ms.p50.value:.3f}",
            "" if floor is None else f"{floor.ms:.2f} {floor.bound}",
            "" if floor is None else f"{floor.share:.0%}",
        )
    ready, wanted = result.programs
    lines: list[RenderableType] = [table]
    if wanted:
        lines.append(f"{ready} of {wanted} compiled programs in use")
    if result.frontend_us_token is not None:
        lines.append(f"front end: {result.frontend_us_token:.1f} us of a core per streamed token")
    return lines + [f"[yellow]skipped:[/] {name}" for name in result.skipped]


def _prices(result: PricesResult) -> list[RenderableType]:
    table = Table(title=f"prices of {result.model}, medians by bucket")
    table.add_column("bucket")
    for column in ("launches", "price ms", "real ms", "error", "of floor"):
        table.add_column(column, justify="right")
    for key in result.keys[:_MOST_KEYS]:
        table.add_row(
            key.key.replace("[", r"\["),
            str(key.num),
            f"{key.price_ms:.2f}",
            f"{key.actual_ms:.2f}",
            f"{key.error:.1%}",
            "" if key.floor_share is None else f"{key.floor_share:.0%}",
        )
    more = result.keys[_MOST_KEYS:]
    lines: list[RenderableType] = [table]
    if more:
        lines.append(f"and {sum(key.num for key in more)} launches of {len(more)} other buckets")
    return [
        *lines,
        *(_error(kind, e) for kind, e in {"all": result.error, **result.errors}.items()),
    ]


def _error(kind: str, error: PriceError) -> str:
    return (
        f"{kind}: {error.num} launches, error {error.median:.1%} in the median, {error.p90:.1%} at "
        f"p90; nine in ten took less than {error.ratio_p90:.2f} times their price"
    )


def _peers(result: PeerResult) -> list[RenderableType]:
    table = Table(title="tok/s, one row per run")
    for column in ("engine", "turn", "prefill", "batch 1", "streams", "start-up s"):
        table.add_column(column, justify="left" if column == "engine" else "right")
    for run in result.runs:
        table.add_row(
            f"{run.engine} {run.version}",
            str(run.turn),
            f"{run.prefill_tok_s:.1f}",
            f"{run.decode_tok_s:.2f}",
            f"{run.streams_tok_s:.1f}",
            f"{run.startup_s:.1f}",
        )
    lines: list[RenderableType] = [table]
    for peer, ratios in result.ratios.items():
        text = ", ".join(
            f"{name} {ratio.value:.2f}x"
            + ("" if ratio.low is None else f" [{ratio.low:.2f}, {ratio.high:.2f}]")
            for name, ratio in ratios.items()
        )
        lines.append(f"prelude / {peer}: {text}")
    for engine, shares in result.roof_shares.items():
        text = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
        lines.append(f"of the roof, {engine}: {text}")
    for engine, (equal, total) in result.equal_ids.items():
        lines.append(f"{engine}: {equal} of {total} greedy tokens equal the reference's")
    return lines + [f"[yellow]skipped:[/] {peer}: {why}" for peer, why in result.skipped.items()]


def _environment(environment: Environment) -> list[RenderableType]:
    cores = ",".join(map(str, environment.cores))
    lines: list[RenderableType] = [f"{environment.host_cpu}, cores {cores}"]
    if (probe := environment.probe) is not None:
        lines.append(
            f"roof ({probe.device}, {probe.threads} threads): {probe.read_gb_s:.1f} GB/s read, "
            f"{probe.gemm_gflop_s:.0f} GFLOP/s {probe.dtype}"
        )
    others = environment.others_cpu_share
    if not environment.quiet:
        share = "" if others is None else f" (others used {others:.0%} of the cores)"
        lines.append(f"[yellow]the machine was not quiet{share}[/]")
    return lines
