"""``prelude serve`` as users run it: two processes, random weights, real clients and signals."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

from tests.server_harness import parse_events
from tests.text_samples import byte_level, byte_level_folder

CHAT = "/v1/chat/completions"
HI = {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0}
ENDLESS = HI | {"max_tokens": 1900, "ignore_eos": True, "stream": True, "n": 4}


class Server:
    """A running ``prelude serve``; ``log`` collects what it wrote before it was ready."""

    def __init__(self, tokenizer: Path) -> None:
        overrides = (
            "model=tiny",
            f"model.tokenizer={tokenizer}",
            f"model.hf_config.vocab_size={byte_level().vocab_size}",
            "graphs.capture=eager",
            "cache.num_blocks=1024",
            "server.port=0",
            "server.drain_s=0.2",
        )
        root = Path(__file__).parent.parent
        self.process = subprocess.Popen(
            [sys.executable, "-m", "prelude", "serve", *overrides],
            stderr=subprocess.PIPE,
            text=True,
            cwd=root,
        )
        self.log: list[str] = []
        self.url = self._url()

    def _url(self) -> str:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if found := re.search(r"is ready at (http://\S+)", line):
                return found.group(1)
        raise AssertionError("".join(self.log))

    @property
    def engine_pid(self) -> int:
        pid = self.process.pid
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            command = Path(f"/proc/{child}/cmdline").read_text()
            if "spawn_main" in command:
                return int(child)
        raise AssertionError("no engine process")

    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, trust_env=False)

    def end(self) -> str:
        """What it still wrote, once it has ended."""
        _, rest = self.process.communicate(timeout=60)
        return rest


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "tokenizer"
    shutil.copytree(byte_level_folder(), folder)
    (folder / "config.json").write_text("{}")
    started = Server(folder)
    yield started
    if started.process.poll() is None:
        started.process.kill()
    started.process.communicate()


def test_answers_and_a_graceful_end(server: Server) -> None:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        create = client.chat.completions.create
        whole = create(
            model="tiny",
            messages=[{"role": "user", "content": "Hi"}],
            max_tokens=12,
            temperature=0,
            extra_body={"ignore_eos": True},
        )
        assert whole.usage is not None
        assert whole.usage.completion_tokens == 12
        stream = create(
            model="tiny",
            messages=[{"role": "user", "content": "Hi"}],
            max_tokens=12,
            temperature=0,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        assert text == whole.choices[0].message.content
        scored = client.completions.create(
            model="tiny", prompt="the quick fox", echo=True, logprobs=1, max_tokens=1
        )
        logprobs = scored.choices[0].logprobs
        assert logprobs is not None
        assert logprobs.tokens is not None
        assert logprobs.token_logprobs is not None
        # The one new token is random, and may be half of a character.
        assert "".join(logprobs.tokens[:-1]) == "the quick fox"
        assert scored.choices[0].text.startswith("the quick fox")
        assert all(value < 0 for value in logprobs.token_logprobs[1:] if value is not None)
    with server.http() as http, http.stream("POST", CHAT, json=ENDLESS) as response:
        pieces = response.iter_bytes()
        received = next(pieces)
        server.process.send_signal(signal.SIGTERM)
        received += b"".join(pieces)
    *_, error, done = parse_events(received)
    assert (error["error"]["code"], done) == ("shutdown", "[DONE]")
    log = server.end()
    assert server.process.returncode == 0, log
    assert "Traceback" not in log


def test_a_killed_engine_is_reported_and_followed_by_another(server: Server) -> None:
    first_pid = server.engine_pid
    with server.http() as http:
        with http.stream("POST", CHAT, json=ENDLESS) as response:
            pieces = response.iter_bytes()
            received = next(pieces)
            os.kill(server.engine_pid, signal.SIGKILL)
            received += b"".join(pieces)
        *_, error, done = parse_events(received)
        assert (error["error"]["code"], done) == ("engine_restarted", "[DONE]")
        assert "signal 9" in error["error"]["message"]
        refused = http.post(CHAT, json=HI)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "engine_restarted"
        assert int(refused.headers["retry-after"]) >= 1
        while (health := http.get("/health")).status_code == 503:
            assert health.json()["status"] == "restarting"
            assert http.get("/health/live").status_code == 200
        assert health.json()["restarts"] == 1
        assert health.json()["last_death"]["reason"] == "signal"
        assert http.post(CHAT, json=HI | {"max_tokens": 3}).status_code == 200
        assert server.engine_pid != first_pid
    server.process.send_signal(signal.SIGTERM)
    log = server.end()
    assert server.process.returncode == 0, log
    assert "the engine ended (signal): the engine process ended unexpectedly (signal 9" in log
    assert "engine 2 is ready" in log
