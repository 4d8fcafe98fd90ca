"""Pages say what is: links lead somewhere, commands can be given, tables are whole."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from prelude.commands.parser import options
from prelude.conf.command import BENCH_ENGINE, BENCH_SERVE, ENGINE, SIMULATE, Command
from prelude.conf.load import load

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "benchmarks/README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
COMMANDS: dict[str, Command] = {
    "serve": ENGINE,
    "config": ENGINE,
    "generate": ENGINE,
    "bench serve": BENCH_SERVE,
    "bench engine": BENCH_ENGINE,
    "simulate": SIMULATE,
}
UNKNOWN_ON_PURPOSE = {"server.prot=9000"}


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    text = FENCED.sub("", page.read_text())
    words = (line.lstrip("#").strip().lower() for line in text.splitlines() if line[:1] == "#")
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in words}


def links() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for target in LINK.findall(FENCED.sub("", page.read_text())):
            if "://" not in target:
                yield str(page.relative_to(ROOT)), target


def test_links_lead_somewhere() -> None:
    lost = []
    for page, target in links():
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            lost.append((page, target))
    assert not lost


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs/index.md").read_text()
    names = {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert not [name for name in names if f"({name})" not in index]


def commands() -> Iterator[tuple[str, list[str]]]:
    """What follows `prelude` in the pages, by the configuration that it takes: its overrides."""
    for page in PAGES:
        for block in FENCED.findall(page.read_text()):
            for line in block.replace("\\\n", " ").splitlines():
                found = re.search(r"(?:^|[\s/])prelude ((?:bench )?[a-z]+)\b(.*)", line)
                if found and found[1] in COMMANDS:
                    yield found[1], shlex.split(found[2].partition(" &")[0], comments=True)


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_can_be_given(name: str) -> None:
    given = [words for command, words in commands() if command == name]
    assert given
    for words in given:
        overrides = [word for word in words if "=" in word and word not in UNKNOWN_ON_PURPOSE]
        load(COMMANDS[name], COMMANDS[name].schema, [word for word in overrides if word[0] != "-"])


def test_the_table_of_groups_has_every_option() -> None:
    page = (ROOT / "docs/configuration.md").read_text()
    rows = dict(
        re.findall(r"^\| `(\w+)` \| (.*) \|$", page.partition("## Groups")[2], re.MULTILINE)
    )
    for group in ENGINE.groups:
        named = set(re.findall(r"`(\w+)`", rows[group]))
        assert named == set(options(group)), group
