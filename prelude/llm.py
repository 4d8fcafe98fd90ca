"""The Python face of the engine: prompts in, texts out, no server and no event loop."""

import itertools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prelude.conf.load import load_config
from prelude.engine.build import build_engine
from prelude.engine.progress import progress_bar
from prelude.models.sampling_defaults import SamplingDefaults
from prelude.models.tokenizer import load_tokenizer
from prelude.text.choice import ChoiceText
from prelude.text.logprobs import LogprobEntry
from prelude.types.errors import RequestError
from prelude.types.request import FinishReason, Request, SamplingParams, TokenEvent
from prelude.types.service import Hints

Prompt = str | Sequence[int] | Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Completion:
    """One finished choice of a prompt. ``logprobs`` has an entry per token where asked for."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    logprobs: tuple[LogprobEntry, ...] | None
    prompt_index: int
    index: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one step added to one choice while streaming; the last has a ``finish_reason``."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None
    logprobs: tuple[LogprobEntry, ...] | None
    prompt_index: int
    index: int


class LLM:
    """An engine in this process.

    ``model`` is a checkpoint folder or a bundled name ("demo"). Overrides take the keys of the
    configuration, dotted or nested: ``LLM("demo", **{"cache.num_blocks": 512})`` or
    ``LLM("demo", cache={"num_blocks": 512})``. Not thread-safe; the number of compute threads and
    the kernels are the process's, so the last one opened decides them. Raises ``ValueError`` for
    an unknown key, model or an impossible setting.
    """

    def __init__(self, model: str | Path = "demo", **overrides: Any) -> None:
        self.config = load_config({"model.path": str(model), **overrides})
        with progress_bar() as report:
            self._core, self.info = build_engine(self.config, report)
        self.tokenizer = load_tokenizer(self.config.model)
        folder = Path(self.info.model_path)
        self._defaults = SamplingDefaults.load(self.config.sampling, folder)
        self._uids = itertools.count()
        self._open: dict[int, _Open] = {}

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | None = None,
        hints: Hints | None = None,
    ) -> list[Completion]:
        """Complete all prompts together; ``n`` completions each, in the order of the prompts.

        A prompt is a string, a list of token ids or a list of chat messages. Without ``params``
        the configuration's and the checkpoint's defaults count. ``hints`` are the same for all;
        what cannot be served within their deadlines has ``finish_reason`` "error". Raises
        ``ValueError`` if one of the prompts can never be served.
        """
        parts: dict[tuple[int, int], list[Chunk]] = {}
        for chunk in self.stream(prompts, params, hints):
            parts.setdefault((chunk.prompt_index, chunk.index), []).append(chunk)
        return [_completion(parts[key]) for key in sorted(parts)]

    def stream(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | None = None,
        hints: Hints | None = None,
    ) -> Iterator[Chunk]:
        """Like ``generate``, chunk by chunk as the steps produce them. Leaving the loop early
        aborts what is unfinished; several streams may be open at once."""
        params = params or self._defaults.params()
        waiting = deque(self._prepare(_as_list(prompts), params, hints or Hints()))
        mine: dict[int, _Open] = {}
        try:
            while waiting or any(not prompt.done for prompt in mine.values()):
                while waiting and self._core.can_queue(params.n):
                    prompt = waiting.popleft()
                    mine[prompt.request.uid] = self._open[prompt.request.uid] = prompt
                    events = _refused(self._core.add(prompt.request))
                    if _is_full(events) and self._core.has_work:
                        del mine[prompt.request.uid], self._open[prompt.request.uid]
                        waiting.appendleft(prompt)
                        break
                    prompt.events.extend(events)
                yield from self._chunks(mine)
        finally:
            for uid in mine:
                self._core.abort(uid)
                del self._open[uid]

    def close(self) -> None:
        self._core.close()

    def _encode(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            return self.tokenizer.encode(prompt)
        if _is_chat(prompt):
            return self.tokenizer.encode_chat(prompt)  # type: ignore[arg-type]
        return [int(token) for token in prompt]  # type: ignore[arg-type]

    def _prepare(
        self, prompts: list[Prompt], params: SamplingParams, hints: Hints
    ) -> Iterator["_Open"]:
        for i, prompt in enumerate(prompts):
            prompt_ids = self._encode(prompt)
            uid = next(self._uids)
            request = Request(uid=uid, prompt_ids=prompt_ids, params=params, hints=hints)
            continued = () if _is_chat(prompt) else prompt_ids
            texts = [ChoiceText(self.tokenizer, params, continued) for _ in range(params.n)]
            yield _Open(i, request, texts)

    def _chunks(self, mine: Mapping[int, "_Open"]) -> Iterator[Chunk]:
        """One step, or what another stream's steps have produced for us meanwhile."""
        if not any(prompt.events for prompt in mine.values()):
            for event in self._core.step():
                if (prompt := self._open.get(event.uid)) is not None:
                    prompt.events.append(event)
        for prompt in list(mine.values()):
            while prompt.events:
                if (chunk := self._chunk(prompt, prompt.events.popleft())) is not None:
                    yield chunk

    def _chunk(self, prompt: "_Open", event: TokenEvent) -> Chunk | None:
        text = prompt.texts[event.index]
        if text.ended:
            return None
        _refused([event])
        delta = text.feed(event)
        if delta.truncate_at is not None:
            self._core.truncate(event.uid, event.index, delta.truncate_at)
        return Chunk(
            delta.text,
            delta.token_ids,
            delta.finish_reason,
            delta.logprobs or None,
            prompt.index,
            event.index,
        )


@dataclass(slots=True)
class _Open:
    """A prompt under way: the texts of its choices, and events that nobody has read yet."""

    index: int
    request: Request
    texts: list[ChoiceText]
    events: deque[TokenEvent] = field(default_factory=deque)

    @property
    def done(self) -> bool:
        return all(text.ended for text in self.texts)


def _is_chat(prompt: Prompt) -> bool:
    return bool(prompt) and isinstance(prompt[0], Mapping)


def _as_list(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """One prompt or many: a list of ints is one, a list of messages is one."""
    if isinstance(prompts, str) or (prompts and isinstance(prompts[0], int | Mapping)):
        return [prompts]  # type: ignore[list-item]
    return list(prompts)  # type: ignore[arg-type]


def _refused(events: list[TokenEvent]) -> list[TokenEvent]:
    """Those of requests that another time would have been served; the others are raised."""
    for event in events:
        if event.finish_reason == "error" and event.refusal is None:
            raise RequestError(event.error or "refused")
    return events


def _is_full(events: list[TokenEvent]) -> bool:
    """True if there will be room for it once others have gone."""
    return any(event.refusal is not None and event.refusal.is_full for event in events)


def _completion(chunks: list[Chunk]) -> Completion:
    last = chunks[-1]
    assert last.finish_reason is not None
    logprobs = None
    if any(chunk.logprobs is not None for chunk in chunks):
        logprobs = tuple(entry for chunk in chunks for entry in chunk.logprobs or ())
    return Completion(
        "".join(chunk.text for chunk in chunks),
        tuple(token for chunk in chunks for token in chunk.token_ids),
        last.finish_reason,
        logprobs,
        last.prompt_index,
        last.index,
    )
