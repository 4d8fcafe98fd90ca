"""The chat page: three files, one policy, and nothing that the policy would block."""

import re
from pathlib import Path

import pytest

from tests.server_harness import serving

FOLDER = Path(__file__).parent.parent / "server" / "page"


@pytest.mark.parametrize(
    ("path", "kind", "name"),
    [
        ("/", "text/html", "index.html"),
        ("/page/style.css", "text/css", "style.css"),
        ("/page/chat.js", "text/javascript", "chat.js"),
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
        for path in ("/page/", "/page/../main.py", "/page/index.html", "/page/none.js"):
            assert (await server.http.get(path)).status_code == 404


def test_the_page_needs_nothing_from_elsewhere() -> None:
    html = (FOLDER / "index.html").read_text()
    links = re.findall(r'(?:src|href)="([^"]+)"', html)
    assert links
    assert all(link.startswith(("/page/", "data:")) for link in links)
    assert "<style" not in html
    assert not re.search(r"\son\w+=", html)
    assert not re.search(r"<script(?![^>]*\ssrc=)", html)
    script = (FOLDER / "chat.js").read_text()
    assert "innerHTML" not in script
    assert "eval(" not in script
    assert re.findall(r"https?://", script + (FOLDER / "style.css").read_text()) == []


def test_every_element_the_script_asks_for_exists() -> None:
    html, script = (FOLDER / "index.html").read_text(), (FOLDER / "chat.js").read_text()
    asked = set(re.findall(r'\$\("([\w-]+)"\)', script))
    assert asked
    assert asked <= set(re.findall(r'id="([\w-]+)"', html))
