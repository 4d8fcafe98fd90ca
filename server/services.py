"""What every route needs, handed over in one piece."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from starlette.requests import Request

from prelude.client.client import EngineClient
from prelude.conf.schema import Config
from prelude.models.sampling_defaults import SamplingDefaults
from prelude.server.dialect import Dialect
from prelude.server.errors import ApiError, engine_gone, retry_later
from prelude.server.fields import FieldChecker
from prelude.server.keys import Keyring
from prelude.server.lifecycle import Lifecycle
from prelude.server.limits import Limits
from prelude.server.live import Live
from prelude.server.metrics import Metrics
from prelude.server.resume import Keeper
from prelude.server.tracing import Tracer
from prelude.text.tokenizer import Tokenizer
from prelude.types.wire import EngineInfo


@dataclass(frozen=True)
class Services:
    client: EngineClient
    tokenizer: Tokenizer
    config: Config
    metrics: Metrics
    lifecycle: Lifecycle
    live: Live
    fields: FieldChecker
    keyring: Keyring
    limits: Limits
    keeper: Keeper
    model_name: str
    created_s: int
    tracer: Tracer | None = None

    @cached_property
    def dialect(self) -> Dialect:
        """How the model writes tool calls and reasoning."""
        return Dialect.of(self.tokenizer, self.config.server)

    @cached_property
    def defaults(self) -> SamplingDefaults:
        """Only once the engine is ready: it knows where the checkpoint is."""
        return SamplingDefaults.load(self.config.sampling, Path(self.engine().model_path))

    def engine(self) -> EngineInfo:
        """The engine, or the ``ApiError`` that says why there is none now."""
        client = self.client
        if client.error is not None:
            raise engine_gone(client.error)
        if self.lifecycle.draining:
            raise retry_later("the server is shutting down", "shutdown")
        if client.info is None:
            progress, death = client.progress, client.last_death
            code = "starting" if death is None else "engine_restarted"
            after = "" if death is None else f" after it ended ({death.message})"
            raise retry_later(
                f"the engine is starting{after}: {progress.phase}, {progress.fraction:.0%}",
                code,
                retry_s=client.retry_s,
            )
        return client.info

    def check_model(self, name: str | None) -> None:
        if name is not None and name != self.model_name:
            raise ApiError(
                404,
                f"the model {name!r} does not exist here; this server has {self.model_name!r}",
                param="model",
                code="model_not_found",
            )


def services_of(request: Request) -> Services:
    found = request.app.state.services
    assert isinstance(found, Services)
    return found


async def read_body(request: Request) -> bytes:
    """The whole body, or a 413 before reading more than is allowed; 415 for a compressed one, whose
    size nobody knows before it is unpacked."""
    if (coding := request.headers.get("content-encoding", "identity")).lower() != "identity":
        raise ApiError(
            415,
            f"Content-Encoding: {coding} is not read; send the body as it is",
            code="unsupported_encoding",
        )
    limit_mib = services_of(request).config.server.max_body_mib
    limit = int(limit_mib * 2**20)
    size, pieces = 0, []
    async for piece in request.stream():
        size += len(piece)
        if size > limit:
            raise ApiError(
                413, f"the body is larger than {limit_mib:g} MiB", code="request_too_large"
            )
        pieces.append(piece)
    return b"".join(pieces)
