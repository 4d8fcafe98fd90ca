"""POST /v1/responses, its count of tokens, and what answers for responses that are not kept."""

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from prelude.server.errors import ApiError
from prelude.server.fields import FieldRules
from prelude.server.hints import tier_of
from prelude.server.prompts import off_loop, size_of
from prelude.server.protocol import ChatRequest
from prelude.server.reply import respond
from prelude.server.responses_input import chat_request
from prelude.server.responses_protocol import (
    RENAMED,
    UNSUPPORTED,
    WITHOUT_EFFECT,
    ResponsesRequest,
)
from prelude.server.responses_reply import ResponsesReply
from prelude.server.services import read_body, services_of
from prelude.server.translated import TranslatedTurn, count_prompt
from prelude.types.request import SamplingParams

FIELDS = FieldRules(WITHOUT_EFFECT, UNSUPPORTED)


def responses_routes() -> list[Route]:
    return [
        Route("/v1/responses", responses, methods=["POST"]),
        Route("/v1/responses/input_tokens", input_tokens, methods=["POST"]),
        Route("/v1/responses/{response}", not_kept, methods=["GET", "DELETE"]),
        Route("/v1/responses/{response}/cancel", not_kept, methods=["POST"]),
        Route("/v1/responses/{response}/input_items", not_kept, methods=["GET"]),
    ]


async def responses(request: Request) -> Response:
    arrival_s = time.monotonic()
    services = services_of(request)
    body = await services.fields.read(await read_body(request), ResponsesRequest, FIELDS)
    chat = await _chat_request(body)
    turn = await TranslatedTurn.begin(request, chat, arrival_s, RENAMED)
    suffix, generation = request.state.request_id, turn.generation
    head = _head(body, generation.params, suffix, services.model_name)
    head["service_tier"] = tier_of(chat, services.config.batcher.policy)
    reply = ResponsesReply(head, suffix, generation)
    return await respond(
        request, services, turn, reply, bool(body.stream), done=b"", on_error=reply.failed
    )


async def input_tokens(request: Request) -> Response:
    """How many tokens the prompt of a response would have."""
    services = services_of(request)
    body = await services.fields.read(await read_body(request), ResponsesRequest, FIELDS)
    num = await count_prompt(services, await _chat_request(body), RENAMED)
    return JSONResponse({"object": "response.input_tokens", "input_tokens": num})


async def _chat_request(body: ResponsesRequest) -> ChatRequest:
    return await off_loop(size_of(body.input), lambda: chat_request(body))


async def not_kept(request: Request) -> Response:
    """Whatever is asked of an earlier response."""
    raise ApiError(
        404,
        f"there is no response {request.path_params['response']!r}: responses are not stored here, "
        "their whole content is in the answer to the request that made them",
        param="response_id",
        code="response_not_found",
    )


def _head(
    body: ResponsesRequest, params: SamplingParams, suffix: str, model: str
) -> dict[str, Any]:
    """The response but for its outcome; settings are those that were used."""
    text, reasoning = body.text, body.reasoning
    return {
        "id": f"resp_{suffix}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "model": model,
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": None,
        "reasoning": {"effort": reasoning.effort if reasoning else None, "summary": None},
        "store": False,
        "temperature": params.temperature,
        "text": {"format": (text and text.format) or {"type": "text"}},
        "tool_choice": body.tool_choice or "auto",
        "tools": body.tools or [],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": params.top_p,
        "truncation": "disabled",
        "user": body.user,
        "metadata": body.metadata or {},
    }
