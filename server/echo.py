"""``echo``: the prompt as the beginning of its answers, with logprobs where they were asked."""

from collections.abc import Sequence

from prelude.server.generation import Generation
from prelude.server.legacy_logprobs import Row, prompt_rows
from prelude.text.tokenizer import Tokenizer
from prelude.types.request import SamplingParams


class Echo:
    """``index`` is a choice's everywhere. ``rows`` is known once its first event is here."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompts: Sequence[tuple[str | None, list[int]]],
        generation: Generation,
        params: SamplingParams,
    ) -> None:
        self._tokenizer = tokenizer
        self._generation = generation
        self._params = params
        self._ids = [ids for _, ids in prompts]
        self._texts = [
            text if text is not None else tokenizer.decode(ids, params.skip_special_tokens)
            for text, ids in prompts
        ]

    def text(self, index: int) -> str:
        return self._texts[index // self._params.n]

    def rows(self, index: int) -> list[Row]:
        if self._params.prompt_logprobs is None:
            return []
        ids = self._ids[index // self._params.n]
        found = self._generation.prompt_logprobs(index)
        return prompt_rows(self._tokenizer, ids, found or [None] * len(ids))
