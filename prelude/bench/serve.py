"""``prelude bench serve``: draw the requests, warm up, send them, report."""

import asyncio
import gc
import ipaddress
import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import uvloop

from prelude.bench import machine
from prelude.bench import result as results
from prelude.bench.connection import HttpClient
from prelude.bench.exchange import Exchange
from prelude.bench.load import Job, Load, Sender, WallTimer
from prelude.bench.metrics import report, samples_of
from prelude.bench.observer import Observer
from prelude.bench.probe import probe_apart
from prelude.bench.report import show
from prelude.bench.result import ClassReport, Environment, Generator, Probe, ServeResult
from prelude.bench.stats import summarise
from prelude.bench.workload import Workload, render
from prelude.conf.bench import Arrival, ServeBenchConfig

MAX_REQUESTS = 1_000_000
MAX_DURATION_S = 24 * 3600
SLIP_WARNING_MS = 10.0
CPU_WARNING_SHARE = 0.7
REQUESTS_FOR_P99 = 1000


@dataclass(frozen=True, slots=True)
class Measured:
    """A finished load and what surrounded it."""

    model: str
    load: Load
    cpu_s: float
    environment: Environment


def run(config: ServeBenchConfig) -> dict[str, Any]:
    """Measure, print the tables on stderr and the result as one line of JSON on stdout (and into
    ``config.result``), and return it as a dictionary.

    Raises ``ValueError`` for a configuration that cannot run and ``ConnectionError`` when the
    server does not answer the warm-up.
    """
    validate(config)
    probe = None
    if config.probe and is_local(config.base_url):
        probe = probe_apart("cpu", config.threads or len(machine.my_cores()), "float32")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(measure(config, probe))
    return publish(result, config.result)


def publish(result: results.Result, path: str | None) -> dict[str, Any]:
    """Tables on stderr, one line of JSON on stdout and in the file; the same as a dictionary."""
    show(result)
    line = results.encode(result).decode()
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(line + "\n")
    sys.stderr.flush()
    print(line, flush=True)
    document: dict[str, Any] = msgspec.json.decode(line)
    return document


async def measure(config: ServeBenchConfig, probe: Probe | None) -> ServeResult:
    """One run inside a running event loop; the same errors as ``run``."""
    client = HttpClient(
        config.base_url,
        api_key=config.api_key,
        keepalive=config.keepalive,
        clock=time.perf_counter,
    )
    try:
        measured = await _measure(config, client, probe)
    finally:
        client.close()
    return _result(config, measured)


async def _measure(config: ServeBenchConfig, client: HttpClient, probe: Probe | None) -> Measured:
    workload = Workload(config)
    drafts = workload.drafts()
    model = config.model or await _first_model(client, config.request_timeout_s)
    jobs = render(drafts, config, model, client)
    await _warm_up(config, client, render(workload.warmup(), config, model, client))
    sender = _sender(config, client)
    gc.collect()
    gc.freeze()  # a full collection in the middle would stop every stream at once
    observer = _observer(config, probe)
    cpu_s = time.process_time()
    try:
        if config.arrival is Arrival.closed:
            load = await sender.closed_loop(jobs, config.concurrency)
        else:
            load = await sender.open_loop(jobs)
    finally:
        gc.unfreeze()
    return Measured(model, load, time.process_time() - cpu_s, observer.finish())


def _observer(config: ServeBenchConfig, probe: Probe | None) -> Observer:
    if not is_local(config.base_url):
        return Observer(probe, config.pids)
    pids = config.pids or machine.listeners(port_of(config.base_url))
    return Observer(probe, pids, complete=bool(pids))


def _sender(config: ServeBenchConfig, client: HttpClient) -> Sender:
    return Sender(
        client,
        WallTimer(),
        stream=config.stream,
        request_timeout_s=config.request_timeout_s,
        duration_s=config.duration_s,
    )


async def _first_model(client: HttpClient, timeout_s: float) -> str:
    exchange = Exchange(stream=False)
    try:
        async with asyncio.timeout(timeout_s):
            await client.send(client.render("GET", "/models"), exchange)
    except TimeoutError:
        raise ConnectionError(
            f"base_url: no answer to GET /models in {timeout_s:g} s; is the server ready?"
        ) from None
    except OSError as error:
        raise ConnectionError(f"base_url: no server answers there ({error})") from None
    try:
        models = msgspec.json.decode(exchange.body, type=_Models)
        return models.data[0].id
    except (msgspec.MsgspecError, IndexError):
        raise ConnectionError(
            f"base_url: GET /models answered {exchange.status} and no list of models; "
            "check the address (it usually ends in /v1) and the key, or set model=NAME"
        ) from None


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


