"""Writes the figures of an evaluation into the model card, between its two markers.

python -m benchmarks.demo.card benchmarks/results/demo/eval.json prelude/demo/README.md
"""

import argparse
import json
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"


def figures(report: dict[str, Any]) -> str:
    """The table per task, the overall perplexity and the spread of lengths, as Markdown."""
    perplexity = report["perplexity"]
    rows = [
        "| task | exact match | n | median output tokens | perplexity |",
        "|---|---|---|---|---|",
    ]
    for result in report["tasks"]:
        name = result["task"]
        rows.append(
            f"| {name} | {result['exact']:.1%} | {result['count']} "
            f"| {result['median_length']:.0f} | {perplexity[name]:.3f} |"
        )
    return "\n".join(
        [
            f"`{report['command']}`, {report['engine']}:",
            "",
            *rows,
            "",
            f"Perplexity per answer token over all of them: {perplexity['all']:.3f}. The longest "
            f"median output is {report['length_spread']:.0f} times the shortest.",
        ]
    )


def fill(card: str, report: dict[str, Any]) -> str:
    before, rest = card.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n{figures(report)}\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    parser.add_argument("card", type=Path)
    options = parser.parse_args()
    report = json.loads(options.report.read_text())
    options.card.write_text(fill(options.card.read_text(), report))


if __name__ == "__main__":
    main()
