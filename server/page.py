"""The chat page and the live view: static files, read once, under a policy that lets nothing else
in and lets no text become markup. Browsers keep them and ask whether they are still the same."""

from hashlib import blake2b
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_PAGES = {"/": "index.html", "/live": "live.html"}
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}


def page_routes() -> list[Route]:
    """The two pages, and below ``/page/`` the scripts and styles of both."""
    found = {path: _route(path, name) for path, name in _PAGES.items()}
    for file in sorted((files("prelude.server") / "page").iterdir(), key=lambda file: file.name):
        if file.name.endswith((".css", ".js")):
            found[f"/page/{file.name}"] = _route(f"/page/{file.name}", file.name)
    return list(found.values())


def _route(path: str, name: str) -> Route:
    content = (files("prelude.server") / "page" / name).read_bytes()
    tag = f'"{blake2b(content, digest_size=8).hexdigest()}"'
    kind = _TYPES[name.rpartition(".")[2]]
    headers = {**_HEADERS, "etag": tag, "content-type": f"{kind}; charset=utf-8"}

    async def page(request: Request) -> Response:
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers={**_HEADERS, "etag": tag})
        return Response(content, headers=headers)

    return Route(path, page, methods=["GET"])
