"""POST /v1/chat/completions, and the turn of a conversation that other APIs are written over."""

import time
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response

from prelude.server.answer_bound import bounded
from prelude.server.answer_form import AnswerForm
from prelude.server.chat_reply import ChatReply
from prelude.server.extras import Extras, check_extras
from prelude.server.generation import Generation
from prelude.server.hints import hints_of, tier_of
from prelude.server.prompts import check_fits, encode_chat, truncated
from prelude.server.protocol import ChatRequest
from prelude.server.reply import Envelope, respond, wants_usage
from prelude.server.sampling import sampling_params
from prelude.server.services import read_body, services_of
from prelude.text.message import MessageDelta
from prelude.text.parsing.answer import AnswerParser, plain_delta


async def chat_completions(request: Request) -> Response:
    arrival_s = time.monotonic()
    services = services_of(request)
    body = await services.fields.read(await read_body(request), ChatRequest)
    include_usage = wants_usage(body)
    check_extras(request, body)
    turn = await begin_chat(request, body, arrival_s)
    envelope = Envelope.make(
        request, services, "chatcmpl", "chat.completion.chunk", "chat.completion"
    ).with_tier(tier_of(body, services.config.batcher.policy))
    extras = Extras.of(body, services.tokenizer, turn.generation)
    names = services.dialect.reasoning_fields
    reply = ChatReply(envelope, turn.generation, include_usage, extras, names)
    return await respond(request, services, turn, reply, bool(body.stream))


class ChatTurn:
    """An answer under way: ``next`` like ``Generation.next``, in parts of a message. Whoever
    begins one closes its ``generation``; ``respond`` does. ``parsers``, one a choice, tell the
    parts apart; without them all is content."""

    def __init__(self, generation: Generation, parsers: Sequence[AnswerParser] = ()) -> None:
        self.generation = generation
        self._parsers = parsers
        if parsers:
            generation.count_reasoning = self._num_reasoning_tokens

    @property
    def finished(self) -> bool:
        return self.generation.finished

    async def next(self) -> list[MessageDelta]:
        """What has arrived since the last call, in order; empty when all choices have ended.
        Raises ``ApiError`` when the engine refuses or fails the request."""
        deltas = await self.generation.next()
        if not self._parsers:
            return [plain_delta(delta) for delta in deltas]
        return [found for delta in deltas for found in self._parsers[delta.index].feed(delta)]

    def _num_reasoning_tokens(self) -> int:
        return sum(parser.num_reasoning_tokens for parser in self._parsers)


async def begin_chat(
    request: Request, body: ChatRequest, arrival_s: float | None = None
) -> ChatTurn:
    """Submit the conversation to the engine. ``arrival_s``, of the monotonic clock, is when the
    request came. Raises ``ApiError`` naming the field at fault."""
    arrival_s = time.monotonic() if arrival_s is None else arrival_s
    services = services_of(request)
    services.check_model(body.model)
    context = request.state.principal.context(services.engine().max_len)
    prompt_ids = truncated(await encode_chat(services.tokenizer, body, context), body, context)
    # Now that its texts are not too long: they are looked at on the event loop.
    hints = hints_of(body, request.headers, services.config.batcher.policy)
    form = AnswerForm.of(body, services.dialect, prompt_ids, reasons=hints.reasoning != "none")
    room = check_fits(len(form.prompt_ids), context, "messages")
    params = form.constrained(sampling_params(body, services.defaults, room))
    services.metrics.prepare_seconds.inc(time.monotonic() - arrival_s)
    generation = Generation(
        services,
        [form.prompt_ids],
        [params],
        ticket=request.state.ticket,
        arrival_s=arrival_s,
        continues=bool(body.continue_final_message),
        shown_ids=form.shown_ids,
        cache_salt=body.cache_salt or "",
        hints=bounded(hints, params),
    )
    return ChatTurn(generation, form.parsers(params.n))
