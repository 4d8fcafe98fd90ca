"""Files of requests: what is answered, what becomes of bad lines, and what a crash leaves."""

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelude.batch.lines import BadLine, Error, Result, Task, parse, read_tasks
from prelude.batch.output import Output, written
from prelude.batch.run import Batch, Summary, all_done
from prelude.batch.target import AppTarget, HttpTarget, Reply
from prelude.cli import main
from tests.server_harness import ANSWER, Engine, Gate, Harness, serving

HI = {"messages": [{"role": "user", "content": "Hi"}]}
CHAT = "/v1/chat/completions"


def line(custom_id: str, url: str = CHAT, body: Any = HI, **more: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body, **more}


def write(path: Path, lines: list[Any]) -> Path:
    texts = [one if isinstance(one, str) else json.dumps(one) for one in lines]
    path.write_text("".join(text + "\n" for text in texts))
    return path


def results(path: Path) -> dict[str | None, Any]:
    found = [json.loads(text) for text in path.read_text().splitlines()]
    assert len({one["id"] for one in found}) == len(found)
    return {one["custom_id"]: one for one in found}


def silent(phase: str, fraction: float) -> None:
    assert 0.0 <= fraction <= 1.0


async def no_wait(seconds: float) -> None:
    assert seconds >= 0.0


class Scripted:
    """Answers with what ``reply`` says of a body and of how often that was asked before."""

    def __init__(self, reply: Callable[[Any, int], Reply], concurrency: int = 4) -> None:
        self.concurrency = concurrency
        self.asked: list[Any] = []
        self.most = 0
        self._reply = reply
        self._now = 0

    async def post(self, path: str, body: bytes) -> Reply:
        self._now += 1
        self.most = max(self.most, self._now)
        found = json.loads(body)
        count = self.asked.count(found)
        self.asked.append(found)
        await asyncio.sleep(0)
        self._now -= 1
        return self._reply(found, count)


def good(body: Any, count: int) -> Reply:
    return Reply(200, {"x-request-id": "r"}, json.dumps({"echo": body}).encode())


def app_target(server: Harness, concurrency: int = 4) -> AppTarget:
    return AppTarget(server.app, server.client, concurrency)


async def test_every_endpoint_through_the_application(tmp_path: Path) -> None:
    bodies = {
        CHAT: HI,
        "/v1/completions": {"prompt": "the fox"},
        "/v1/embeddings": {"input": ["fox", "dog"]},
        "/v1/responses": {"input": "Hi"},
        "/v1/messages": {"max_tokens": 99, **HI},
    }
    lines = [line(url, url, body) for url, body in bodies.items()]
    source = write(tmp_path / "in", lines)
    async with serving() as server:
        summary = await Batch(source, tmp_path / "out", app_target(server)).run(silent)
        assert server.client.num_streams == 0
        assert server.services.lifecycle.num_open == 0
        stats = await server.http.get("/metrics")
        assert 'class="batch"' in stats.text or 'service_class="batch"' in stats.text
    assert (summary.answered, summary.failed, summary.skipped) == (5, 0, 0)
    assert summary.prompt_tokens > 0
    assert summary.output_tokens > 0
    found = results(tmp_path / "out")
    assert found.keys() == bodies.keys()
    for one in found.values():
        assert one["error"] is None
        assert one["response"]["status_code"] == 200
        assert one["response"]["request_id"]
    body = found[CHAT]["response"]["body"]
    assert body["choices"][0]["message"]["content"] == ANSWER
    assert body["timings"]["service_class"] == "batch"
    assert len(found["/v1/embeddings"]["response"]["body"]["data"]) == 2


async def test_over_http(tmp_path: Path) -> None:
    source = write(tmp_path / "in", [line(f"n{n}") for n in range(9)])
    async with serving() as server, HttpTarget(f"{server.url}/v1/", 3) as target:
        summary = await Batch(source, tmp_path / "out", target).run(silent)
    assert summary.answered == 9
    assert results(tmp_path / "out")["n8"]["response"]["status_code"] == 200


