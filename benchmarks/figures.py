"""The figures we are judged by, each with what was measured, written into benchmarks/README.md:

    python -m benchmarks.figures

A figure is read from a result file and quoted with that file's command; where there is no result,
the word is "unmeasured". Nothing is typed by hand, so nothing can be an estimate.
"""

import json
import shlex
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BEGIN, END = "<!-- figures -->\n", "<!-- end of figures -->\n"
UNMEASURED = "unmeasured"
PEERS = "cpu/peers_qwen3_0_6b.json"
STEPS = "cpu/engine_qwen3_0_6b.json"
STEPS_INT8 = "cpu/engine_qwen3_0_6b_int8.json"
H200 = "h200/h200.json"
H200_COMMAND = "sh benchmarks/h200.sh"
NAMES = {"llamacpp": "llama.cpp", "llamacpp-q8_0": "llama.cpp Q8_0", "vllm": "vLLM"}

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Figure:
    """``read`` makes a text of the result in ``file``, ``beside`` more texts of other results; a
    ``LookupError`` (such as a ``KeyError``) says that the result does not have it."""

    where: str
    what: str
    required: str
    aim: str
    file: str
    read: Callable[[Document], str]
    beside: tuple[tuple[str, Callable[[Document], str]], ...] = ()


def part_of(document: Document, name: str) -> Document:
    """The result of one part of the H200 run. Raises ``LookupError`` unless it was finished."""
    part = document["parts"][name]
    if part["status"] != 0 or part["result"] is None:
        raise LookupError(name)
    result: Document = part["result"]
    return result


def requests_a_second(load: int) -> Callable[[Document], str]:
    def read(document: Document) -> str:
        level = _level(document, load)
        floor = level["floor"]["req_s"]
        return f"{level['result']['total']['req_s']:.1f} (floor {floor:.0f})"

    return read


def median_ms(load: int) -> Callable[[Document], str]:
    def read(document: Document) -> str:
        level = _level(document, load)
        p50 = level["result"]["total"]["e2e_ms"]["p50"]["value"]
        return f"{p50:.1f} ms (floor {level['floor']['first_token_ms']:.1f})"

    return read


def _level(document: Document, load: int) -> Document:
    levels = part_of(document, "prefill_512")["levels"]
    found = [level for level in levels if level["load"] == load]
    if not found:
        raise LookupError(load)
    level: Document = found[0]
    return level


def step_ms(name: str, batches: Sequence[int]) -> Callable[[Document], str]:
    def read(document: Document) -> str:
        timings = {timing["batch"]: timing for timing in part_of(document, name)["timings"]}
        steps = " / ".join(f"{timings[batch]['step_ms']['p50']['value']:.2f}" for batch in batches)
        floors = " / ".join(f"{timings[batch]['floor']['ms']:.2f}" for batch in batches)
        return f"{steps} ms (floor {floors})"

    return read


def idle_share(document: Document) -> str:
    return f"{part_of(document, 'idle')['idle_share']:.1%}"


def against_flashinfer(document: Document) -> str:
    """Our attention kernels' time over FlashInfer's, the median over shapes, by kernel."""
    results = part_of(document, "kernels")["results"]
    texts = []
    for kernel in ("decode", "prefill"):
        rows = [row for row in results if row["kernel"] == kernel and row["peer_us"]]
        if not rows:
            raise LookupError(kernel)
        times = statistics.median(row["ours_us"] / row["peer_us"] for row in rows)
        texts.append(f"{kernel} {times - 1:+.0%} ({len(rows)} shapes)")
    return ", ".join(texts)


def rates(phase: str, ours: str, *peers: str) -> Callable[[Document], str]:
    """Ours with its share of the roof, then the peers that ran and how many times faster ours was;
    medians over turns and over pairs."""

    def read(document: Document) -> str:
        share = document["roof_shares"][ours][phase]
        texts = [f"**{rate(document, ours, phase):.1f}** tok/s, {share:.0%} of the roof"]
        for peer in peers:
            if peer in document["ratios"]:
                times = document["ratios"][peer][phase]["value"]
                name, theirs = NAMES.get(peer, peer), rate(document, peer, phase)
                texts.append(f"{name} {theirs:.1f} (ours {times:.2f}x)")
        return "; ".join(texts)

    return read


def share(kind: str, batch: int) -> Callable[[Document], str]:
    """Of what the machine could do right before each of the steps."""

    def read(document: Document) -> str:
        shapes = {(timing["kind"], timing["batch"]): timing for timing in document["timings"]}
        return f"{shapes[kind, batch]['floor']['share']:.0%} of the roof right before each step"

    return read


def rate(document: Document, engine: str, phase: str) -> float:
    """Tokens a second, median over turns."""
    runs = [run for run in document["runs"] if run["engine"] == engine]
    return statistics.median(float(run[f"{phase}_tok_s"]) for run in runs)


