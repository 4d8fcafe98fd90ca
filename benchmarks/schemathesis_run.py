"""What the server answers to whatever /openapi.json allows, and to what it forbids:

    make build/schemathesis/.installed
    python -m benchmarks.schemathesis_run --max-examples 200 --seed 1 --output FILE [--resume]
    python -m benchmarks.schemathesis_run --engine demo --max-examples 5 --output FILE

Schemathesis, in an environment of its own, sends valid and invalid requests of every operation over
loopback: with ``--engine null`` before the null engine (``benchmarks/null_engine.py``), with
``demo`` before the bundled model. Answers must be what the document says: status, type, schema;
nothing invalid may be accepted, and 503 is the one 5xx, for deadlines that have passed. Left out
is /live/events, which never ends. ``--resume`` adds to what FILE has from other seeds; a file from
another engine is an error. Exit code 1 if there were failures.
"""

import argparse
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

import prelude
from prelude.bench.frontend import running_server

TOOL = Path("build/schemathesis/bin/schemathesis")
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
)
SETTINGS = '[checks]\nnot_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", "503"]\n'
ENGINES = {"null": ("benchmarks.null_engine",), "demo": ("prelude", "serve")}
# Of requests without max_tokens; others may have what the context holds, up to 128 times.
ARGUMENTS = ("sampling.max_tokens=8", "server.drain_s=1", "log.level=ERROR")
PHASES = ("coverage", "fuzzing")
MAX_EXAMPLES = 20  # of failures that are kept
REQUEST_TIMEOUT_S = 60


def run_tool(base_url: str, folder: Path, args: argparse.Namespace) -> Path:
    """Its events, as lines of JSON; a run that is cut off leaves those of what it finished."""
    settings, events = folder / "schemathesis.toml", folder / "events"
    settings.write_text(SETTINGS)
    options = {
        "phases": ",".join(args.phases),
        "checks": ",".join(CHECKS),
        "max-examples": str(args.max_examples),
        "max-time": str(args.max_time_s),
        "seed": str(args.seed),
        "exclude-path": "/live/events",
        "request-timeout": str(REQUEST_TIMEOUT_S),
        "report": "ndjson",
        "report-ndjson-path": str(events),
        "output-sanitize": "false",
    }
    if args.max_time_s is None:
        del options["max-time"]
    given = [word for name, value in options.items() for word in (f"--{name}", value)]
    flags = ["--continue-on-failure", "--no-shrink", "--no-color"]
    document = base_url.removesuffix("/v1") + "/openapi.json"
    command = [str(TOOL.resolve()), "--config-file", str(settings), "run", document]
    subprocess.run([*command, *given, *flags], cwd=folder, check=False, stdout=subprocess.DEVNULL)
    return events


def count(events: Iterable[bytes]) -> dict[str, Any]:
    """Requests, failed checks and errors of the tool, by operation, and the first failures."""
    cases: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    examples: list[dict[str, Any]] = []
    for line in events:
        event = msgspec.json.decode(line)
        if (error := event.get("NonFatalError") or event.get("FatalError")) is not None:
            value = error.get("value", error)
            errors[f"{error.get('label', 'all')}: {value.get('type', 'unknown')}"] += 1
        if "ScenarioFinished" not in event:
            continue
        recorder = event["ScenarioFinished"]["recorder"]
        label, sent = recorder["label"], recorder.get("interactions") or {}
        cases[label] += len(sent)
        for case_id, check in failed(recorder):
            failures[f"{label}: {check['name']}"] += 1
            if len(examples) < MAX_EXAMPLES:
                examples.append(example(label, check, sent.get(case_id, {})))
    return {
        "cases": dict(cases),
        "failures": dict(failures),
        "errors": dict(errors),
        "examples": examples,
    }


def failed(recorder: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (case_id, check)
        for case_id, checks in (recorder.get("checks") or {}).items()
        for check in checks
        if check["status"] != "success"
    ]


def example(label: str, check: dict[str, Any], sent: dict[str, Any]) -> dict[str, Any]:
    failure = (check.get("failure_info") or {}).get("failure", {})
    body = (sent.get("request") or {}).get("body")
    return {
        "operation": label,
        "check": check["name"],
        "message": failure.get("message", "")[:400],
        "body": body if body is None else str(body)[:2000],
    }


def summed(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """What two runs found. Raises ``ValueError`` if they are not of the same engine and server."""
    for name in ("engine", "versions"):
        if old[name] != new[name]:
            raise ValueError(f"--resume: {name} was {old[name]}, and is {new[name]}")
    (run,) = new["runs"]
    if (run["phases"], run["seed"]) in [(one["phases"], one["seed"]) for one in old["runs"]]:
        raise ValueError(f"--resume: the seed {run['seed']} was run already")
    counts = {
        name: dict(Counter(old[name]) + Counter(new[name]))
        for name in ("cases", "failures", "errors")
    }
    examples = [*old["examples"], *new["examples"]][:MAX_EXAMPLES]
    return {**new, **counts, "examples": examples, "runs": [*old["runs"], *new["runs"]]}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Raises ``FileNotFoundError`` without the tool, ``RuntimeError`` if nothing starts."""
    if not TOOL.exists():
        raise FileNotFoundError(f"{TOOL} is missing: make build/schemathesis/.installed")
    version = subprocess.run([TOOL, "--version"], capture_output=True, text=True, check=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        running_server(ARGUMENTS, module=ENGINES[args.engine]) as (base_url, _),
    ):
        found = count(run_tool(base_url, Path(folder), args).read_bytes().splitlines())
    return {
        "benchmark": "schemathesis",
        "version": 1,
        "engine": args.engine,
        "versions": {"schemathesis": version.stdout.split()[-1], "prelude": prelude.__version__},
        "checks": list(CHECKS),
        **found,
        "runs": [{"seed": args.seed, "phases": list(args.phases), "command": sys.orig_argv[1:]}],
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engine", choices=ENGINES, default="null")
    parser.add_argument("--max-examples", type=int, default=100, help="of an operation")
    parser.add_argument("--max-time-s", type=int, help="when to stop before that")
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=PHASES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--resume", action="store_true", help="add to what OUTPUT has")
    args = parser.parse_args(argv)
    result = measure(args)
    if args.resume and args.output.exists():
        result = summed(msgspec.json.decode(args.output.read_bytes()), result)
    result["num_cases"] = sum(result["cases"].values())
    result["num_failures"] = sum(result["failures"].values())
    encoded = msgspec.json.format(msgspec.json.encode(result), indent=1)
    print(encoded.decode())
    if args.output is not None:
        args.output.write_bytes(encoded + b"\n")
    return 1 if result["failures"] or result["errors"] else 0


if __name__ == "__main__":
    sys.exit(main())
