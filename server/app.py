"""The Starlette application: routes, error shapes, and the services they share."""

import os
import time
from collections.abc import Mapping
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route

from prelude.client.client import EngineClient
from prelude.conf.schema import Config
from prelude.server import routes
from prelude.server.anthropic import anthropic_routes
from prelude.server.auth import HEALTH_PATHS, needed_scope
from prelude.server.bounds import BodyBounds
from prelude.server.chat import chat_completions
from prelude.server.completions import completions
from prelude.server.doors import public_doors
from prelude.server.embeddings import embeddings
from prelude.server.errors import EXCEPTION_HANDLERS
from prelude.server.fields import FieldChecker
from prelude.server.keys import Keyring
from prelude.server.lifecycle import Lifecycle
from prelude.server.limits import Limits
from prelude.server.live import Live
from prelude.server.live_events import live_events
from prelude.server.metrics import Metrics
from prelude.server.observe import ObserveMiddleware
from prelude.server.openapi import openapi_routes
from prelude.server.page import page_routes
from prelude.server.responses import responses_routes
from prelude.server.resume import Keeper
from prelude.server.resuming import ResumeMiddleware
from prelude.server.services import Services
from prelude.server.tracing import make_tracer
from prelude.text.tokenizer import Tokenizer


def build_app(
    client: EngineClient,
    tokenizer: Tokenizer,
    config: Config,
    environment: Mapping[str, str] = os.environ,
) -> Starlette:
    """The HTTP front of one engine. ``app.state.services`` holds what the routes share; its
    ``lifecycle`` is what a server drains; ``environment`` may have its keys. Raises ``ValueError``
    or ``OSError`` for bad keys, ``ValueError`` for an endpoint of traces without OpenTelemetry."""
    model_name = config.model.name or Path(config.model.path).expanduser().resolve().name
    metrics, lifecycle = Metrics(client, model_name), Lifecycle()
    tracer = make_tracer(config.server.tracing, model_name)
    keyring, limits = Keyring(config.server, environment), Limits()
    keeper = Keeper(config.server.resume_s, int(config.server.resume_mib * 2**20))
    app = Starlette(
        routes=public_routes(config),
        middleware=[
            Middleware(ObserveMiddleware, on_response=metrics.responded, tracer=tracer),
            *public_doors(config.server, keyring, limits, _chat_page()),
            Middleware(
                ResumeMiddleware,
                keeper=keeper,
                ping_s=config.server.ping_s,
                send_timeout_s=config.server.send_timeout_s,
            ),
        ],
        exception_handlers=EXCEPTION_HANDLERS,
    )
    app.state.services = Services(
        client=client,
        tokenizer=tokenizer,
        config=config,
        metrics=metrics,
        lifecycle=lifecycle,
        live=Live(client, metrics, lifecycle, model_name),
        fields=FieldChecker(
            config.server.strict, metrics.unknown_field, BodyBounds.of(config.server.limits)
        ),
        keyring=keyring,
        limits=limits,
        keeper=keeper,
        model_name=model_name,
        created_s=int(time.time()),
        tracer=tracer,
    )
    return app


def public_routes(config: Config) -> list[Route]:
    """All, unless operators have a port of their own for what is theirs."""
    has_port = config.server.admin.port is not None
    return [one for one in _routes() if not has_port or needed_scope(one.path) != "metrics"]


def operator_routes() -> list[Route]:
    """What the admin port has of these: metrics and the live view, its files, health."""
    return [
        one
        for one in _routes()
        if needed_scope(one.path) == "metrics"
        or one.path in HEALTH_PATHS
        or one.path.startswith("/page/")
    ]


def _routes() -> list[Route]:
    return [
        Route("/v1/chat/completions", chat_completions, methods=["POST"]),
        Route("/v1/completions", completions, methods=["POST"]),
        Route("/v1/embeddings", embeddings, methods=["POST"]),
        *responses_routes(),
        *anthropic_routes(),
        Route("/v1/models", routes.list_models, methods=["GET"]),
        Route("/v1/models/{model:path}", routes.get_model, methods=["GET"]),
        Route("/tokenize", routes.tokenize, methods=["POST"]),
        Route("/detokenize", routes.detokenize, methods=["POST"]),
        Route("/health", routes.ready, methods=["GET"]),
        Route("/health/live", routes.live, methods=["GET"]),
        Route("/health/ready", routes.ready, methods=["GET"]),
        Route("/version", routes.version, methods=["GET"]),
        *openapi_routes(),
        Route("/metrics", routes.metrics, methods=["GET"]),
        Route("/live/events", live_events, methods=["GET"]),
        *page_routes(),
    ]


def _chat_page() -> list[str]:
    return [one.path for one in page_routes() if needed_scope(one.path) is None]
