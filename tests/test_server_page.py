"""The pages: their files, one policy, and nothing that the policy would block."""

import re
from pathlib import Path

import pytest

from prelude.server.snapshot import ClassRow, Point, Snapshot, Steps, Totals
from tests.server_harness import serving

FOLDER = Path(__file__).parent.parent / "server" / "page"


TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
PATHS = {"index.html": "/", "live.html": "/live"}


async def test_files_are_served_with_their_types_and_the_policy() -> None:
    async with serving() as server:
        for file in sorted(FOLDER.iterdir()):
            path = PATHS.get(file.name, f"/page/{file.name}")
            response = await server.http.get(path)
            assert response.status_code == 200, path
            assert response.headers["content-type"] == f"{TYPES[file.suffix]}; charset=utf-8"
            assert response.content == file.read_bytes()
            policy = response.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "require-trusted-types-for 'script'; trusted-types 'none'" in policy
            assert "unsafe" not in policy
            assert response.headers["x-content-type-options"] == "nosniff"
        head = await server.http.head("/")
        assert (head.status_code, head.content) == (200, b"")


async def test_what_a_browser_has_is_not_sent_again() -> None:
    async with serving() as server:
        tag = (await server.http.get("/")).headers["etag"]
        same = await server.http.get("/", headers={"if-none-match": f'"other", W/{tag}'})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
        assert (await server.http.get("/", headers={"if-none-match": '"other"'})).status_code == 200
        assert (await server.http.get("/live")).headers["etag"] != tag


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
    assert re.findall(r"https?://|@import|\burl\((?!data:)", outside) == []
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", text)


LIVE = ("live.js", "charts.js")
CHAT = tuple(file.name for file in sorted(FOLDER.glob("*.js")) if file.name not in LIVE)


def scripts(names: tuple[str, ...]) -> str:
    return "".join((FOLDER / name).read_text() for name in names)


@pytest.mark.parametrize(("page", "names"), [("index.html", CHAT), ("live.html", LIVE)])
def test_every_element_the_scripts_ask_for_exists(page: str, names: tuple[str, ...]) -> None:
    html, script = (FOLDER / page).read_text(), scripts(names)
    asked = set(re.findall(r'\$\("([\w-]+)"\)', script))
    asked |= set(re.findall(r'(?:figure|widen)\("([\w-]+)"', script))
    assert asked
    made = set(re.findall(r'\bid: "([\w-]+)"', script))
    assert asked <= set(re.findall(r'id="([\w-]+)"', html)) | made


def test_scripts_import_what_is_served() -> None:
    for path in re.findall(r'from "([^"]+)"', scripts(CHAT + LIVE)):
        assert re.match(r"(\./|/page/)[a-z_]+\.js$", path)
        assert (FOLDER / path.rpartition("/")[2]).is_file()


def colours(name: str, theme: str) -> dict[str, str]:
    """The variables that a style sheet sets for a theme."""
    selector = r":root" if theme == "light" else r':root\[data-theme="dark"\]'
    found = re.findall(rf"^{selector} \{{(.*?)\}}", (FOLDER / name).read_text(), re.M | re.S)
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", "".join(found)))


def test_every_colour_has_a_light_and_a_dark_value() -> None:
    sheets = [file.name for file in sorted(FOLDER.glob("*.css"))]
    known = {theme: [colours(sheet, theme) for sheet in sheets] for theme in ("light", "dark")}
    light, dark = ({name for sheet in known[theme] for name in sheet} for theme in known)
    assert light == dark
    used = set(re.findall(r'colour\("([\w-]+)"\)', scripts(LIVE))) | {
        "fast",
        "deep",
        "doc",
        "batch",
    }
    for sheet in sheets:
        used |= set(re.findall(r"var\(--([\w-]+)\)", (FOLDER / sheet).read_text()))
    assert used - {"width"} <= light


def luminance(colour: str) -> float:
    """Relative, as WCAG 2 defines it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_contrast(theme: str) -> None:
    """WCAG 2 AA: 4.5 for text, 3 for the edges of controls."""
    found = colours("style.css", theme) | colours("answer.css", theme)
    grounds = ("paper", "raised", "mine")
    texts = [(text, on) for text in ("ink", "soft", "accent", "wrong") for on in grounds]
    texts += [("ink", level) for level in ("likely", "open", "doubtful", "unlikely")]
    texts.append(("accent-ink", "accent"))
    for text, ground in texts:
        ratio = contrast(found[text], found[ground])
        assert ratio >= 4.5, (text, ground, round(ratio, 2))
    for ground in ("paper", "raised"):
        assert contrast(found["edge"], found[ground]) >= 3, ground


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
