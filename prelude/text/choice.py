"""Token events of one choice to the text its client sees: the one place where that happens.

The HTTP server and the Python API share it, so that streamed, unstreamed and local answers are
the same text with the same ends.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from prelude.text.detokenizer import make_detokenizer
from prelude.text.logprobs import LogprobEntry, logprob_entry
from prelude.text.stops import StopMatcher
from prelude.text.tokenizer import Tokenizer
from prelude.types.request import FinishReason, SamplingParams, TokenEvent


@dataclass(frozen=True, slots=True)
class TextDelta:
    """What one event adds to a choice.

    ``token_ids`` and ``logprobs`` are those whose text this delta releases or that print nothing.
    When a stop string was found, ``truncate_at`` is the number of output tokens the choice ends
    with: pass it to ``Stream.truncate`` if the event itself was not the last.
    """

    index: int
    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[LogprobEntry, ...] = ()
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    truncate_at: int | None = None


class ChoiceText:
    """Feed it every event of one choice, in order. ``prompt_ids`` is what the text continues, for
    tokenizers whose first word depends on it; a chat answer continues nothing. ``shown_ids`` are
    special tokens that are printed all the same.

    ``num_tokens`` counts output tokens up to the end of the choice, ``finish_reason`` is set
    once it has ended; later events are ignored.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        params: SamplingParams,
        prompt_ids: Sequence[int] = (),
        shown_ids: frozenset[int] = frozenset(),
    ) -> None:
        self.num_tokens = 0
        self.finish_reason: FinishReason | None = None
        self._tokenizer = tokenizer
        self._params = params
        self._detokenizer = make_detokenizer(
            tokenizer,
            skip_special_tokens=params.skip_special_tokens,
            prompt_ids=prompt_ids,
            shown_ids=shown_ids,
        )
        self._stops = StopMatcher(params.stop, params.include_stop_str_in_output)
        self._num_decoded = 0  # characters, printed or held back
        self._num_printed = 0
        self._pending: list[tuple[int, int, LogprobEntry | None]] = []  # (text offset, id, entry)

    def feed(self, event: TokenEvent) -> TextDelta:
        if self.finish_reason is not None:
            return TextDelta(event.index)
        end = self._end_token(event)
        printed: list[str] = []
        for n, token_id in enumerate(event.token_ids):
            entry = None
            if event.logprobs is not None:
                entry = logprob_entry(self._tokenizer, event.logprobs[n], self._num_decoded)
            self._pending.append((self._num_decoded, token_id, entry))
            self.num_tokens += 1
            is_end = n == len(event.token_ids) - 1 and token_id == end
            printed.append("" if is_end else self._print(self._detokenizer.feed([token_id])))
            if self._stops.match is not None:
                return self._matched(event, "".join(printed))
        if event.finish_reason is None:
            return self._delta(event, "".join(printed))
        printed.append(self._print(self._detokenizer.flush()))
        if self._stops.match is not None:
            return self._matched(event, "".join(printed))
        return self._finished(event, "".join(printed))

    def _end_token(self, event: TokenEvent) -> int | None:
        """The token that ended the choice, which is not part of its text."""
        if event.finish_reason != "stop" or not event.token_ids:
            return None
        last = event.token_ids[-1]
        ends = last == event.stop_reason or last in self._tokenizer.eos_ids
        return last if ends and not self._params.include_stop_str_in_output else None

    def _print(self, text: str) -> str:
        self._num_decoded += len(text)
        if self.num_tokens <= self._params.min_tokens:
            return text  # stop strings do not count yet
        return self._stops.feed(text)

    def _matched(self, event: TokenEvent, text: str) -> TextDelta:
        assert self._stops.match is not None
        self.finish_reason = "stop"
        return self._delta(
            event, text, stop_reason=self._stops.match.stop, truncate_at=self.num_tokens
        )

    def _finished(self, event: TokenEvent, text: str) -> TextDelta:
        text += self._stops.flush()
        self.finish_reason = event.finish_reason
        stop = event.stop_reason
        if stop in self._tokenizer.eos_ids and stop not in self._params.stop_token_ids:
            stop = None  # the text just ended
        return self._delta(event, text, stop_reason=stop)

    def _delta(
        self,
        event: TokenEvent,
        text: str,
        stop_reason: int | str | None = None,
        truncate_at: int | None = None,
    ) -> TextDelta:
        self._num_printed += len(text)
        token_ids, entries = self._release(everything=truncate_at is None and self.ended)
        return TextDelta(
            index=event.index,
            text=text,
            token_ids=token_ids,
            logprobs=entries,
            finish_reason=self.finish_reason,
            stop_reason=stop_reason,
            truncate_at=truncate_at,
        )

    @property
    def ended(self) -> bool:
        return self.finish_reason is not None

    def _release(self, everything: bool) -> tuple[tuple[int, ...], tuple[LogprobEntry, ...]]:
        """Tokens whose text has begun to be printed; tokens of a held-back or stripped stop
        string stay behind."""
        num = 0
        while num < len(self._pending):
            if not everything and self._pending[num][0] >= self._num_printed:
                break
            num += 1
        ready, self._pending = self._pending[:num], self._pending[num:]
        entries = tuple(entry for _, _, entry in ready if entry is not None)
        return tuple(token_id for _, token_id, _ in ready), entries
