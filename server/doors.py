"""What stands before the routes of each port: ids and logs, other sites' pages, keys and limits."""

from collections.abc import Iterable

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from prelude.conf.schema import CorsConfig, ServerConfig
from prelude.server.auth import HEALTH_PATHS, AuthMiddleware, Door
from prelude.server.exposure import is_local
from prelude.server.keys import Keyring
from prelude.server.limits import Limits
from prelude.server.principal import nobody
from prelude.server.ratelimit import LIMIT_HEADERS

_EXPOSED = ("x-request-id", "retry-after", "retry-after-ms", "server-timing", *LIMIT_HEADERS)


def public_doors(
    config: ServerConfig, keyring: Keyring, limits: Limits, pages: Iterable[str]
) -> list[Middleware]:
    """In the order in which a request meets them. ``pages`` are the chat page's own paths."""
    door = Door(
        keyring,
        limits,
        nobody(config.limits if keyring.is_empty else None),
        public=HEALTH_PATHS | frozenset(pages if config.auth.public_page else ()),
        origins=config.cors.origins,
        is_local=is_local(config) and not config.auth.allow_anonymous,
    )
    return [*_cors(config.cors), Middleware(AuthMiddleware, door=door)]


def private_door(keyring: Keyring, limits: Limits) -> Middleware:
    """Of the admin port: everything but health needs a key, or where there are none to be asked
    for on this very machine, by no other site's page."""
    return Middleware(AuthMiddleware, door=Door(keyring, limits, nobody(), is_local=True))


def _cors(config: CorsConfig) -> list[Middleware]:
    """Closed unless somebody is named. Cookies are never used, so credentials are not allowed."""
    if not config.origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=config.origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=_EXPOSED,
            max_age=600,
        )
    ]