FP32 = ("prelude", "llamacpp", "transformers", "vllm")
FIGURES = (
    Figure(
        "H200",
        "Qwen3-4B shape, 512-token prompts, one output token, 96 in flight, requests/s",
        "170",
        "190",
        H200,
        requests_a_second(96),
    ),
    Figure("H200", "the same one at a time, p50 over HTTP", "10 ms", "7 ms", H200, median_ms(1)),
    Figure(
        "H200",
        "Qwen3-8B shape, decode batch 1 / 32, context 1k",
        "4.3 / 6.3 ms",
        "4.0 / 5.5 ms",
        H200,
        step_ms("decode_8b", (1, 32)),
    ),
    Figure(
        "H200",
        "Qwen3-4B shape, decode batch 1, context 1k",
        "2.6 ms",
        "2.3 ms",
        H200,
        step_ms("decode_4b", (1,)),
    ),
    Figure(
        "H200",
        "Qwen3-8B shape, device idle between steps at batch 32, context 1k",
        "5 %",
        "3 %",
        H200,
        idle_share,
    ),
    Figure(
        "H200",
        "our Triton decode and prefill against FlashInfer, time of a launch",
        "within 25 %",
        "within 10 %",
        H200,
        against_flashinfer,
    ),
    Figure(
        "CPU",
        "0.6B shape fp32, one stream",
        "85 % of the roof",
        "ahead of llama.cpp",
        PEERS,
        rates("decode", *FP32),
        ((STEPS, share("decode", 1)),),
    ),
    Figure(
        "CPU",
        "0.6B shape fp32, 16 streams",
        "2.5x vLLM",
        "4x, ahead of llama.cpp",
        PEERS,
        rates("streams", *FP32),
    ),
    Figure(
        "CPU",
        "0.6B shape fp32, 512-token prompt",
        "70 % of the roof, 1.9x vLLM, ahead of llama.cpp",
        "85 %",
        PEERS,
        rates("prefill", *FP32),
    ),
    Figure(
        "CPU",
        "0.6B shape int8, one stream",
        "ahead of llama.cpp Q8_0",
        "85 % of the roof",
        PEERS,
        rates("decode", "prelude-int8", "llamacpp-q8_0"),
        ((STEPS_INT8, share("decode", 1)),),
    ),
    Figure(
        "CPU",
        "0.6B shape, first token of a warm start",
        "6 s",
        "3 s",
        "cpu/startup_qwen3_0_6b.json",
        lambda document: f"{document['warm']['first_token_s']:.1f} s",
    ),
    Figure(
        "CPU",
        "front end on the null engine, 64 streams, one core",
        "20,000 tok/s, `/health/live` p99 20 ms",
        "60,000 tok/s",
        "cpu/frontend.json",
        lambda document: "{tok_s:,.0f} tok/s, p99 {live_p99_ms:.1f} ms".format(
            **document["null_engine"]
        ),
    ),
    Figure(
        "both",
        "engine time outside programs, a step of 32 rows",
        "300 µs",
        "150 µs",
        "cpu/host_time.json",
        lambda document: f"{document['step_us']['32']['total']:.0f} µs",
    ),
)


def row(figure: Figure, results: Path) -> str:
    """One line of the table."""
    sources = ((figure.file, figure.read), *figure.beside)
    found = [text for file, read in sources if (text := quote(results / file, read)) is not None]
    measured = "; ".join(text for text, _ in found) or UNMEASURED
    commands = "; ".join(dict.fromkeys(command for _, command in found))
    cells = (figure.where, figure.what, figure.required, figure.aim, measured, commands)
    return f"| {' | '.join(cells)} |\n"


def quote(path: Path, read: Callable[[Document], str]) -> tuple[str, str] | None:
    """What a result says, and the command it came from; None if it does not say it."""
    if not path.exists():
        return None
    document = json.loads(path.read_text())
    try:
        return read(document) + _noise(document), f"`{_command(document)}`"
    except LookupError:
        return None


def _noise(document: Document) -> str:
    quiet = document.get("environment", {}).get("quiet", True)
    return "" if quiet else " (the machine was not quiet)"


def _command(document: Document) -> str:
    if "parts" in document:
        return H200_COMMAND
    words = document["environment"]["command"][1:]
    for option in ("--result", "--output"):  # where it was put is the reader's own affair
        if option in words:
            del words[words.index(option) : words.index(option) + 2]
    return shlex.join(["python", *words])


def table(results: Path = HERE / "results") -> str:
    head = "| where | what | required | aim | measured | command |\n|---|---|---|---|---|---|\n"
    return head + "".join(row(figure, results) for figure in FIGURES)


def written(page: str, results: Path = HERE / "results") -> str:
    """The page with the table between its marks brought up to date."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}{table(results)}{END}{after}"


def main() -> int:
    path = HERE / "README.md"
    path.write_text(written(path.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
