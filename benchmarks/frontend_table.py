"""The tables of ``docs/benchmarks.md`` about the front end, written from the result:

    python -m benchmarks.frontend_table

Nothing is typed by hand.
"""

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULT = HERE / "results/cpu/frontend.json"
PAGE = HERE.parent / "docs/benchmarks.md"
BEGIN, END = "<!-- front end -->\n", "<!-- end of front end -->\n"


def null_table(null: dict[str, Any]) -> str:
    """What one core streams."""
    rows = {
        f"tokens/s, {null['streams']} streams": f"{null['tok_s']:,.0f}",
        "server processor time per token": f"{null['server_us_token']:.1f} µs",
        "share of its core that the server used": f"{null['server_cores']:.0%}",
        "chunks per token": f"{null['chunks_per_token']:.3f}",
        "`/health/live` meanwhile, p50": f"{null['live_p50_ms']:.1f} ms",
        "`/health/live` meanwhile, p99": f"{null['live_p99_ms']:.1f} ms",
    }
    lines = [f"| {name} | {value} |\n" for name, value in rows.items()]
    return "| server on one core, null engine | median |\n|---|---|\n" + "".join(lines)


def model_table(model: dict[str, Any]) -> str:
    """What the engine's steps take, against those of as many threads without a server."""
    head = f"| bundled model, decode steps of {model['rows']} rows | p50, ms | p99, ms | "
    head += "from start to start, p50, ms | against no server | server, cores |\n"
    placements = model["placements"]
    alone = {row["threads"]: row for row in placements.values() if not row["serves"]}
    lines = []
    for name, row in placements.items():
        ratio = row["period_p50_ms"] / alone[row["threads"]]["period_p50_ms"]
        cells = (
            name,
            f"{row['step_p50_ms']:.2f}",
            f"{row['step_p99_ms']:.2f}",
            f"{row['period_p50_ms']:.2f}",
            f"{ratio:.2f}" if row["serves"] else "",
            f"{row['server_cores']:.2f}" if row["serves"] else "",
        )
        lines.append(f"| {' | '.join(cells)} |\n")
    return f"{head}|{'---|' * 6}\n{''.join(lines)}"


def tables(result: dict[str, Any]) -> str:
    """Both, with a word on whether anybody else used the machine."""
    share = result["environment"]["others_cpu_share"]
    others = "" if share is None else f"Other processes used {share:.0%} of the machine.\n\n"
    if not result["environment"]["quiet"]:
        others += "**The machine was not quiet: this is no evidence, and is to be repeated.**\n\n"
    return f"\n{null_table(result['null_engine'])}\n{others}{model_table(result['model'])}\n"


def written(page: str, result: dict[str, Any]) -> str:
    """The page with the tables between its marks brought up to date."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}{tables(result)}{END}{after}"


def main() -> int:
    PAGE.write_text(written(PAGE.read_text(), json.loads(RESULT.read_text())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
