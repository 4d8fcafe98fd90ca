"""The small routes: models, tokenizing, health, version, metrics."""

import time

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

import prelude
from prelude.client.client import EngineClient
from prelude.server.errors import RETRY_AFTER_S, invalid
from prelude.server.prompts import encode_chat, off_loop
from prelude.server.protocol import DetokenizeRequest, TokenizeRequest
from prelude.server.services import Services, read_body, services_of


async def list_models(request: Request) -> Response:
    return JSONResponse({"object": "list", "data": [_model(services_of(request))]})


async def get_model(request: Request) -> Response:
    services = services_of(request)
    services.check_model(request.path_params["model"])
    return JSONResponse(_model(services))


def _model(services: Services) -> dict[str, object]:
    info = services.client.info
    return {
        "id": services.model_name,
        "object": "model",
        "created": services.created_s,
        "owned_by": "prelude",
        "max_model_len": info.max_len if info is not None else None,
    }


async def tokenize(request: Request) -> Response:
    """Text or messages to the ids that a completion of them would start from."""
    services = services_of(request)
    body = await services.fields.read(await read_body(request), TokenizeRequest)
    services.check_model(body.model)
    if (body.prompt is None) == (body.messages is None):
        raise invalid("prompt", "send either prompt or messages")
    if body.prompt is None:
        ids = await encode_chat(services.tokenizer, body)
    else:
        text, special = body.prompt, body.add_special_tokens is not False
        ids = await off_loop(len(text), lambda: services.tokenizer.encode(text, special))
    info = services.client.info
    limit = info.max_len if info is not None else None
    found = {"tokens": ids, "count": len(ids), "max_model_len": limit}
    return Response(msgspec.json.encode(found), media_type="application/json")


async def detokenize(request: Request) -> Response:
    services = services_of(request)
    body = await services.fields.read(await read_body(request), DetokenizeRequest)
    services.check_model(body.model)
    size = services.tokenizer.vocab_size
    context = services.engine().max_len
    if len(body.tokens) > context:
        raise invalid("tokens", f"has {len(body.tokens)} ids, and the model's context is {context}")
    if body.tokens and not 0 <= min(body.tokens) <= max(body.tokens) < size:
        raise invalid("tokens", f"must be token ids between 0 and {size - 1}")
    skip = bool(body.skip_special_tokens)
    text = await off_loop(len(body.tokens), lambda: services.tokenizer.decode(body.tokens, skip))
    return JSONResponse({"prompt": text})


async def live(request: Request) -> Response:
    """503 once only a restart of everything can help."""
    client = services_of(request).client
    if client.error is not None:
        return JSONResponse({"status": "dead", "error": str(client.error), **_past(client)}, 503)
    return JSONResponse({"status": "live"})


def _past(client: EngineClient) -> dict[str, object]:
    """What became of the engines before this one."""
    if (death := client.last_death) is None:
        return {}
    last = {
        "reason": death.reason,
        "message": death.message,
        "requests_lost": death.num_lost,
        "seconds_ago": round(time.monotonic() - death.at_s, 1),
    }
    return {"restarts": client.restarts.total(), "last_death": last}


async def ready(request: Request) -> Response:
    """200 when a request would be answered now; else 503 with what is happening instead."""
    services = services_of(request)
    client = services.client
    headers = {"retry-after": str(RETRY_AFTER_S)}
    if client.error is not None:
        return JSONResponse({"status": "dead", "error": str(client.error), **_past(client)}, 503)
    if services.lifecycle.draining:
        body: dict[str, object] = {"status": "draining", "open": services.lifecycle.num_open}
        return JSONResponse(body, 503, headers)
    if client.info is None:
        progress = client.progress
        body = {"status": client.state, "phase": progress.phase, "fraction": progress.fraction}
        headers = {"retry-after": str(client.retry_s)}
        return JSONResponse({**body, **_past(client)}, 503, headers)
    stats = client.stats
    return JSONResponse(
        {
            "status": "ready",
            "model": services.model_name,
            "programs": {"ready": stats.programs_ready, "wanted": stats.programs_total},
            "startup_s": client.info.startup_s,
            "rules": client.info.rules,
            **_past(client),
        }
    )


async def version(request: Request) -> Response:
    return JSONResponse({"version": prelude.__version__})


async def metrics(request: Request) -> Response:
    return Response(
        services_of(request).metrics.text(), headers={"content-type": CONTENT_TYPE_LATEST}
    )
