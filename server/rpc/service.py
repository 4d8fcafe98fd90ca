"""The methods of ``vllm.grpc.engine.VllmEngine`` that this engine has; the others answer
UNIMPLEMENTED by themselves."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import grpc
from smg_grpc_proto.generated import common_pb2 as common
from smg_grpc_proto.generated import vllm_engine_pb2 as pb

from prelude.server.embeddings import EMBED_ONCE, check_embeds, vector_of
from prelude.server.errors import ApiError
from prelude.server.generation import Generation
from prelude.server.hints import hints_of
from prelude.server.protocol import RequestFields
from prelude.server.rpc.artifacts import zipped_tokenizer
from prelude.server.rpc.calls import SERVICE, Call, calling
from prelude.server.rpc.facts import loads, model_info, server_info
from prelude.server.rpc.replies import Replies
from prelude.server.rpc.requests import embedding_of, generation_of
from prelude.server.services import Services
from prelude.server.tally import server_timing
from prelude.types.wire import ForgetPrefixes

_PIECE_BYTES = 2**20


class _Message(Protocol):
    """A generated class."""

    def FromString(self, data: bytes) -> Any: ...


def _codec(request: _Message) -> tuple[Callable[[bytes], Any], Callable[[Any], bytes]]:
    """Reads requests of this type and writes whatever is answered."""
    return request.FromString, lambda message: message.SerializeToString()


class Service:
    """Calls under way can be aborted by who made them, under the id they gave them."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._open: dict[tuple[str, str], Generation] = {}
        self._aborted: set[Generation] = set()

    async def generate(
        self, request: pb.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.GenerateResponse]:
        """What comes while a message is being sent travels in the next one."""
        services = self._services
        async with calling(services, context, "Generate", request.request_id) as call:
            asked = await generation_of(request, services, call.principal)
            generation = call.generation = Generation(
                services,
                [asked.prompt_ids],
                [asked.params],
                ticket=call.ticket,
                arrival_s=call.arrival_s,
                continues=True,
                hints=hints_of(asked.fields, call.metadata, services.config.batcher.policy),
            )
            key = self._enter(call, request.request_id, generation)
            try:
                async for message in self._messages(generation, stream=request.stream):
                    yield message
            finally:
                self._open.pop(key, None)
                self._aborted.discard(generation)
            timing = server_timing(generation.timings(), is_end=True)
            context.set_trailing_metadata((("server-timing", timing),))

    async def embed(
        self, request: pb.EmbedRequest, context: grpc.aio.ServicerContext
    ) -> pb.EmbedResponse:
        services = self._services
        async with calling(services, context, "Embed", request.request_id) as call:
            check_embeds(services.engine())
            ids = embedding_of(request, services, call.principal)
            generation = call.generation = Generation(
                services,
                [ids],
                [EMBED_ONCE],
                ticket=call.ticket,
                arrival_s=call.arrival_s,
                continues=True,
                hints=hints_of(RequestFields(), call.metadata, services.config.batcher.policy),
                embeds=True,
            )
            while await generation.next():
                pass
            vector = vector_of(generation.embeddings[0], None, normalize=True)
            return pb.EmbedResponse(
                embedding=vector, prompt_tokens=len(ids), embedding_dim=len(vector)
            )

    async def abort(
        self, request: pb.AbortRequest, context: grpc.aio.ServicerContext
    ) -> pb.AbortResponse:
        """Of one's own calls; ids that are not known are no error, for they may just have ended."""
        async with calling(self._services, context, "Abort") as call:
            for request_id in request.request_ids:
                generation = self._open.get((call.principal.name, request_id))
                if generation is not None:
                    self._aborted.add(generation)
                    generation.interrupt()
        return pb.AbortResponse()

    async def health_check(
        self, request: pb.HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> pb.HealthCheckResponse:
        try:
            self._services.engine()
        except ApiError as error:
            return pb.HealthCheckResponse(healthy=False, message=error.message)
        return pb.HealthCheckResponse(healthy=True, message="ready")

    async def flush_cache(
        self, request: common.FlushCacheRequest, context: grpc.aio.ServicerContext
    ) -> common.FlushCacheResponse:
        """Requests from now on find nothing cached; those that run are not touched."""
        async with calling(self._services, context, "FlushCache", needs="admin"):
            self._services.client.send(ForgetPrefixes())
        return common.FlushCacheResponse(success=True, message="reset")

    async def get_model_info(
        self, request: pb.GetModelInfoRequest, context: grpc.aio.ServicerContext
    ) -> pb.GetModelInfoResponse:
        async with calling(self._services, context, "GetModelInfo"):
            return model_info(self._services)

    async def get_server_info(
        self, request: pb.GetServerInfoRequest, context: grpc.aio.ServicerContext
    ) -> pb.GetServerInfoResponse:
        async with calling(self._services, context, "GetServerInfo"):
            return server_info(self._services)

    async def get_loads(
        self, request: pb.GetLoadsRequest, context: grpc.aio.ServicerContext
    ) -> pb.GetLoadsResponse:
        async with calling(self._services, context, "GetLoads"):
            return loads(self._services)

    async def get_tokenizer(
        self, request: common.GetTokenizerRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[common.GetTokenizerChunk]:
        """A zip of its files, in pieces."""
        async with calling(self._services, context, "GetTokenizer"):
            data = await asyncio.to_thread(zipped_tokenizer, self._services.config.model)
            for start in range(0, len(data), _PIECE_BYTES):
                piece = data[start : start + _PIECE_BYTES]
                is_last = start + _PIECE_BYTES >= len(data)
                digest = hashlib.sha256(data).hexdigest() if is_last else ""
                yield common.GetTokenizerChunk(data=piece, sha256=digest)

    def handler(self) -> grpc.GenericRpcHandler:
        """What a server is given."""
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        methods = {
            "Generate": stream(self.generate, *_codec(pb.GenerateRequest)),
            "Embed": unary(self.embed, *_codec(pb.EmbedRequest)),
            "Abort": unary(self.abort, *_codec(pb.AbortRequest)),
            "HealthCheck": unary(self.health_check, *_codec(pb.HealthCheckRequest)),
            "FlushCache": unary(self.flush_cache, *_codec(common.FlushCacheRequest)),
            "GetModelInfo": unary(self.get_model_info, *_codec(pb.GetModelInfoRequest)),
            "GetServerInfo": unary(self.get_server_info, *_codec(pb.GetServerInfoRequest)),
            "GetLoads": unary(self.get_loads, *_codec(pb.GetLoadsRequest)),
            "GetTokenizer": stream(self.get_tokenizer, *_codec(common.GetTokenizerRequest)),
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    def _enter(self, call: Call, request_id: str, generation: Generation) -> tuple[str, str]:
        key = (call.principal.name, request_id or call.request_id)
        if key in self._open:
            raise ApiError(
                409, f"request_id: {request_id} is under way", param="request_id", code="duplicate"
            )
        self._open[key] = generation
        return key

    async def _messages(
        self, generation: Generation, *, stream: bool
    ) -> AsyncIterator[pb.GenerateResponse]:
        replies = Replies(generation)
        unfinished = set(range(len(generation.choices)))
        try:
            while deltas := await generation.next():
                for delta in deltas:
                    replies.note(delta)
                    if stream and delta.token_ids:
                        yield replies.chunk(delta)
                    if delta.finish_reason is not None:
                        unfinished.discard(delta.index)
                        yield replies.complete(delta)
        except ApiError:
            if generation not in self._aborted:
                raise
            for index in sorted(unfinished):
                yield replies.ended(index, "abort")
