"""The operator's port: metrics, the live view, and ``/admin``. An application of its own, so that
nothing of it can be reached through the public one.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import asdict
from enum import Enum
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from prelude.conf.schema import LogLevel
from prelude.server.doors import private_door
from prelude.server.errors import EXCEPTION_HANDLERS, from_msgspec
from prelude.server.observe import ObserveMiddleware
from prelude.server.services import Services, read_body, services_of
from prelude.types.wire import ForgetPrefixes, SetLogLevel

logger = logging.getLogger(__name__)

_SECRET = re.compile(r"(^|_)(secret|password|headers|token|api_key)$")
_URL = re.compile(r"\b([a-z][a-z0-9+.-]*://)(\S*)", re.IGNORECASE)
_QUERY = re.compile("[?#]")
_HIDDEN = "***"


class _LogLevelBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    level: LogLevel


def build_admin_app(services: Services, routes: list[Route]) -> Starlette:
    """``routes`` are those that the public application gave up for this one."""
    app = Starlette(
        routes=[*routes, *_routes()],
        middleware=[
            Middleware(ObserveMiddleware, on_response=services.metrics.responded),
            private_door(services.keyring, services.limits),
        ],
        exception_handlers=EXCEPTION_HANDLERS,
    )
    app.state.services = services
    return app


def _routes() -> list[Route]:
    return [
        Route("/admin/config", config, methods=["GET"]),
        Route("/admin/keys", keys, methods=["GET"]),
        Route("/admin/drain", drain, methods=["POST"]),
        Route("/admin/drain", undrain, methods=["DELETE"]),
        Route("/admin/prefix-cache/reset", reset_prefix_cache, methods=["POST"]),
        Route("/admin/log-level", log_level, methods=["PUT"]),
    ]


async def config(request: Request) -> Response:
    """What the server runs with; values that could be secrets are hidden."""
    return JSONResponse(redacted(asdict(services_of(request).config)))


async def keys(request: Request) -> Response:
    """Who has used what since the start, and what is open now; anonymous use is named ''."""
    services = services_of(request)
    limits = services.limits
    names = sorted({*services.keyring.names(), *limits.names()})
    rows = [{"name": name, **limits.report(name)} for name in names]
    return JSONResponse({"keys": rows})


async def drain(request: Request) -> Response:
    """Refuse new requests and turn unready, until told otherwise. What is open goes on."""
    return _held(request, True)


async def undrain(request: Request) -> Response:
    return _held(request, False)


def _held(request: Request, is_held: bool) -> Response:
    lifecycle = services_of(request).lifecycle
    lifecycle.is_held = is_held
    logger.warning("new requests are %s", "refused: draining" if is_held else "let in again")
    return JSONResponse({"draining": lifecycle.draining, "open": lifecycle.num_open})


async def reset_prefix_cache(request: Request) -> Response:
    """Requests from now on find nothing cached; those that run are not touched."""
    services_of(request).client.send(ForgetPrefixes())
    return JSONResponse({"status": "reset"})


async def log_level(request: Request) -> Response:
    """Of both processes, until the next start."""
    try:
        body = msgspec.json.decode(await read_body(request), type=_LogLevelBody)
    except msgspec.DecodeError as error:
        raise from_msgspec(error) from error
    logging.getLogger("prelude").setLevel(body.level.value)
    services_of(request).client.send(SetLogLevel(body.level.value))
    return JSONResponse({"level": body.level.value})


def redacted(value: Any, name: str = "") -> Any:
    """``value`` for JSON, without what its name or its form says is secret."""
    if isinstance(value, Mapping):
        return {str(key): redacted(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(item, name) for item in value]
    if value is not None and _SECRET.search(name):
        return _HIDDEN
    if isinstance(value, Enum):
        return value.value
    return without_credentials(value) if isinstance(value, str) else value


def without_credentials(text: str) -> str:
    """``text`` with nothing of its URLs but scheme, host, port and path."""
    return _URL.sub(_plain, text)


def _plain(url: re.Match[str]) -> str:
    """Whatever stands before an ``@`` could be a password, whichever signs it has."""
    scheme, rest = url.groups()
    if "@" in rest:
        rest = f"{_HIDDEN}@{rest.rpartition('@')[2]}"
    place, *query = _QUERY.split(rest, maxsplit=1)
    return f"{scheme}{place}{f'?{_HIDDEN}' if query else ''}"
