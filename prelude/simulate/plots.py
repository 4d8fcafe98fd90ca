"""Latency distributions of a simulation as a picture. Needs matplotlib (``prelude-llm[bench]``)."""

from pathlib import Path
from typing import TYPE_CHECKING

from prelude.bench.result import Summary
from prelude.simulate.result import SimReport, SimulateResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANELS = {
    "ttft_ms": "time to first token, ms",
    "itl_ms": "gap between tokens, ms",
    "e2e_ms": "end to end, ms",
    "slowdown": "slowdown against an empty machine",
}
_POINTS = ("p50", "p90", "p99")
_COLOURS = {"p50": "#9ecae1", "p90": "#4292c6", "p99": "#08519c", "max": "#bdbdbd"}


def plot(result: SimulateResult, path: Path) -> None:
    """p50, p90, p99 and the worst of each class, one panel for each latency; the file's ending says
    which format. Raises ``ValueError`` where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("plot: needs matplotlib; pip install 'prelude-llm[bench]'") from None
    figure = Figure(figsize=(11, 6), layout="constrained")
    panels = list(figure.subplots(2, 2).flat)
    for axes, (field, label) in zip(panels, _PANELS.items(), strict=True):
        _panel(axes, field, label, result.classes)
    load = f"{result.load.offered_req_s:.2f} req/s, {result.total.num_sent} requests"
    figure.suptitle(f"{result.policy}: {load}, seed {result.seed}", fontsize=11)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _panel(axes: "Axes", field: str, label: str, classes: dict[str, SimReport]) -> None:
    """Grouped bars on a logarithmic scale."""
    summaries: dict[str, Summary] = {
        name: summary
        for name, report in classes.items()
        if (summary := getattr(report, field)) is not None
    }
    width = 0.8 / (len(_POINTS) + 1)
    for offset, point in enumerate((*_POINTS, "max")):
        heights = [_height(summary, point) for summary in summaries.values()]
        places = [index + offset * width for index in range(len(heights))]
        axes.bar(places, heights, width, label=point, color=_COLOURS[point])
    axes.set_xticks([index + 1.5 * width for index in range(len(summaries))], list(summaries))
    axes.set_yscale("log")
    axes.set_title(label, fontsize=10)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _height(summary: Summary, point: str) -> float:
    return summary.max if point == "max" else float(getattr(summary, point).value)
