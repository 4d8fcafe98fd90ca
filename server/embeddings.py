"""POST /v1/embeddings: prompts through the same queue, batches and prefix cache as everything else,
with a vector at their end instead of an answer."""

import math
import time
from array import array
from base64 import b64encode
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from prelude.models.pooling import check_pooling
from prelude.server.errors import ApiError, invalid, renamed
from prelude.server.extras import take_id
from prelude.server.fields import WITHOUT_EFFECT, FieldRules
from prelude.server.generation import Generation
from prelude.server.hints import hints_of
from prelude.server.principal import Principal
from prelude.server.prompts import check_fits, encode_texts, truncated
from prelude.server.protocol import EmbeddingRequest
from prelude.server.reply import respond_whole
from prelude.server.services import Services, read_body, services_of
from prelude.text.choice import TextDelta
from prelude.types.request import SamplingParams
from prelude.types.wire import EngineInfo

EMBED_ONCE = SamplingParams(max_tokens=1, temperature=0.0)
FIELDS = FieldRules(
    WITHOUT_EFFECT,
    {
        "embed_dtype": ("float32",),
        "endianness": ("native", "little"),
        "input_type": (),
        "messages": (),
        "task": (),
    },
)


async def embeddings(request: Request) -> Response:
    arrival_s = time.monotonic()
    services = services_of(request)
    body = await services.fields.read(await read_body(request), EmbeddingRequest, FIELDS)
    services.check_model(body.model)
    take_id(request, body)
    if body.dimensions is not None and body.dimensions < 1:
        raise invalid("dimensions", "must be at least 1")
    prompts = await prompts_of(services, body, request.state.principal)
    hints = hints_of(body, request.headers, services.config.batcher.policy)
    services.metrics.prepare_seconds.inc(time.monotonic() - arrival_s)
    generation = Generation(
        services,
        prompts,
        [EMBED_ONCE] * len(prompts),
        ticket=request.state.ticket,
        arrival_s=arrival_s,
        continues=True,
        cache_salt=body.cache_salt or "",
        hints=hints,
        embeds=True,
    )

    def answer(deltas: Sequence[Sequence[TextDelta]]) -> dict[str, Any]:
        head = {"id": f"embd-{request.state.request_id}", "model": services.model_name}
        return head | _body(body, generation)

    with renamed({"prompt": "input"}):
        return await respond_whole(request, generation, answer)


async def prompts_of(
    services: Services, body: EmbeddingRequest, principal: Principal
) -> list[list[int]]:
    """Token ids of every input. Raises ``ApiError``, also where the model pools in another way."""
    engine = services.engine()
    check_embeds(engine)
    limit, context = services.config.batcher.max_waiting, principal.context(engine.max_len)
    found = await encode_texts(services.tokenizer, body.input, "input", limit, body, context)
    prompts = [truncated(ids, body, context) for _, ids in found]
    for ids in prompts:
        check_fits(len(ids), context, "input")
    return prompts


def check_embeds(engine: EngineInfo) -> None:
    """Raises ``ApiError`` if the model's embeddings are not what they are here."""
    if (problem := _pooling_problem(Path(engine.model_path))) is not None:
        raise ApiError(400, problem, param="model", code="unsupported_model")


def vector_of(data: bytes, dimensions: int | None, *, normalize: bool) -> "array[float]":
    """A hidden state as an embedding: its first ``dimensions``, scaled to length 1. Raises
    ``ApiError`` if it has fewer."""
    values = array("f", data)
    if dimensions is not None and dimensions > len(values):
        raise invalid("dimensions", f"the model has {len(values)}; ask for no more")
    values = values[:dimensions]
    length = math.hypot(*values) if normalize else 1.0
    return array("f", [value / length for value in values]) if length else values


def _body(body: EmbeddingRequest, generation: Generation) -> dict[str, Any]:
    as_text = body.encoding_format == "base64"
    data = []
    for index, state in enumerate(generation.embeddings):
        vector = vector_of(state, body.dimensions, normalize=body.normalize is not False)
        shown = b64encode(vector.tobytes()).decode() if as_text else vector.tolist()
        data.append({"object": "embedding", "index": index, "embedding": shown})
    usage = generation.usage()
    return {
        "object": "list",
        "data": data,
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "total_tokens": usage.prompt_tokens,
            "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        },
    }


@lru_cache(maxsize=4)
def _pooling_problem(folder: Path) -> str | None:
    try:
        check_pooling(folder)
    except ValueError as error:
        return str(error)
    return None
