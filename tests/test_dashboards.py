"""Dashboard, rules and the page: they ask only for metrics and labels that a server has."""

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.server_harness import serving

ROOT = Path(__file__).resolve().parent.parent
PROMETHEUS = ROOT / "deploy/prometheus"
DASHBOARD = ROOT / "deploy/grafana/dashboards/prelude.json"
# From Prometheus itself, from the process collector where the system has one, and of our rules.
OTHERS = re.compile(r"up|process_\w+|prelude:[\w:]+")
_TARGET_LABELS = {"instance", "job", "le", "__name__"}

Names = dict[str, set[str]]


async def _scrape() -> str:
    async with serving() as server:
        assert server.client.info is not None
        info = msgspec.structs.replace(server.client.info, startup_s={"imports": 1.0})
        server.client.info = info
        await server.chat(max_tokens=3)
        await server.chat(top_p=7, mystery=1)
        return (await server.http.get("/metrics")).text


@pytest.fixture(scope="module")
def scraped() -> Names:
    """The labels of every sample that a server has after it has served all sorts."""
    text = asyncio.run(_scrape())
    found: Names = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def dashboard_queries() -> Iterator[str]:
    board = dashboard()
    for panel in board["panels"]:
        yield from (target["expr"] for target in panel.get("targets", []))
    yield from (one["expr"] for one in board["annotations"]["list"])
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield re.sub(r"label_values\((.*), \w+\)", r"\1", variable["definition"])


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS / "rules.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def check(query: str, scraped: Names) -> None:
    """Every metric of ``query`` exists, with the labels that it is selected by."""
    plain = re.sub(r'"[^"]*"', '""', query)
    names = [*re.finditer(r"\b((?:prelude|vllm|process)[_:][\w:]+|up)(\{[^}]*\})?", plain)]
    assert names, query
    for match in names:
        name, selector = match[1], match[2] or ""
        if OTHERS.fullmatch(name):
            continue
        assert name in scraped, f"{name} in {query}"
        labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector)) - _TARGET_LABELS
        assert labels <= scraped[name], f"{labels - scraped[name]} of {name} in {query}"


@pytest.mark.parametrize("query", sorted(set(dashboard_queries())))
def test_the_dashboard_asks_for_what_there_is(query: str, scraped: Names) -> None:
    check(query, scraped)


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert") or rule.get("record"))
def test_rules_ask_for_what_there_is(rule: dict[str, Any], scraped: Names) -> None:
    check(rule["expr"], scraped)


def test_recorded_names_are_recorded() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    used = {name for rule in rules() for name in re.findall(r"prelude:[\w:]+", rule["expr"])}
    used |= {name for query in dashboard_queries() for name in re.findall(r"prelude:[\w:]+", query)}
    assert used <= recorded


def test_every_alert_is_explained() -> None:
    page = (ROOT / "docs/observability.md").read_text()
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    assert alerts == set(re.findall(r"^\| `(Prelude\w+)` \|", page, re.MULTILINE))
    for rule in rules():
        if "alert" in rule:
            assert rule["labels"]["severity"] in ("critical", "warning")
            assert rule["annotations"]["summary"]


def test_every_metric_is_on_the_page(scraped: Names) -> None:
    page = (ROOT / "docs/observability.md").read_text()
    listed = set(re.findall(r"`([\w:]+)`", page))
    for name in scraped:
        short = re.sub(r"_(bucket|count|sum|created)$", "", name)
        if short.startswith("prelude_"):
            assert short.removeprefix("prelude_") in listed, short


def test_the_dashboard_is_whole() -> None:
    board = dashboard()
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids)) and board["uid"] == "prelude"
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        box = panel["gridPos"]
        assert box["x"] + box["w"] <= 24
        cells = {
            (x, y)
            for x in range(box["x"], box["x"] + box["w"])
            for y in range(box["y"], box["y"] + box["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    variables = {variable["name"] for variable in board["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", DASHBOARD.read_text()))
    assert used - {"__rate_interval", "__all"} <= variables


def test_the_dashboard_finds_its_data() -> None:
    provisioned = ROOT / "deploy/grafana/provisioning"
    (source,) = yaml.safe_load((provisioned / "datasources/prometheus.yaml").read_text())[
        "datasources"
    ]
    board = dashboard()
    (variable,) = [one for one in board["templating"]["list"] if one["type"] == "datasource"]
    assert (variable["query"], variable["current"]["value"]) == (source["type"], source["uid"])
    (provider,) = yaml.safe_load((provisioned / "dashboards/prelude.yaml").read_text())["providers"]
    compose = (ROOT / "deploy/compose.yaml").read_text()
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in compose


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool")
def test_prometheus_takes_the_rules() -> None:
    for command in (["check", "rules", "rules.yaml"], ["test", "rules", "rules_test.yaml"]):
        run = subprocess.run(
            ["promtool", *command], cwd=PROMETHEUS, capture_output=True, text=True, timeout=60
        )
        assert run.returncode == 0, run.stdout + run.stderr
