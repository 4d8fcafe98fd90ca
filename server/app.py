"""The Starlette application: routes, error shapes, and the services they share."""

import time
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from prelude.client.client import EngineClient, EngineDeadError
from prelude.conf.schema import Config
from prelude.server import routes
from prelude.server.auth import needed_scope
from prelude.server.chat import chat_completions
from prelude.server.completions import completions
from prelude.server.doors import public_doors
from prelude.server.errors import (
    ApiError,
    on_api_error,
    on_bug,
    on_client_gone,
    on_engine_dead,
    on_http_error,
)
from prelude.server.fields import FieldChecker
from prelude.server.keys import Keyring
from prelude.server.lifecycle import Lifecycle
from prelude.server.limits import Limits
from prelude.server.live import Live
from prelude.server.live_events import live_events
from prelude.server.metrics import Metrics
from prelude.server.observe import ObserveMiddleware
from prelude.server.page import page_routes
from prelude.server.responses import responses_routes
from prelude.server.resume import Keeper
from prelude.server.resuming import ResumeMiddleware
from prelude.server.services import Services
from prelude.text.tokenizer import Tokenizer


def build_app(client: EngineClient, tokenizer: Tokenizer, config: Config) -> Starlette:
    """The HTTP front of one engine. ``app.state.services`` holds what the routes share; its
    ``lifecycle`` is what a server drains. Raises ``ValueError`` or ``OSError`` for bad keys."""
    model_name = config.model.name or Path(config.model.path).expanduser().resolve().name
    metrics, lifecycle = Metrics(client, model_name), Lifecycle()
    keyring, limits = Keyring(config.server), Limits()
    keeper = Keeper(config.server.resume_s, int(config.server.resume_mib * 2**20))
    app = Starlette(
        routes=_routes(),
        middleware=[
            Middleware(ObserveMiddleware, on_response=metrics.responded),
            *public_doors(config.server, keyring, limits, page_paths()),
            Middleware(
                ResumeMiddleware,
                keeper=keeper,
                ping_s=config.server.ping_s,
                send_timeout_s=config.server.send_timeout_s,
            ),
        ],
        exception_handlers={
            ApiError: on_api_error,
            HTTPException: on_http_error,
            EngineDeadError: on_engine_dead,
            ClientDisconnect: on_client_gone,
            Exception: on_bug,
        },
    )
    app.state.services = Services(
        client=client,
        tokenizer=tokenizer,
        config=config,
        metrics=metrics,
        lifecycle=lifecycle,
        live=Live(client, metrics, lifecycle, model_name),
        fields=FieldChecker(config.server.strict, metrics.unknown_field),
        keyring=keyring,
        limits=limits,
        keeper=keeper,
        model_name=model_name,
        created_s=int(time.time()),
    )
    return app


def _routes() -> list[Route]:
    return [
        Route("/v1/chat/completions", chat_completions, methods=["POST"]),
        Route("/v1/completions", completions, methods=["POST"]),
        *responses_routes(),
        Route("/v1/models", routes.list_models, methods=["GET"]),
        Route("/v1/models/{model:path}", routes.get_model, methods=["GET"]),
        Route("/tokenize", routes.tokenize, methods=["POST"]),
        Route("/detokenize", routes.detokenize, methods=["POST"]),
        Route("/health", routes.ready, methods=["GET"]),
        Route("/health/live", routes.live, methods=["GET"]),
        Route("/health/ready", routes.ready, methods=["GET"]),
        Route("/version", routes.version, methods=["GET"]),
        Route("/metrics", routes.metrics, methods=["GET"]),
        Route("/live/events", live_events, methods=["GET"]),
        *page_routes(),
    ]


def page_paths() -> list[str]:
    """Of the chat page alone: the live view shows what others do."""
    return [route.path for route in page_routes() if needed_scope(route.path) == "infer"]
