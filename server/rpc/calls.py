"""Around every call: who makes it, on whose account, its id, its count and its line in the log."""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
from starlette.datastructures import Headers

from prelude.client.client import EngineDeadError
from prelude.logs import About, Fields, about
from prelude.server.auth import shown_key
from prelude.server.errors import CLIENT_CLOSED, ApiError, engine_gone, internal_error
from prelude.server.generation import Generation
from prelude.server.limits import Ticket
from prelude.server.principal import Principal, Scope, nobody
from prelude.server.rpc.status import abort
from prelude.server.services import Services

logger = logging.getLogger(__name__)

SERVICE = "vllm.grpc.engine.VllmEngine"

_GOOD_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


@dataclass(slots=True)
class Call:
    """``metadata`` has names in lower case, as HTTP's headers."""

    principal: Principal
    ticket: Ticket
    metadata: Mapping[str, str]
    request_id: str
    arrival_s: float
    generation: Generation | None = None


@asynccontextmanager
async def calling(
    services: Services,
    context: grpc.aio.ServicerContext,
    method: str,
    request_id: str = "",
    needs: Scope = "infer",
) -> AsyncIterator[Call]:
    """Let a call in, and end it as what goes wrong says: refusals as they are, bugs as INTERNAL.
    Its generation is closed in every case."""
    start_s, status = time.monotonic(), 500
    name = request_id if _GOOD_ID.fullmatch(request_id) else uuid.uuid4().hex
    about.set(now := About(name))
    call: Call | None = None
    try:
        call = await _let_in(services, context, name, start_s, needs)
        yield call
        status = 200
    except (ApiError, EngineDeadError) as caught:
        error = caught if isinstance(caught, ApiError) else engine_gone(caught)
        status, now.error = error.status, error.code
        await abort(context, error)
    except (asyncio.CancelledError, GeneratorExit):
        status = CLIENT_CLOSED
        raise
    except Exception:
        logger.exception("the call %s failed", method)
        now.error = "internal"
        await abort(context, internal_error())
    finally:
        if call is not None:
            _end(call, is_served=status == 200)
        services.metrics.responded(f"/{SERVICE}/{method}", status, now.error)
        _log(method, status, time.monotonic() - start_s, now, call)


async def principal_of(
    services: Services, metadata: Mapping[str, str], needs: Scope = "infer"
) -> Principal:
    """Raises ``ApiError``: 401 without a good key, 403 where it is not for this."""
    if services.keyring.is_empty:
        if needs == "admin":  # this port is everybody's, and nobody here is known to be more
            raise ApiError(403, "this needs an admin key", code="insufficient_permissions")
        return nobody(services.config.server.limits)
    token, _ = shown_key(Headers(metadata))
    if not token:
        raise ApiError(401, "no API key was sent; send the metadata 'authorization: Bearer KEY'")
    try:
        principal = await services.keyring.check(token)
    except PermissionError as error:
        raise ApiError(401, str(error), code="invalid_api_key") from error
    if not principal.may(needs):
        raise ApiError(
            403,
            f"the API key {principal.name} lacks the scope {needs!r}",
            code="insufficient_permissions",
        )
    return principal


def metadata_of(pairs: object) -> dict[str, str]:
    """Text only: what is binary is for others."""
    found = {}
    for name, value in pairs or ():  # type: ignore[attr-defined]
        if isinstance(value, str):
            found[name.lower()] = value
    return found


async def _let_in(
    services: Services,
    context: grpc.aio.ServicerContext,
    request_id: str,
    arrival_s: float,
    needs: Scope,
) -> Call:
    metadata = metadata_of(context.invocation_metadata())
    principal = await principal_of(services, metadata, needs)
    ticket = services.limits.open(principal, counts=needs == "infer")
    return Call(principal, ticket, metadata, request_id, arrival_s)


def _end(call: Call, *, is_served: bool) -> None:
    if call.generation is not None:
        call.generation.close()
    call.ticket.close(is_served=is_served)


def _log(method: str, status: int, seconds: float, now: About, call: Call | None) -> None:
    record = Fields(
        request_id=now.request_id,
        method="gRPC",
        path=f"/{SERVICE}/{method}",
        status=status,
        ms=round(seconds * 1e3, 3),
    )
    if call is not None and call.principal.name:
        record["key"] = call.principal.name
    if now.error is not None:
        record["error"] = now.error
    if call is not None and call.generation is not None:
        record |= call.generation.log_fields()
    logger.info(record)
