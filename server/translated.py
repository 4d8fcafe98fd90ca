"""A chat turn that answers a request of another API: errors name that API's own fields."""

import sys
from collections.abc import Mapping

from starlette.requests import Request

from prelude.server.answer_form import AnswerForm
from prelude.server.chat import ChatTurn, begin_chat
from prelude.server.errors import renamed
from prelude.server.generation import Generation
from prelude.server.hints import hints_of
from prelude.server.prompts import encode_chat
from prelude.server.protocol import ChatRequest
from prelude.server.sampling import sampling_params
from prelude.server.services import Services
from prelude.text.message import MessageDelta


async def count_prompt(services: Services, body: ChatRequest, names: Mapping[str, str]) -> int:
    """Tokens that the model reads before it answers ``body``. Raises ``ApiError``, also for what
    would be refused of the answer, but for its length."""
    services.check_model(body.model)
    with renamed(names):
        hints_of(body, {}, services.config.batcher.policy)
        sampling_params(body, services.defaults, sys.maxsize)
        ids = await encode_chat(services.tokenizer, body)
        form = AnswerForm.of(body, services.dialect, ids, reasons=body.effort != "none")
    return len(form.prompt_ids)


class TranslatedTurn:
    """``names`` are first segments of chat's fields with those that they came from."""

    def __init__(self, turn: ChatTurn, names: Mapping[str, str]) -> None:
        self._turn = turn
        self._names = names

    @classmethod
    async def begin(
        cls, request: Request, body: ChatRequest, arrival_s: float, names: Mapping[str, str]
    ) -> "TranslatedTurn":
        with renamed(names):
            return cls(await begin_chat(request, body, arrival_s), names)

    @property
    def generation(self) -> Generation:
        return self._turn.generation

    async def next(self) -> list[MessageDelta]:
        with renamed(self._names):
            return await self._turn.next()
