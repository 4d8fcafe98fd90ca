"""The report: one HTML file with everything in it, beside the table and the plot."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from prelude.conf.sweep import SweepOptions
from prelude.sweep import figures, svg
from prelude.sweep.measures import is_higher_better
from prelude.sweep.outcome import Outcome
from prelude.sweep.points import Point, Space, without_secret
from prelude.sweep.study import Gain, Study, Values
from prelude.sweep.table import write_lines, write_table
from prelude.sweep.words import amount, gain_words, interval_words, labels, metric_name

MAX_TILES = 4
NOTHING = "\N{EN DASH}"
MAX_REGIMES = 12  # with tables and distributions of their own
PACKAGES = ("prelude-llm", "python", "torch", "numpy")


class Cell(NamedTuple):
    """A value, and what it is against the baseline: ``win``, ``loss``, ``even`` or nothing."""

    value: str
    words: str = ""
    interval: str = ""
    verdict: str = ""


class Tile(NamedTuple):
    metric: str
    words: str
    values: str
    interval: str
    verdict: str


@dataclass(frozen=True, slots=True)
class Section:
    """One regime. ``rows`` are (metric, cells in the order of ``columns``); ``baseline`` names the
    first column."""

    title: str
    columns: list[str]
    rows: list[tuple[str, list[Cell]]]
    figures: list[Markup]


def write(
    folder: Path,
    space: Space,
    options: SweepOptions,
    points: Sequence[Point],
    outcomes: Sequence[Outcome],
    command: str,
) -> Path:
    """Write ``table.csv``, ``points.jsonl``, ``pareto.svg`` and ``report.html``; the last one's
    path. Raises ``ConfigError`` for metrics and settings that the sweep does not have."""
    write_table(folder / "table.csv", points, outcomes)
    write_lines(folder / "points.jsonl", points, outcomes)
    study = Study(space, options, points, outcomes)
    axes = pareto_axes(study, options)
    panels = figures.pareto(study, axes) if axes else []
    if panels:
        (folder / "pareto.svg").write_text(standalone(study, panels))
    path = folder / "report.html"
    path.write_text(render(study, space, options, points, outcomes, command, axes, panels))
    return path


def pareto_axes(study: Study, options: SweepOptions) -> list[str]:
    """Two metrics, or none that could be set against each other."""
    if options.pareto:
        return study.known(options.pareto)
    against = [name for name in study.metrics if name.endswith("output_tok_s")]
    return [study.headline[0], against[0]] if study.headline and against else []


def render(
    study: Study,
    space: Space,
    options: SweepOptions,
    points: Sequence[Point],
    outcomes: Sequence[Outcome],
    command: str,
    axes: Sequence[str],
    panels: Sequence[str],
) -> str:
    """The page."""
    page = files("prelude.sweep").joinpath("page")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    names = labels(study.regimes)
    return environment.from_string(page.joinpath("report.html.jinja").read_text()).render(
        title=options.title or _title(space),
        facts=_facts(study, outcomes),
        fixed=[
            without_secret(axis.line(axis.values[0])) for axis in space.axes if not axis.is_swept
        ],
        tiles=tiles(study),
        place=names[study.regimes[-1]] if study.regimes and study.regimes[-1] else "",
        subject=labels(study.settings)[study.subject] if study.settings else "",
        baseline=_baseline_name(study),
        sections=[section(study, regime) for regime in study.regimes[:MAX_REGIMES]],
        left_out=max(len(study.regimes) - MAX_REGIMES, 0),
        is_tuned=len(study.candidates) > 1,
        held_out=", ".join(map(str, options.held_out)),
        num_hidden=len(study.settings) - len(study.shown),
        num_seeds=len(study.seeds),
        legend=_legend(study),
        loads=[Markup(text) for text in figures.over_loads(study)],
        pareto=[Markup(text) for text in panels],
        better=[_better(name) for name in axes],
        head=_table_head(study, points),
        body=list(_table_body(study, points, outcomes)),
        failed=[(" ".join(o.overrides), o.error) for o in outcomes if o.error],
        warnings=_warnings(outcomes),
        command=command,
        versions=_versions(outcomes),
        config=_config(points),
        plot_style=Markup(page.joinpath("plot.css").read_text()),
        style=Markup(page.joinpath("report.css").read_text()),
        script=Markup(page.joinpath("report.js").read_text()),
    )


def tiles(study: Study) -> list[Tile]:
    """The subject in the last regime: the first headline metrics, and its worst loss anyway."""
    regime = study.regimes[-1] if study.regimes else ()
    baseline = study.baseline(regime)
    if baseline is None or baseline == study.subject:
        return []
    found: list[tuple[str, Gain]] = []
    for name in study.headline:
        if (gain := study.gain(study.subject, baseline, regime, name)) is not None:
            found.append((name, gain))
    shown = found[:MAX_TILES]
    worst = min(found, key=lambda pair: pair[1].factor, default=None)
    if worst is not None and worst not in shown and _verdict(worst[1]) == "loss":
        shown[-1] = worst
    return [
        Tile(
            metric_name(name),
            gain_words(gain, name),
            f"{_mean(study, study.subject, regime, name)} against "
            f"{_mean(study, baseline, regime, name)}",
            interval_words(gain),
            _verdict(gain),
        )
        for name, gain in shown
    ]


def section(study: Study, regime: Values) -> Section:
    """What every setting won and lost here; the subject stands beside the baseline."""
    names = labels(study.settings)
    baseline = study.baseline(regime)
    order = dict.fromkeys([study.subject, *study.shown])
    others = [setting for setting in order if setting != baseline]
    first = [baseline] if baseline is not None else []
    rows = []
    for name in study.headline:
        cells = [Cell(_mean(study, setting, regime, name)) for setting in first]
        cells += [_cell(study, setting, baseline, regime, name) for setting in others]
        rows.append((metric_name(name), cells))
    return Section(
        title=labels(study.regimes, "one regime")[regime],
        columns=[names[setting] for setting in (*first, *others)],
        rows=rows,
        figures=[Markup(text) for text in figures.distributions(study, regime)],
    )


def _cell(
    study: Study, setting: Values, baseline: Values | None, regime: Values, name: str
) -> Cell:
    value = _mean(study, setting, regime, name)
    gain = None if baseline is None else study.gain(setting, baseline, regime, name)
    if gain is None:
        return Cell(value)
    return Cell(value, gain_words(gain, name), interval_words(gain), _verdict(gain))


def _verdict(gain: Gain) -> str:
    return "even" if gain.is_even else "win" if gain.factor > 1 else "loss"


def _mean(study: Study, setting: Values, regime: Values, name: str) -> str:
    estimate = study.estimate(setting, regime, name)
    return NOTHING if estimate is None else amount(estimate.mean, name)


def _better(name: str) -> str:
    return f"{metric_name(name)} is better {'higher' if is_higher_better(name) else 'lower'}"


def _title(space: Space) -> str:
    """What was swept, seeds aside."""
    keys = [axis.key.rpartition(".")[2] for axis in space.swept if axis.key != space.target.seed]
    return f"{' by '.join(keys).capitalize() or 'One setting'}: prelude {space.name}"


def _facts(study: Study, outcomes: Sequence[Outcome]) -> list[str]:
    failed = sum(bool(outcome.error) for outcome in outcomes)
    parts = [
        (len(outcomes), "point", "points"),
        (len(study.settings), "setting", "settings"),
        (len(study.regimes), "regime", "regimes"),
        (len({*study.seeds, *study.choosing}), "seed", "seeds"),
    ]
    facts = [f"{num} {one if num == 1 else many}" for num, one, many in parts]
    return [*facts, f"{failed} failed"] if failed else facts


def _baseline_name(study: Study) -> str:
    names = labels(study.settings)
    if not study.candidates:
        return ""
    if len(study.candidates) == 1:
        return names[study.candidates[0]]
    return f"the best of {len(study.candidates)} settings in each regime"


def _legend(study: Study) -> list[tuple[int, str]]:
    names, colour = labels(study.settings), figures.colours(study)
    return [(colour[setting] % svg.NUM_COLOURS, names[setting]) for setting in study.shown]


def _table_head(study: Study, points: Sequence[Point]) -> list[str]:
    keys = dict.fromkeys(key for point in points for key, _ in point.swept)
    return ["#", *keys, *(metric_name(name) for name in study.headline), "took"]


def _table_body(
    study: Study, points: Sequence[Point], outcomes: Sequence[Outcome]
) -> Iterator[list[tuple[str, str]]]:
    """(what to sort by, what to show) of every cell."""
    for number, (point, outcome) in enumerate(zip(points, outcomes, strict=True)):
        values = outcome.values()
        cells = [(str(number), str(number)), *((value, value) for _, value in point.swept)]
        for name in study.headline:
            value = values.get(name)
            cells.append(("", NOTHING) if value is None else (f"{value:.9g}", amount(value, name)))
        took = "failed" if outcome.error else f"{outcome.wall_s:.1f} s"
        yield [*cells, (str(outcome.wall_s), took)]


def _warnings(outcomes: Sequence[Outcome]) -> list[tuple[int, str]]:
    """How many points say so; numbers in the text are those of the first."""
    texts: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for outcome in outcomes:
        for warning in outcome.warnings:
            shape = re.sub(r"\d+(\.\d+)?", "#", warning)
            texts.setdefault(shape, warning)
            counts[shape] += 1
    return [(num, texts[shape]) for shape, num in counts.most_common()]


def _versions(outcomes: Sequence[Outcome]) -> str:
    """Of every release that took part."""
    found = [
        ", ".join(f"{name} {o.versions[name]}" for name in PACKAGES if name in o.versions)
        for o in outcomes
    ]
    days = sorted(outcome.started_utc[:10] for outcome in outcomes)
    period = " to ".join(dict.fromkeys((days[0], days[-1]))) if days else ""
    return "; ".join([*dict.fromkeys(found), period])


def _config(points: Sequence[Point]) -> str:
    """The first point's, as JSON; what is swept differs in the others."""
    if not points:
        return "{}"
    document: dict[str, Any] = asdict(points[0].config)
    for part in (document, document.get("bench", {})):
        if "api_key" in part:
            part["api_key"] = None
    return json.dumps(document, indent=1, default=str)


def standalone(study: Study, panels: Sequence[str]) -> str:
    """The panels side by side with a legend, as a file of its own."""
    style = files("prelude.sweep").joinpath("page", "plot.css").read_text()
    legend, x = [], 12
    for colour, name in _legend(study):
        legend.append(
            f'<circle class="dot c{colour}" cx="{x}" cy="16" r="5"/>'
            f'<text class="label" x="{x + 10}" y="20">{escape(name)}</text>'
        )
        x += 34 + 6 * len(name)
    placed = [
        panel.replace("<svg ", f'<svg x="{i * svg.WIDTH}" y="30" width="{svg.WIDTH}" ', 1).replace(
            "viewBox", f'height="{svg.HEIGHT}" viewBox', 1
        )
        for i, panel in enumerate(panels)
    ]
    width, height = max(len(panels) * svg.WIDTH, x), svg.HEIGHT + 30
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}"><style>{style}</style>'
        f'<rect class="paper" width="{width}" height="{height}"/>{"".join(legend)}'
        f"{''.join(placed)}</svg>\n"
    )
