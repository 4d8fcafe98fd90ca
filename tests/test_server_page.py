"""The pages: their files, one policy, and nothing that the policy would block."""

import re
from pathlib import Path

import pytest

from prelude.server.snapshot import ClassRow, Point, Snapshot, Steps, Totals
from tests.server_harness import serving

FOLDER = Path(__file__).parent.parent / "server" / "page"


@pytest.mark.parametrize(
    ("path", "kind", "name"),
    [
        ("/", "text/html", "index.html"),
        ("/page/style.css", "text/css", "style.css"),
        ("/page/chat.js", "text/javascript", "chat.js"),
        ("/live", "text/html", "live.html"),
        ("/page/live.css", "text/css", "live.css"),
        ("/page/live.js", "text/javascript", "live.js"),
        ("/page/charts.js", "text/javascript", "charts.js"),
    ],
)
async def test_files_are_served_with_their_types_and_the_policy(
    path: str, kind: str, name: str
) -> None:
    async with serving() as server:
        response = await server.http.get(path)
        assert response.status_code == 200
        assert response.headers["content-type"] == f"{kind}; charset=utf-8"
        assert response.content == (FOLDER / name).read_bytes()
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"
        head = await server.http.head(path)
        assert (head.status_code, head.content) == (200, b"")


async def test_nothing_else_of_the_folder_is_reachable() -> None:
    async with serving() as server:
        for path in (
            "/page/",
            "/page/../main.py",
            "/page/index.html",
            "/page/live.html",
            "/page/x.js",
        ):
            assert (await server.http.get(path)).status_code == 404


@pytest.mark.parametrize("page", ["index.html", "live.html"])
def test_a_page_needs_nothing_from_elsewhere(page: str) -> None:
    html = (FOLDER / page).read_text()
    links = re.findall(r'(?:src|href)="([^"]+)"', html)
    assert links
    assert all(link in ("/", "/live") or link.startswith(("/page/", "data:")) for link in links)
    assert "<style" not in html
    assert not re.search(r"\sstyle=", html)
    assert not re.search(r"\son\w+=", html)
    assert not re.search(r"<script(?![^>]*\ssrc=)", html)


@pytest.mark.parametrize("name", [path.name for path in sorted(FOLDER.iterdir())])
def test_no_file_reaches_out_or_writes_markup(name: str) -> None:
    text = (FOLDER / name).read_text()
    outside = text.replace("xmlns='http://www.w3.org/2000/svg'", "")
    assert re.findall(r"https?://|@import|url\((?!data:)", outside) == []
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", text)


@pytest.mark.parametrize(("page", "name"), [("index.html", "chat.js"), ("live.html", "live.js")])
def test_every_element_the_script_asks_for_exists(page: str, name: str) -> None:
    html, script = (FOLDER / page).read_text(), (FOLDER / name).read_text()
    asked = set(re.findall(r'\$\("([\w-]+)"\)', script))
    asked |= set(re.findall(r'(?:figure|widen)\("([\w-]+)"', script))
    assert asked
    assert asked <= set(re.findall(r'id="([\w-]+)"', html))


def test_scripts_import_what_is_served_and_styles_know_their_colours() -> None:
    script = (FOLDER / "live.js").read_text() + (FOLDER / "charts.js").read_text()
    for path in re.findall(r'from "([^"]+)"', script):
        assert (FOLDER / path.removeprefix("/page/")).is_file()
    styles = (FOLDER / "style.css").read_text() + (FOLDER / "live.css").read_text()
    drawn = set(re.findall(r'colour\("([\w-]+)"\)', script)) | {"fast", "deep", "doc", "batch"}
    for name in drawn | set(re.findall(r"var\(--([\w-]+)\)", styles)):
        values = re.findall(rf"--{name}: ", styles)
        assert len(values) == (1 if name == "width" else 2) + (name == "width"), name


def test_the_script_reads_the_records_that_the_server_writes() -> None:
    """Arrays cross by position, the rest by name."""
    script = (FOLDER / "live.js").read_text()
    (names,) = re.findall(r"function pointOf\(\[([^\]]+)\]", script)
    fields = [name.strip() for name in names.split(",")]
    assert fields == "time p50 max budget output prompt kv running waiting".split()
    assert len(fields) == len(Point.__struct_fields__)
    assert set(re.findall(r"\bstate, (.+?) \} = snapshot", script)[0].split(", ")) <= set(
        Snapshot.__struct_fields__
    )
    for record, holder in ((Totals, "totals"), (Steps, "steps"), (ClassRow, "c")):
        read = set(re.findall(rf"\b{holder}\.([a-z]\w+)", script))
        assert read, holder
        assert read <= set(record.__struct_fields__), holder
