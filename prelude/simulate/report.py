"""What a person sees of a simulation: a bar while it runs, tables after it, both on stderr, and the
result as one line of JSON on stdout."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from prelude.bench.result import Summary
from prelude.conf.simulate import SimulateConfig
from prelude.simulate.fleet import Progress as Watcher
from prelude.simulate.fleet import nobody
from prelude.simulate.replay import Pair, ReplayResult, replay
from prelude.simulate.result import SimReport, SimulateResult
from prelude.simulate.run import simulate

_LATENCIES = {
    "ttft_ms": "TTFT",
    "itl_ms": "ITL",
    "stall_ms": "longest gap",
    "e2e_ms": "end to end",
    "slowdown": "slowdown",
}


def simulate_and_show(config: SimulateConfig, title: str = "") -> SimulateResult:
    """``simulate`` with everything that ``config`` wants to be shown or written."""
    console = Console(stderr=True)
    with _bar(console, title, config.progress) as progress:
        result = simulate(config, progress)
    for part in tables(result, title):
        console.print(part)
    publish(msgspec.json.encode(result), config.result)
    if config.plot is not None:
        from prelude.simulate.plots import plot

        plot(result, Path(config.plot))
    return result


def replay_and_show(config: SimulateConfig) -> ReplayResult:
    """``replay``, its tables and its result."""
    console = Console(stderr=True)
    result = replay(config)
    for part in replay_tables(result):
        console.print(part)
    publish(msgspec.json.encode(result), config.result)
    return result


def publish(line: bytes, path: str | None) -> None:
    """One line on stdout, and in a file if there should be one."""
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(line + b"\n")
    sys.stderr.flush()
    print(line.decode(), flush=True)


@contextmanager
def _bar(console: Console, title: str, wanted: bool) -> Iterator[Watcher]:
    if not wanted or not console.is_terminal:
        yield nobody
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task(title or "simulating", total=1.0)
        yield lambda fraction: bar.update(task, completed=fraction)


def tables(result: SimulateResult, title: str = "") -> Iterator[RenderableType]:
    """The result as rich tables."""
    kinds = {"all": result.total, **result.classes}
    yield _counts(kinds, title or result.policy)
    for field, label in _LATENCIES.items():
        yield _latencies(label, field, kinds)
    yield _footer(result)
    yield from (f"[yellow]warning:[/] {warning}" for warning in result.warnings)


def _counts(kinds: Mapping[str, SimReport], title: str) -> Table:
    table = Table(title=title)
    for column in ("", "requests", "done", "req/s", "out tok/s", "good", "preempted"):
        table.add_column(column, justify="right" if column else "left")
    for name, report in kinds.items():
        table.add_row(
            name,
            str(report.num_sent),
            str(report.num_completed),
            f"{report.req_s:.2f}",
            f"{report.output_tok_s:.0f}",
            f"{report.attainment:.1%}",
            str(report.num_preemptions),
        )
    return table


def _latencies(label: str, field: str, kinds: Mapping[str, SimReport]) -> Table:
    table = Table(title=label if field == "slowdown" else f"{label}, ms")
    for column in ("", "mean", "p50", "p90", "p99", "max"):
        table.add_column(column, justify="right" if column else "left")
    for name, report in kinds.items():
        summary: Summary | None = getattr(report, field)
        if summary is not None:
            points = (summary.p50.value, summary.p90.value, summary.p99.value, summary.max)
            table.add_row(name, f"{summary.mean:.1f}", *(f"{value:.1f}" for value in points))
    return table


def _footer(result: SimulateResult) -> str:
    steps, load = result.steps, result.load
    share = ""
    if load.saturation_req_s:
        share = f" ({load.offered_req_s / load.saturation_req_s:.0%} of what fcfs sustains)"
    us = steps.schedule_us.p50.value if steps.schedule_us else 0.0
    return (
        f"offered {load.offered_req_s:.2f} req/s{share}; {steps.num} steps of "
        f"{result.simulated_s:.0f} s, busy {steps.busy:.0%}, {us:.0f} us to decide on one; "
        f"{steps.num_parks} parked, {steps.wasted_ms:.0f} ms computed again, {steps.num_swaps} "
        f"swapped out in {steps.copy_ms:.0f} ms of copies; "
        f"simulated in {result.wall_s:.1f} s"
    )


def replay_tables(result: ReplayResult) -> Iterator[RenderableType]:
    """How far the simulator is off."""
    prices = Table(title="launches: predicted against real, relative errors")
    for column in ("prices", "kind", "launches", "mean", "median", "p90", "sum"):
        prices.add_column(column, justify="left" if column in ("prices", "kind") else "right")
    for source, errors in (("engine", result.engine), ("listed", result.listed)):
        for kind, error in errors.items():
            shares = (error.mean, error.median, error.p90)
            cells = [f"{share:.1%}" for share in shares]
            prices.add_row(source, kind, str(error.num), *cells, f"{error.total:.3f}")
    yield prices
    yield _replayed(result)
    yield (
        f"{result.num_requests} requests, {result.num_steps} steps, {result.measured_s:.0f} s; "
        f"{result.num_left_out} sequences left out; fitted on {result.fit.num_steps} steps: real "
        f"over listed {result.fit.factor_p50:.2f} ({result.fit.factor_p10:.2f} to "
        f"{result.fit.factor_p90:.2f}), {result.fit.overhead_ms:.3f} ms a step besides and "
        f"{result.fit.overhead_row_ms * 1e3:.0f} us a row"
    )


def _replayed(result: ReplayResult) -> Table:
    table = Table(title="the same arrivals: real / simulated ms (error)")
    for column in ("", "requests", "metric", "mean", "p50", "p90", "p99"):
        table.add_column(column, justify="left" if column in ("", "metric") else "right")
    for kind, replayed in result.classes.items():
        for field in ("ttft_ms", "itl_ms", "e2e_ms"):
            pairs: dict[str, Pair] = getattr(replayed, field)
            cells = [
                f"{pair.real:.1f} / {pair.simulated:.1f} ({pair.error:.0%})"
                for pair in (pairs[name] for name in ("mean", "p50", "p90", "p99") if pairs)
            ]
            table.add_row(kind, str(replayed.num), _LATENCIES[field], *cells)
    return table
