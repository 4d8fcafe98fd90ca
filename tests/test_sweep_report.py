"""The table, the plots and the page, from outcomes that are made up."""

import csv
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelude.conf.compose import ConfigError
from prelude.conf.sweep import SweepOptions
from prelude.sweep import figures, svg
from prelude.sweep.measures import SHARES
from prelude.sweep.outcome import Outcome
from prelude.sweep.report import section, tiles, write
from prelude.sweep.svg import Series, plot, short, ticks
from prelude.sweep.table import COLUMNS, write_table
from tests.sweeps import metrics, outcome, outcomes, points, space, study

AWARE = (("batcher.policy", "class_aware"),)
HIGH = (("traffic.load", "0.9"),)
COMMAND = "prelude sweep simulate 'traffic.seed=range(0,4)'"
PAGE = Path(__file__).parent.parent / "prelude" / "sweep" / "page"


def report(folder: Path, made: list[Outcome] | None = None, **options: object) -> str:
    of = space()
    chosen = points(of)
    path = write(
        folder,
        of,
        SweepOptions(**options),  # type: ignore[arg-type]
        chosen,
        made or outcomes(chosen),
        COMMAND,
    )
    assert path == folder / "report.html"
    return path.read_text()


class Page(HTMLParser):
    """Tags with their attributes, and the text outside of style and script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data.strip())

    @property
    def text(self) -> str:
        return " ".join(word for word in self.words if word)


def test_the_table_has_a_value_a_row(tmp_path: Path) -> None:
    chosen = points(space())
    made = outcomes(chosen)
    made[1] = outcome(chosen[1], {}, "ValueError: a, comma and\na line")
    write_table(tmp_path / "table.csv", chosen, made)
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    swept = ["batcher.policy", "traffic.load", "traffic.seed"]
    assert list(rows[0]) == ["point", *swept, *COLUMNS]
    assert len(rows) == 23 * 5 + 1
    (failed,) = [row for row in rows if row["status"] == "failed"]
    assert failed["error"] == "ValueError: a, comma and\na line" and failed["value"] == ""
    assert (failed["point"], failed["traffic.seed"]) == ("1", "1")
    (row,) = [r for r in rows if r["point"] == "23" and (r["class"], r["stat"]) == ("chat", "p99")]
    expected = metrics(dict(chosen[23].swept))["chat.ttft_ms.p99"]
    assert float(row["value"]) == pytest.approx(expected)
    assert float(row["low"]) < expected < float(row["high"])


def test_lines_hold_a_point_each(tmp_path: Path) -> None:
    report(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "points.jsonl").read_text().splitlines()]
    assert [line["point"] for line in lines] == list(range(24))
    assert lines[0]["swept"]["batcher.policy"] == "fcfs" and lines[0]["status"] == "ok"
    assert lines[0]["metrics"]["chat.ttft_ms.p99"] == 450.0


def test_a_page_is_whole_and_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    text = report(tmp_path)
    page = Page(text)
    assert page.open == []
    assert not any({"src", "href"} & set(attributes) for _, attributes in page.tags)
    assert re.findall(r"@import|url\(|https?://(?!www\.w3\.org)", text) == []
    assert "{{" not in page.text and "{%" not in page.text
    assert {"prefers-color-scheme: dark", "width=device-width"} <= set(
        re.findall(r"prefers-color-scheme: dark|width=device-width", text)
    )


def test_a_page_says_what_was_compared_and_how_it_was_made(tmp_path: Path) -> None:
    text = Page(report(tmp_path)).text
    assert "Policy by load: prelude simulate" in text
    assert "24 points 3 settings 2 regimes 4 seeds" in text
    assert "class_aware against fcfs, load 0.9" in text
    assert "5.0\u00d7 lower" in text and "1.6\u00d7 higher" in text
    assert COMMAND in text and "prelude-llm 0, python 3; 2026-01-01" in text
    assert "p99 of 25 requests of doc; 1000 are asked for" in text
    assert "and the like in 23 more" in text
    assert Page(report(tmp_path, title="Mine & yours")).text.startswith("Mine & yours")


def test_errors_are_shown_as_text(tmp_path: Path) -> None:
    made = outcomes(points(space()))
    made[5] = outcome(points(space())[5], {}, "ValueError: <script>alert(1)</script>")
    text = report(tmp_path, made)
    assert "<script>alert" not in text
    page = Page(text).text
    assert "1 point failed" in page and "<script>alert(1)</script>" in page and "1 failed" in page


def test_a_sweep_of_which_nothing_succeeded_has_a_page_too(tmp_path: Path) -> None:
    made = [outcome(point, {}, "no") for point in points(space())]
    text = Page(report(tmp_path, made)).text
    assert "24 points failed" in text and "Wins and losses" not in text
    assert not (tmp_path / "pareto.svg").exists()


def test_losses_are_on_top_beside_wins() -> None:
    shown = tiles(study(options=SweepOptions(headline=[
        "chat.ttft_ms.p99", "chat.ttft_ms.p50", "total.output_tok_s", "chat.ttft_ms.p99",
        "doc.ttft_ms.p99",
    ])))  # fmt: skip
    assert [tile.verdict for tile in shown] == ["win", "win", "even", "loss"]
    assert (shown[0].metric, shown[-1].metric) == ("chat TTFT p99", "doc TTFT p99")
    assert shown[0].values.endswith("against 932 ms")


def test_a_baseline_compared_with_itself_has_no_tiles() -> None:
    assert tiles(study(options=SweepOptions(subject=["batcher.policy=fcfs"]))) == []


def test_a_section_has_every_setting_and_the_baseline_first() -> None:
    made = section(study(options=SweepOptions(baseline=["batcher.policy=priority"])), HIGH)
    assert made.title == "load 0.9"
    assert made.columns == ["priority", "class_aware", "fcfs"]
    verdicts = {name: [cell.verdict for cell in cells] for name, cells in made.rows}
    assert verdicts["chat TTFT p99"] == ["", "win", "loss"]
    assert verdicts["output tokens/s"] == ["", "even", "even"]


def test_plots_are_xml_with_a_line_for_each_setting() -> None:
    made = study()
    drawn = list(figures.distributions(made, HIGH))
    assert len(drawn) == 2
    for text in [*drawn, *figures.over_loads(made)]:
        root = ElementTree.fromstring(text)
        lines = [e for e in root.iter() if "line" in (e.get("class") or "").split()]
        assert len(lines) == 3
        assert len({line.get("class") for line in lines}) == 3


def test_metrics_are_drawn_over_the_load_only_where_there_are_several() -> None:
    assert len(figures.over_loads(study())) == 5
    assert figures.over_loads(study(["batcher.policy=fcfs,class_aware", "mix=m1,m4"])) == []
    assert figures.over_loads(study(["batcher.policy=fcfs,class_aware"])) == []


def test_regimes_that_differ_in_more_than_a_number_have_fronts_of_their_own() -> None:
    axes = ["chat.ttft_ms.p99", "total.output_tok_s"]
    lines = ["batcher.policy=fcfs,class_aware", "mix=m1,m4", "traffic.load=0.5,0.9"]
    assert len(figures.pareto(study(lines), axes)) == 2
    (panel,) = figures.pareto(study(), axes)
    rings = re.findall(r'class="ring (c\d)"', panel)
    assert rings == ["c1", "c1"]  # class_aware at both loads: faster, and as many tokens


def test_the_front_is_a_picture_by_itself(tmp_path: Path) -> None:
    report(tmp_path)
    text = (tmp_path / "pareto.svg").read_text()
    root = ElementTree.fromstring(text)
    assert float(root.get("width", "0")) >= svg.WIDTH
    assert "class_aware" in text and "prefers-color-scheme: dark" in text
    with pytest.raises(ConfigError, match="no such metric"):
        report(tmp_path, pareto=["chat.ttft_ms.p99", "nothing"])


def test_every_colour_that_is_drawn_is_defined_in_light_and_dark() -> None:
    style = (PAGE / "plot.css").read_text()
    for name in (f"c{number}" for number in range(svg.NUM_COLOURS)):
        assert len(re.findall(rf"--{name}: #", style)) == 2
        assert f".{name} {{ --c: var(--{name}); }}" in style
    used = set(re.findall(r"var\(--(\w[\w-]*)\)", style + (PAGE / "report.css").read_text()))
    assert all(len(re.findall(rf"--{name}: #", style)) == 2 for name in used - {"c"})


def test_the_script_finds_what_it_asks_for(tmp_path: Path) -> None:
    page = Page(report(tmp_path))
    script = (PAGE / "report.js").read_text()
    ids = {attributes.get("id") for _, attributes in page.tags}
    assert set(re.findall(r'getElementById\("(\w+)"\)', script)) <= ids
    cells = [attributes for tag, attributes in page.tags if "data-key" in attributes]
    assert len(cells) == 24 * (1 + 3 + 5 + 1)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", script)


finite = st.floats(1e-3, 1e6)


@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=8), st.booleans(), st.booleans())
def test_whatever_is_drawn_lies_inside(
    pairs: list[tuple[float, float]], log_x: bool, log_y: bool
) -> None:
    xs, ys = [x for x, _ in pairs], [y for _, y in pairs]
    series = Series("one", 0, xs, ys, has_dots=True, marks=frozenset({0}))
    root = ElementTree.fromstring(
        plot("t < u", [series], x_label="x", y_label="y & z", log_x=log_x, log_y=log_y)
    )
    dots = [e for e in root.iter() if (e.get("class") or "").startswith("dot")]
    assert len(dots) == len(pairs)
    for dot in dots:
        assert svg.LEFT - 0.1 <= float(dot.get("cx", "nan")) <= svg.WIDTH - svg.RIGHT + 0.1
        assert svg.TOP - 0.1 <= float(dot.get("cy", "nan")) <= svg.HEIGHT - svg.BOTTOM + 0.1


@given(finite, st.floats(1.05, 1e6), st.booleans())
def test_ticks_are_inside_and_not_too_many(low: float, ratio: float, is_log: bool) -> None:
    found = [value for value, _ in ticks(low, low * ratio, is_log=is_log)]
    assert found == sorted(found) and 1 <= len(found) <= 16
    assert all(low <= value <= low * ratio for value in found)


def test_short_numbers() -> None:
    assert [short(v) for v in (0, 0.5, 30, 1500, 2e6, 3e9)] == [
        "0",
        "0.5",
        "30",
        "1.5k",
        "2M",
        "3G",
    ]


def test_shares_go_to_the_tail() -> None:
    assert SHARES[0] == 0.0 and SHARES[-1] > 0.998 and 0.5 in SHARES and 0.95 in SHARES
    assert list(SHARES) == sorted(set(SHARES)) and not any(map(math.isnan, SHARES))