async def test_bad_lines_become_errors(tmp_path: Path) -> None:
    source = write(
        tmp_path / "in",
        [
            "no json",
            line("a"),
            "",
            line("a"),
            {"custom_id": "b", "url": CHAT},
            line("c", "/v1/secrets"),
            line("d", method="GET"),
            line("e", body=[]),
            line("f", body={**HI, "stream": True}),
            line("g", body={"messages": "none"}),
            "[" * 5000,
        ],
    )
    async with serving() as server:
        batch = Batch(source, tmp_path / "out", app_target(server))
        summary = await batch.run(silent)
        assert (summary.answered, summary.failed) == (1, 9)
        again = await batch.run(silent)
        assert (again.answered, again.failed, again.skipped) == (0, 0, 10)
    found = [json.loads(text) for text in (tmp_path / "out").read_text().splitlines()]
    assert len(found) == 10
    nameless = {one["error"]["line"] for one in found if one["custom_id"] is None}
    assert nameless == {1, 4, 11}
    named = results(tmp_path / "out")
    for custom_id, word in (("b", "body"), ("c", "url"), ("d", "method"), ("e", "body")):
        assert word in named[custom_id]["error"]["message"]
        assert named[custom_id]["response"] is None
    refused = named["g"]["response"]
    assert (refused["status_code"], refused["body"]["error"]["param"]) == (400, "messages")


async def test_a_run_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    source = write(tmp_path / "in", [line(f"n{n}", body={"n": n}) for n in range(20)])
    path = tmp_path / "out"
    gate = asyncio.Event()

    def reply(body: Any, count: int) -> Reply:
        if body["n"] == 7:
            gate.set()
        return good(body, count)

    first = Scripted(reply, concurrency=2)
    task = asyncio.create_task(Batch(source, path, first).run(silent))
    await gate.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    before = results(path)
    assert 0 < len(before) < 20
    with path.open("ab") as file:
        file.write(b'{"id": "batch_req_9", "custom')
    second = Scripted(good)
    summary = await Batch(source, path, second).run(silent)
    assert summary.skipped == len(before)
    assert summary.done == 20
    assert results(path).keys() == {f"n{n}" for n in range(20)}
    assert not [body for body in second.asked if f"n{body['n']}" in before]


def test_files_that_cannot_be_used_are_errors_before_an_engine_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, nowhere = write(tmp_path / "in", [line("a")]), tmp_path / "nowhere" / "file"
    for files in ((nowhere, tmp_path / "out"), (source, nowhere), (tmp_path, tmp_path / "out")):
        assert main(["batch", *map(str, files), "model.path=no-such-folder"]) == 2
        error = capsys.readouterr().err
        assert "nowhere/file: No such file" in error or "Is a directory" in error


def test_a_file_that_is_done_needs_no_engine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "in", [line("a")])
    path = write(tmp_path / "out", [])
    assert all_done(source, path) is None
    asyncio.run(Batch(source, path, Scripted(good)).run(silent))
    assert all_done(source, path) == Summary(skipped=1)
    assert main(["batch", str(source), str(path), "model.path=no-such-folder"]) == 0
    assert "0 answered, 0 failed, 1 done before" in capsys.readouterr().err


async def test_so_many_at_once_and_no_more(tmp_path: Path) -> None:
    source = write(tmp_path / "in", [line(f"n{n}", body={"n": n}) for n in range(30)])
    target = Scripted(good, concurrency=5)
    await Batch(source, tmp_path / "out", target).run(silent)
    assert target.most == 5
    assert len(target.asked) == 30


async def test_what_is_refused_for_now_is_asked_again(tmp_path: Path) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    def reply(body: Any, count: int) -> Reply:
        if body["n"] == 0 and count < 2:
            return Reply(429, {"retry-after-ms": "1500", "retry-after": "2"}, b"{}")
        if body["n"] == 1:
            raise ConnectionResetError("gone")
        if body["n"] == 2:
            return Reply(503, {}, b"not JSON")
        return good(body, count)

    source = write(tmp_path / "in", [line(f"n{n}", body={"n": n}) for n in range(4)])
    batch = Batch(source, tmp_path / "out", Scripted(reply), tries=3, sleep=sleep)
    summary = await batch.run(silent)
    assert (summary.answered, summary.failed) == (2, 2)
    found = results(tmp_path / "out")
    assert found["n0"]["response"]["status_code"] == 200
    assert found["n1"]["error"] == {"code": "connection", "message": "gone"}
    assert found["n2"]["response"]["body"] == "not JSON"
    assert waits.count(1.5) == 2
    assert len(waits) == 6


async def test_a_full_queue_is_waited_for(tmp_path: Path) -> None:
    """The application refuses what its queue does not hold; the batch comes back."""
    source = write(tmp_path / "in", [line(f"n{n}") for n in range(30)])
    async with serving(Engine(max_seqs=2)) as server:
        assert server.core is not None
        server.core._admission.max_waiting = 4
        batch = Batch(source, tmp_path / "out", app_target(server, 16), 100, no_wait)
        summary = await batch.run(silent)
    assert summary.answered == 30


