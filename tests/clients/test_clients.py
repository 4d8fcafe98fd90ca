"""Real clients against ``prelude serve`` on the demo model: ``make test-clients``.

They live in an environment and a folder of their own, build/clients, because their dependencies
are many and contradict ours.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.vllm_client import ENDPOINTS, arguments, bench_serve, complaints
from prelude.bench.frontend import running_server

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILD = ROOT / "build" / "clients"
PYTHON = BUILD / "venv" / "bin" / "python"
SCRIPTS = (
    "openai_python",
    "anthropic_python",
    "langchain",
    "litellm_library",
    "instructor_client",
)
NODE = ("openai-node", "anthropic-node", "ai-sdk-compatible", "ai-sdk-openai")

pytestmark = pytest.mark.clients


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running_server(()) as (base_url, _):
        yield base_url.removesuffix("/v1")


def run(command: list[str], cwd: Path) -> str:
    offline = {"HF_HUB_OFFLINE": "1", "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **offline},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@pytest.mark.parametrize("name", SCRIPTS)
def test_python(url: str, name: str) -> None:
    run([str(PYTHON), str(HERE / f"{name}.py"), url], BUILD)


@pytest.mark.parametrize("name", NODE)
def test_node(url: str, name: str) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node.js is not installed")
    script = str(shutil.copy(HERE / "clients.mjs", BUILD / "node"))
    run([node, script, name, url], BUILD / "node")


def test_lm_eval(url: str) -> None:
    said = f"model=demo,base_url={url}/v1/completions,tokenizer={ROOT / 'prelude' / 'demo'}"
    out = run(
        [
            str(PYTHON.with_name("lm_eval")),
            *("--model", "local-completions"),
            *("--model_args", f"{said},tokenized_requests=False,num_concurrent=2"),
            *("--include_path", "."),
            *("--tasks", "prelude_toy"),
        ],
        HERE / "lm_eval",
    )
    assert "prelude_toy" in out
    assert "acc" in out


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_vllm_bench_serve(url: str, endpoint: str) -> None:
    """``VLLM_PYTHON`` is the interpreter of an environment that has vLLM, or its CPU build."""
    beside = shutil.which("vllm")
    python = os.environ.get("VLLM_PYTHON") or (beside and Path(beside).with_name("python"))
    if not python:
        pytest.skip("vLLM is not installed, and VLLM_PYTHON names no interpreter that has it")
    result = bench_serve(Path(python), f"{url}/v1", arguments(endpoint, num_prompts=8))
    assert complaints(result, num_prompts=8) == []
