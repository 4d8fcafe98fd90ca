"""``prelude bench serve`` against a server in this process whose latencies the test decides."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prelude.bench import serve
from prelude.bench.result import Generator, ServeResult, decode
from prelude.bench.serve import is_local, measure, port_of, run, validate
from prelude.conf.bench import (
    Arrival,
    Endpoint,
    Lengths,
    ServeBenchConfig,
    Slo,
    TrafficClass,
)
from tests.bench_results import PROBE, class_report, environment, summary
from tests.bench_server import Answer, Chunk, Handler, Server, stream_of, text


def config(server: Server | None = None, **changes: Any) -> ServeBenchConfig:
    traffic = TrafficClass(prompt=Lengths(value=4), output=Lengths(value=3))
    defaults: dict[str, Any] = {
        "base_url": server.base_url if server is not None else "http://127.0.0.1:1/v1",
        "classes": {"chat": traffic},
        "rate": 2000.0,
        "num_requests": 12,
        "warmup": 1,
        "resamples": 20,
        "probe": False,
    }
    return ServeBenchConfig(**{**defaults, **changes})


def exact(body: dict[str, Any]) -> Answer:
    return stream_of(body["max_tokens"])


async def measured(handler: Handler, **changes: Any) -> tuple[ServeResult, Server]:
    async with Server(handler).running() as server:
        return await measure(config(server, **changes), None), server


async def test_a_run_counts_what_it_sent() -> None:
    result, server = await measured(exact)
    assert len(server.requests) == 13, "12 and a warm-up"
    assert (result.total.num_sent, result.total.num_completed) == (12, 12)
    assert result.total.output_tokens == 36
    assert result.total.prompt_tokens == 12 * 7
    assert result.total.itl_ms is not None and result.total.itl_ms.count == 24
    assert result.classes["chat"] == result.total
    assert len(result.samples) == 12
    assert result.model == "tiny", "asked from the server"


async def test_requests_are_the_ones_drawn() -> None:
    _, server = await measured(exact, model="other", temperature=0.5)
    body = server.requests[-1]
    assert body["path"] == "/v1/completions"
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("other", 3, 0.5)
    assert body["ignore_eos"] is True
    assert len({request["prompt"] for request in server.requests}) == 13


async def test_two_runs_send_the_same() -> None:
    (_, first), (_, second) = [await measured(exact, arrival=Arrival.closed) for _ in range(2)]
    key = sorted(str(request) for request in first.requests)
    assert key == sorted(str(request) for request in second.requests)


async def test_chat() -> None:
    result, server = await measured(exact, endpoint=Endpoint.chat)
    assert server.requests[0]["path"] == "/v1/chat/completions"
    assert server.requests[0]["messages"][0]["role"] == "user"
    assert result.total.num_completed == 12


async def test_a_mix_is_reported_by_class() -> None:
    classes = {
        "short": TrafficClass(output=Lengths(value=2), slo=Slo(ttft_ms=60_000.0)),
        "long": TrafficClass(output=Lengths(value=5), slo=Slo(e2e_ms=1e-9)),
    }
    result, _ = await measured(exact, classes=classes, num_requests=30)
    short, long = result.classes["short"], result.classes["long"]
    assert short.num_sent + long.num_sent == 30
    assert short.output_tokens == 2 * short.num_sent
    assert (short.attainment, long.attainment) == (1.0, 0.0)
    good_req_s = result.total.goodput_req_s
    assert good_req_s == pytest.approx(short.num_sent / result.measured_s)


async def test_failures_are_counted_by_kind() -> None:
    number = iter(range(100))

    def handler(body: dict[str, Any]) -> Answer:
        if next(number) % 3 == 1:
            return Answer(status=429, body=b"busy")
        return exact(body)

    result, _ = await measured(handler)
    assert result.total.failures == {"http_429": 4}
    assert result.total.num_completed == 8
    assert any("4 requests failed" in warning for warning in result.warnings)
    assert sum(sample.detail == "busy" for sample in result.samples) == 4


async def test_time_is_bounded() -> None:
    number = iter(range(100))

    def handler(body: dict[str, Any]) -> Answer:
        return exact(body) if next(number) == 0 else Answer([Chunk(text("a"))], hang=True)

    result, server = await measured(handler, duration_s=0.2)
    assert result.total.failures == {"cut_off": 12}
    assert server.cancelled == 12 or result.total.num_completed == 0


async def test_what_was_not_sent_is_said() -> None:
    result, _ = await measured(exact, rate=20.0, duration_s=0.1)
    assert result.total.num_sent < 12
    assert any("requests were sent" in warning for warning in result.warnings)


async def test_whole_answers() -> None:
    body = json.dumps({"choices": [{"text": "a"}], "usage": {"completion_tokens": 3}}).encode()
    result, server = await measured(lambda _: Answer(body=body), stream=False)
    assert "stream_options" not in server.requests[0]
    assert result.total.output_tokens == 36
    assert result.total.ttft_ms is None
    assert result.total.e2e_ms is not None


async def test_a_closed_loop() -> None:
    result, _ = await measured(exact, arrival=Arrival.closed, concurrency=3)
    assert result.generator.max_in_flight == 3
    assert result.generator.slip_ms is None


async def test_samples_can_be_left_out() -> None:
    result, _ = await measured(exact, samples=False)
    assert result.samples == []


async def test_the_key_is_sent_and_not_kept() -> None:
    result, server = await measured(exact, api_key="secret")
    assert server.headers[0]["authorization"] == "Bearer secret"
    assert result.config["api_key"] is None


async def test_the_configuration_is_in_the_result() -> None:
    result, _ = await measured(exact, seed=5)
    assert result.config["seed"] == 5
    assert result.config["classes"]["chat"]["output"]["value"] == 3


async def test_no_server() -> None:
    with pytest.raises(ConnectionError, match="no server answers"):
        await measure(config(), None)


@pytest.mark.parametrize(
    "models", [Answer(status=404, body=b"<html>"), Answer(body=b'{"data": []}'), Answer(body=b"{}")]
)
async def test_something_else_answers(models: Answer) -> None:
    async with Server(exact, models=models).running() as server:
        with pytest.raises(ConnectionError, match=r"GET /models answered .* set model=NAME"):
            await measure(config(server), None)


async def test_a_server_that_does_not_answer() -> None:
    async with Server(exact, models=Answer(hang=True)).running() as server:
        with pytest.raises(ConnectionError, match=r"no answer .* in 0\.05 s"):
            await measure(config(server, request_timeout_s=0.05), None)


async def test_a_failing_warm_up_ends_the_run() -> None:
    with pytest.raises(ConnectionError, match="warm-up request failed: http_500 oops"):
        await measured(lambda _: Answer(status=500, body=b"oops"))


def test_few_requests_late_ones_and_a_busy_client_are_warned_of() -> None:
    generator = Generator(2.0, summary(50.0), 3, 0.9)
    found = serve.warnings(
        config(num_requests=12), class_report(), generator, environment(quiet=False)
    )
    text = "\n".join(found)
    assert "p99 of 10 requests" in text
    assert "sent late (p99 50 ms)" in text
    assert "90% of a core" in text
    assert "not quiet" in text


class Threaded:
    """The server on a loop and thread of its own, because ``run`` brings its own loop."""

    def __init__(self) -> None:
        self.base_url = ""
        self._ready, self._stop = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with Server(exact).running() as server:
            self.base_url = server.base_url
            self._ready.set()
            await self._stop.wait()

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(30)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)


@pytest.fixture
def threaded() -> Iterator[Threaded]:
    server = Threaded()
    server.start()
    yield server
    server.stop()


def test_run_prints_one_document(
    threaded: Threaded, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "result.json"
    document = run(config(base_url=threaded.base_url, result=str(path)))
    captured = capsys.readouterr()
    line = captured.out.splitlines()[-1]
    assert json.loads(line) == json.loads(path.read_text()) == document
    result = decode(line)
    assert isinstance(result, ServeResult)
    assert result.total.num_completed == 12
    assert result.environment.processes, "this process listens, and is counted once"
    assert "TTFT" in captured.err


def test_run_probes_a_local_machine(
    threaded: Threaded, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[str, int, str]] = []

    def probe(*args: Any) -> Any:
        asked.append(args)
        return PROBE

    monkeypatch.setattr(serve, "probe_apart", probe)
    document = run(config(base_url=threaded.base_url, probe=True, threads=2))
    assert asked == [("cpu", 2, "float32")]
    assert document["environment"]["probe"]["read_gb_s"] == 30.0


@pytest.mark.parametrize(
    ("url", "local", "port"),
    [
        ("http://127.0.0.1:8000/v1", True, 8000),
        ("http://localhost/v1", True, 80),
        ("http://[::1]:9/v1", True, 9),
        ("https://api.example.com/v1", False, 443),
        ("http://10.0.0.1:8000/v1", False, 8000),
    ],
)
def test_addresses(url: str, local: bool, port: int) -> None:
    assert is_local(url) is local
    assert port_of(url) == port


@pytest.mark.parametrize(
    "changes",
    [
        {"num_requests": 0},
        {"num_requests": 10**7},
        {"duration_s": 0.0},
        {"duration_s": float("inf")},
        {"request_timeout_s": float("nan")},
        {"concurrency": 0},
        {"warmup": -1},
        {"resamples": -1},
        {"threads": 0},
        {"trace": "file"},
    ],
)
def test_bounds(changes: dict[str, Any]) -> None:
    (name,) = changes
    with pytest.raises(ValueError, match=name):
        validate(config(**changes))