async def _warm_up(config: ServeBenchConfig, client: HttpClient, jobs: list[Job]) -> None:
    load = await _sender(config, client).closed_loop(jobs, 1)
    for _, exchange in load.sent:
        if exchange.failure is not None:
            raise ConnectionError(f"a warm-up request failed: {exchange.failure} {exchange.detail}")


def _result(config: ServeBenchConfig, measured: Measured) -> ServeResult:
    load = measured.load
    samples = samples_of(load, {name: traffic.slo for name, traffic in config.classes.items()})
    measured_s = max(load.end_s - load.start_s, 1e-9)

    def pooled(kind: str | None) -> ClassReport:
        chosen = [sample for sample in samples if kind in (None, sample.kind)]
        return report(chosen, measured_s, resamples=config.resamples, seed=config.seed)

    slips = [sample.slip_ms for sample in samples] if config.arrival is not Arrival.closed else []
    generator = Generator(
        offered_req_s=_offered(load),
        slip_ms=summarise(slips, resamples=0),
        max_in_flight=load.max_in_flight,
        cpu_share=measured.cpu_s / measured_s,
    )
    total = pooled(None)
    return ServeResult(
        environment=measured.environment,
        config={**asdict(config), "api_key": None},
        model=measured.model,
        measured_s=measured_s,
        total=total,
        classes={name: pooled(name) for name in config.classes},
        generator=generator,
        warnings=warnings(config, total, generator, measured.environment),
        samples=samples if config.samples else [],
    )


def _offered(load: Load) -> float:
    """Requests a second between the first and the last one sent."""
    if len(load.sent) < 2:
        return 0.0
    span_s = load.sent[-1][1].sent_s - load.sent[0][1].sent_s
    return (len(load.sent) - 1) / span_s if span_s > 0 else 0.0


def warnings(
    config: ServeBenchConfig, total: ClassReport, generator: Generator, environment: Environment
) -> list[str]:
    """Why these numbers may not mean what they seem to."""
    found = []
    if total.num_sent < config.num_requests:
        found.append(
            f"{total.num_sent} of {config.num_requests} requests were sent: "
            "the time was up or the trace at its end"
        )
    if total.failures:
        found.append(
            f"{sum(total.failures.values())} requests failed; latencies are of completed ones"
        )
    if total.num_completed < REQUESTS_FOR_P99:
        found.append(f"p99 of {total.num_completed} requests; {REQUESTS_FOR_P99} are asked for")
    slip = generator.slip_ms
    if slip is not None and slip.p99.value > SLIP_WARNING_MS:
        found.append(f"requests were sent late (p99 {slip.p99.value:.0f} ms): less load than drawn")
    if generator.cpu_share > CPU_WARNING_SHARE:
        found.append(
            f"the load generator used {generator.cpu_share:.0%} of a core: its limits show"
        )
    if not environment.quiet:
        found.append("the machine was not quiet")
    return found


def is_local(base_url: str) -> bool:
    host = urlsplit(base_url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def port_of(base_url: str) -> int:
    url = urlsplit(base_url)
    return url.port or (443 if url.scheme == "https" else 80)


def validate(config: ServeBenchConfig) -> None:
    """Raises ``ValueError`` naming the field that is out of bounds."""
    bounds: dict[str, tuple[float, float]] = {
        "num_requests": (1, MAX_REQUESTS),
        "duration_s": (0.001, MAX_DURATION_S),
        "request_timeout_s": (0.001, MAX_DURATION_S),
        "concurrency": (1, MAX_REQUESTS),
        "warmup": (0, 10_000),
        "resamples": (0, 100_000),
    }
    for name, (low, high) in bounds.items():
        value = getattr(config, name)
        if not (math.isfinite(value) and low <= value <= high):
            raise ValueError(f"{name}: must be between {low} and {high}, not {value}")
    if config.threads is not None and config.threads < 1:
        raise ValueError("threads: must be at least 1")
    if config.trace is not None and config.arrival is not Arrival.trace:
        raise ValueError("trace: given, but arrival is not trace; set arrival=trace")
