"""The gRPC server: its port, its doors, its health, and how it ends."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import SERVICE_NAME as HEALTH
from grpc_health.v1.health import aio as health
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

from prelude.conf.schema import ServerConfig
from prelude.server.errors import ApiError
from prelude.server.rpc.calls import SERVICE, metadata_of, principal_of
from prelude.server.rpc.service import Service
from prelude.server.rpc.status import status_of
from prelude.server.services import Services

logger = logging.getLogger(__name__)

_HEALTH_S = 0.25  # how late health may learn of an engine's end
_END_S = 1.0  # for calls to be told, once their work has ended; who watches health never leaves
_MAX_MESSAGE_BYTES = 4 * 2**20  # gRPC's own default: messages are read on the event loop
_REFLECTION = "/grpc.reflection."
_State = health_pb2.HealthCheckResponse.ServingStatus


class GrpcServer:
    """Start it in the loop that the HTTP server runs in; ``stop`` when that has drained. ``port``
    is known once it has started."""

    def __init__(self, services: Services) -> None:
        self.port = 0
        self._services = services
        self._health = health.HealthServicer()
        self._task: asyncio.Task[None] | None = None
        config = services.config.server
        self._server = grpc.aio.server(
            interceptors=[_ReflectionGuard(services)],
            options=[
                (
                    "grpc.max_receive_message_length",
                    min(int(config.max_body_mib * 2**20), _MAX_MESSAGE_BYTES),
                ),
                ("grpc.so_reuseport", 0),
            ],
            maximum_concurrent_rpcs=config.limits.max_connections,
        )
        self._server.add_generic_rpc_handlers((Service(services).handler(),))
        add_HealthServicer_to_server(self._health, self._server)
        names = (SERVICE, HEALTH, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    async def start(self) -> None:
        """Raises ``OSError`` if the port is taken."""
        config = self._services.config.server
        self.port = _bind(self._server, config)
        await self._server.start()
        self._task = asyncio.create_task(self._keep_health())
        logger.info("gRPC is at %s:%d", config.host, self.port)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._health.enter_graceful_shutdown()
        await self._server.stop(_END_S)

    async def _keep_health(self) -> None:
        """Of the whole server and of its one service: they serve while the engine does."""
        told = None
        while True:
            state = _State.SERVING if self._serves() else _State.NOT_SERVING
            if state != told:
                for name in ("", SERVICE):
                    await self._health.set(name, state)
                told = state
            await asyncio.sleep(_HEALTH_S)

    def _serves(self) -> bool:
        try:
            self._services.engine()
        except ApiError:
            return False
        return True


class _ReflectionGuard(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc is untyped
    """What the service has is told to those only who may use it; its own methods ask by
    themselves, and health is for everybody."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        handler = await continuation(details)
        if not details.method.startswith(_REFLECTION) or handler is None:
            return handler
        try:
            await principal_of(self._services, metadata_of(details.invocation_metadata))
        except ApiError as error:
            return _refusing(error)
        return handler


def _refusing(error: ApiError) -> grpc.RpcMethodHandler:
    async def refuse(requests: object, context: grpc.aio.ServicerContext) -> None:
        await context.abort_with_status(rpc_status.to_status(status_of(error)))

    return grpc.stream_stream_rpc_method_handler(refuse)


def _bind(server: grpc.aio.Server, config: ServerConfig) -> int:
    address = f"[{config.host}]" if ":" in config.host else config.host
    address = f"{address}:{config.grpc.port}"
    try:
        if config.tls.cert is None or config.tls.key is None:
            return int(server.add_insecure_port(address))
        pair = (Path(config.tls.key).read_bytes(), Path(config.tls.cert).read_bytes())
        return int(server.add_secure_port(address, grpc.ssl_server_credentials([pair])))
    except RuntimeError as error:
        raise OSError(f"server.grpc.port={config.grpc.port}: cannot listen at {address}") from error
