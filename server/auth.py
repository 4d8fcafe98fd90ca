"""The door: every path needs a key unless it is listed as public, or no keys are asked for.

Pure ASGI, before anything is routed or read, so that a path nobody thought of is closed too. What
it finds is in ``request.state``: ``principal``, and the ``ticket`` on that one's account.
"""

import base64
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as ASGIScope

from prelude.server.errors import ApiError, error_response
from prelude.server.exposure import is_loopback
from prelude.server.keys import Keyring
from prelude.server.limits import Limits, Ticket
from prelude.server.principal import Principal, Scope

HEALTH_PATHS = frozenset({"/health", "/health/live", "/health/ready"})
_METRICS_PATHS = ("/metrics", "/live")
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


@dataclass(frozen=True, slots=True)
class Door:
    """Who is let in. ``nobody`` is who has no key where none are asked for; ``public`` paths are
    open to all; pages of ``origins`` may use what a browser sends by itself. ``is_local`` takes
    requests without a key only where they name this machine as it names itself."""

    keyring: Keyring
    limits: Limits
    nobody: Principal
    public: Collection[str] = HEALTH_PATHS
    origins: Collection[str] = ()
    is_local: bool = False


class AuthMiddleware:
    """Answers 401 without a key, 403 where it is not enough, 429 where it is used up."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self._app = app
        self._door = door

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            ticket = await self._admit(scope)
        except ApiError as error:
            await error_response(scope["path"], error)(scope, receive, send)
            return
        status = 0

        async def send_with_limits(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                told = ticket.headers().items()
                message["headers"] = [
                    *message.get("headers", ()),
                    *((name.encode(), value.encode()) for name, value in told),
                ]
            await send(message)

        try:
            await self._app(scope, receive, send_with_limits)
        finally:
            ticket.close(is_served=200 <= status < 400)

    async def _admit(self, scope: ASGIScope) -> Ticket:
        path, door = scope["path"], self._door
        headers = Headers(scope=scope)
        if path in door.public:
            principal = door.nobody
        else:
            principal = await self._principal(scope, headers)
            needed = needed_scope(path)
            if needed is not None and not principal.may(needed):
                raise forbidden(f"the API key {principal.name} lacks the scope {needed!r}")
        is_new = scope["method"] == "POST" and "last-event-id" not in headers
        counts = is_new and needed_scope(path) == "infer"
        state = scope.setdefault("state", {})
        state["principal"] = principal
        state["ticket"] = ticket = door.limits.open(principal, counts=counts)
        return ticket

    async def _principal(self, scope: ASGIScope, headers: Headers) -> Principal:
        door = self._door
        token, is_ambient = shown_key(headers)
        if door.keyring.is_empty or is_ambient:
            _check_site(scope["method"], headers, door.origins)
        if door.keyring.is_empty:
            if door.is_local and not is_loopback(_host(headers)):
                raise forbidden(
                    "without an API key, ask for this as localhost or 127.0.0.1; behind a proxy "
                    "that authenticates, set server.auth.allow_anonymous=true"
                )
            return door.nobody
        if not token:
            raise unauthorized(
                "no API key was sent; send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'",
                headers,
                code=None,
            )
        try:
            return await door.keyring.check(token)
        except PermissionError as error:
            raise unauthorized(str(error), headers) from error


def needed_scope(path: str) -> Scope | None:
    """None where any key will do: the pages' own files."""
    if path == "/" or path.startswith("/page/"):
        return None
    if path.startswith("/admin"):
        return "admin"
    return "metrics" if path.startswith(_METRICS_PATHS) else "infer"


def shown_key(headers: Headers) -> tuple[str, bool]:
    """The key in a request's headers, or nothing, and whether a browser may have sent it by itself:
    as the password of Basic, so that pages and Prometheus need no code for it."""
    kind, _, value = headers.get("authorization", "").partition(" ")
    if kind.lower() == "basic":
        try:
            return base64.b64decode(value).decode().partition(":")[2], True
        except ValueError:
            return "", True
    if kind.lower() == "bearer":
        return value.strip(), False
    return headers.get("x-api-key", "").strip(), False


def _host(headers: Headers) -> str:
    name, _, port = headers.get("host", "").rpartition(":")
    return (name if port.isdigit() else headers.get("host", "")).strip("[]")


def unauthorized(message: str, headers: Headers, code: str | None = "invalid_api_key") -> ApiError:
    """A browser that opens a page is told to ask for the key; programs are told to send one."""
    is_page = "text/html" in headers.get("accept", "")
    challenge = 'Basic realm="Prelude: the API key is the password"' if is_page else "Bearer"
    return ApiError(401, message, code=code, headers={"www-authenticate": challenge})


def forbidden(message: str) -> ApiError:
    return ApiError(403, message, code="insufficient_permissions")


def _check_site(method: str, headers: Headers, origins: Collection[str]) -> None:
    """Where a browser needs to know no secret, another site's page must not act through it."""
    if method in _SAFE_METHODS or not _is_foreign(headers):
        return
    if "*" not in origins and headers.get("origin") not in origins:
        raise forbidden("pages of other sites may not use this server; see server.cors.origins")


def _is_foreign(headers: Headers) -> bool:
    """Browsers say so themselves, but not over plain HTTP to another machine: there the page's
    origin is compared with what it asks."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is None and origin is not None:
        return urlsplit(origin).netloc != headers.get("host")
    return site == "cross-site"
