"""POST /v1/messages and /v1/messages/count_tokens, as Anthropic's clients call them."""

import time

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from prelude.server.anthropic_input import chat_request
from prelude.server.anthropic_protocol import (
    RENAMED,
    UNSUPPORTED,
    WITHOUT_EFFECT,
    CountTokensRequest,
    MessagesRequest,
)
from prelude.server.anthropic_reply import AnthropicReply
from prelude.server.fields import FieldRules
from prelude.server.prompts import off_loop, size_of
from prelude.server.protocol import ChatRequest
from prelude.server.reply import respond
from prelude.server.services import read_body, services_of
from prelude.server.translated import TranslatedTurn, count_prompt

FIELDS = FieldRules(WITHOUT_EFFECT, UNSUPPORTED)


def anthropic_routes() -> list[Route]:
    return [
        Route("/v1/messages", messages, methods=["POST"]),
        Route("/v1/messages/count_tokens", count_tokens, methods=["POST"]),
    ]


async def messages(request: Request) -> Response:
    arrival_s = time.monotonic()
    services = services_of(request)
    body = await services.fields.read(await read_body(request), MessagesRequest, FIELDS)
    chat = await _chat_request(body)
    turn = await TranslatedTurn.begin(request, chat, arrival_s, RENAMED)
    reply = AnthropicReply(
        f"msg_{request.state.request_id}", services.model_name, turn.generation, body.max_tokens
    )
    return await respond(
        request, services, turn, reply, bool(body.stream), done=b"", on_error=reply.failed
    )


async def count_tokens(request: Request) -> Response:
    """How many tokens the prompt of a message would have."""
    services = services_of(request)
    body = await services.fields.read(await read_body(request), CountTokensRequest, FIELDS)
    num = await count_prompt(services, await _chat_request(body), RENAMED)
    return JSONResponse({"input_tokens": num})


async def _chat_request(body: CountTokensRequest) -> ChatRequest:
    return await off_loop(size_of(body.messages), lambda: chat_request(body))
