"""``echo``: the prompt as the beginning of its answers, with logprobs where they were asked."""

from collections.abc import Sequence

from prelude.server.generation import Generation
from prelude.server.legacy_logprobs import Row, prompt_rows
from prelude.text.tokenizer import Tokenizer
from prelude.types.request import SamplingParams, TokenLogprobs


class Echo:
    """``index`` is a choice's everywhere. ``rows`` is known once its first event is here."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompts: Sequence[tuple[str | None, list[int]]],
        generation: Generation,
        params: SamplingParams,
        as_ids: bool = False,
    ) -> None:
        self._tokenizer = tokenizer
        self._generation = generation
        self._params = params
        self._as_ids = as_ids
        self._ids = [ids for _, ids in prompts]
        self._texts = [
            text if text is not None else tokenizer.decode(ids, params.skip_special_tokens)
            for text, ids in prompts
        ]

    def text(self, index: int) -> str:
        return self._texts[index // self._params.n]

    def rows(self, index: int) -> list[Row]:
        count = self._params.logprobs
        if count is None:
            return []
        ids = self._ids[index // self._params.n]
        found = self._generation.prompt_logprobs(index) or [None] * len(ids)
        return prompt_rows(
            self._tokenizer,
            ids,
            [_cut(row, count) for row in found],
            self._as_ids,
            skip_special_tokens=self._params.skip_special_tokens,
        )


def _cut(row: TokenLogprobs | None, count: int) -> TokenLogprobs | None:
    """``prompt_logprobs`` may have asked for more alternatives than ``logprobs`` has."""
    if row is None or len(row.top_ids) <= count:
        return row
    return TokenLogprobs(row.token_id, row.logprob, row.top_ids[:count], row.top_logprobs[:count])