async def test_a_key_that_is_not_good_ends_the_run(tmp_path: Path) -> None:
    body = b'{"error": {"message": "this API key is not known here"}}'
    target = Scripted(lambda asked, count: Reply(401, {}, body))
    source = write(tmp_path / "in", [line("a"), line("b")])
    with pytest.raises(PermissionError, match="401: this API key is not known"):
        await Batch(source, tmp_path / "out", target).run(silent)
    assert (tmp_path / "out").read_text() == ""


async def test_an_engine_that_is_gone_ends_the_run(tmp_path: Path) -> None:
    source = write(tmp_path / "in", [line("a"), line("b")])
    async with serving() as server:
        target = app_target(server)
        await server.client.close()
        with pytest.raises(RuntimeError, match="shut down"):
            await Batch(source, tmp_path / "out", target).run(silent)
    assert (tmp_path / "out").read_text() == ""


async def test_cancelling_frees_what_was_under_way(tmp_path: Path) -> None:
    source = write(tmp_path / "in", [line(f"n{n}") for n in range(8)])
    gate = Gate()
    async with serving(Engine(gate=gate)) as server:
        task = asyncio.create_task(Batch(source, tmp_path / "out", app_target(server)).run(silent))
        await server.until(lambda: server.client.num_streams == 4)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert server.client.num_streams == 0
        assert server.services.lifecycle.num_open == 0


async def test_a_file_that_is_something_else_is_left_alone(tmp_path: Path) -> None:
    source = write(tmp_path / "in", [line("a")])
    path = tmp_path / "notes"
    path.write_text("my notes\nwithout an end")
    with pytest.raises(ValueError, match="name another file"):
        await Batch(source, path, Scripted(good)).run(silent)
    assert path.read_text() == "my notes\nwithout an end"
    with pytest.raises(FileNotFoundError):
        await Batch(tmp_path / "none", tmp_path / "out", Scripted(good)).run(silent)


async def test_results_are_on_the_disk_when_they_count(tmp_path: Path) -> None:
    synced: list[int] = []

    def sync(descriptor: int) -> None:
        os.fsync(descriptor)
        synced.append(os.fstat(descriptor).st_size)

    output = Output(tmp_path / "out", sync)
    adds = [output.add(Result(f"r{n}", f"n{n}", error=Error("c", "m"))) for n in range(50)]
    await asyncio.gather(*adds)
    output.close()
    assert synced[-1] == (tmp_path / "out").stat().st_size
    assert len(synced) < 50
    assert written(tmp_path / "out") == {f"n{n}" for n in range(50)}


@given(st.binary(max_size=80) | st.text(max_size=80).map(str.encode))
def test_no_line_is_too_odd(data: bytes) -> None:
    found = parse(data, 3)
    assert isinstance(found, BadLine)
    assert found.number == 3


@given(st.integers(0, 400))
def test_a_cut_file_keeps_its_whole_lines(tmp_path_factory: Any, size: int) -> None:
    path = tmp_path_factory.mktemp("cut") / "out"
    lines = [json.dumps({"id": f"r{n}", "custom_id": f"n{n}"}) + "\n" for n in range(10)]
    path.write_bytes("".join(lines).encode()[:size])
    whole = path.read_bytes().count(b"\n")
    assert written(path) == {f"n{n}" for n in range(whole)}
    assert path.read_text() == "".join(lines[:whole])


def test_bodies_are_passed_on_as_they_are(tmp_path: Path) -> None:
    body = '{"messages": [], "seed": 12345678901234567890, "x": 1.50}'
    text = f'{{"custom_id": "a", "method": "POST", "url": "{CHAT}", "body": {body}}}'
    (task,) = read_tasks(write(tmp_path / "in", [text]))
    assert isinstance(task, Task)
    assert task.body == body.encode()


def test_a_summary_counts_tokens_of_every_api() -> None:
    summary = Summary()
    for usage in (
        {"prompt_tokens": 3, "completion_tokens": 2},
        {"input_tokens": 5, "output_tokens": 1, "odd": True},
        None,
    ):
        response = {"status_code": 200, "request_id": "r", "body": {"usage": usage}}
        summary.count(_result(response))
    assert (summary.answered, summary.prompt_tokens, summary.output_tokens) == (3, 8, 3)


def _result(response: dict[str, Any]) -> Result:
    return msgspec.convert({"id": "r", "custom_id": "a", "response": response}, Result)
