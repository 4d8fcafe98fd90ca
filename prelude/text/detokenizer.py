"""Token ids to text as they come, never splitting a character.

For byte-level BPE a token is its bytes, so decoding is a table and an incremental UTF-8 decoder.
Other tokenizers decode with context (a leading space is dropped, a run of raw bytes stands or
falls together), so a window of ids is decoded again and only what is new is printed. The
library's own ``DecodeStream`` is not used: it raises on invalid runs of raw bytes.
"""

import codecs
from collections.abc import Sequence
from typing import Protocol

from prelude.text.tokenizer import Tokenizer

_REPLACEMENT = "\ufffd"
_PRIMING_TOKENS = 8


class Detokenizer(Protocol):
    """The deltas of ``feed`` and the rest from ``flush`` join to ``decode`` of all the ids."""

    def feed(self, token_ids: Sequence[int]) -> str: ...
    def flush(self) -> str: ...


def make_detokenizer(
    tokenizer: Tokenizer,
    *,
    skip_special_tokens: bool = True,
    prompt_ids: Sequence[int] = (),
    shown_ids: frozenset[int] = frozenset(),
) -> Detokenizer:
    """A fresh decoder for one text. ``prompt_ids`` is what the text continues: with them a
    SentencePiece tokenizer keeps the space between the prompt and the first word. ``shown_ids``
    are special tokens that are not skipped."""
    skipped = tokenizer.vocabulary.special_ids if skip_special_tokens else frozenset[int]()
    if not skipped.isdisjoint(shown_ids):
        skipped -= shown_ids
    if tokenizer.vocabulary.byte_level:
        return _ByteDetokenizer(tokenizer, skipped)
    return _WindowDetokenizer(tokenizer, skipped, prompt_ids)


class _ByteDetokenizer:
    def __init__(self, tokenizer: Tokenizer, skipped: frozenset[int]) -> None:
        self._bytes_of = tokenizer.vocabulary.known_bytes
        self._skip = skipped
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token_ids: Sequence[int]) -> str:
        return self._decoder.decode(
            b"".join(self._bytes_of(i) for i in token_ids if i not in self._skip)
        )

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)


class _WindowDetokenizer:
    """``_window[:_printed]`` is context that has been printed, the rest is yet to be."""

    def __init__(
        self, tokenizer: Tokenizer, skipped: frozenset[int], prompt_ids: Sequence[int]
    ) -> None:
        self._tokenizer = tokenizer
        self._skip = skipped
        self._window = self._kept(prompt_ids[-_PRIMING_TOKENS:])
        self._printed = len(self._window)
        self._printed_text = self._decode(self._window)

    def feed(self, token_ids: Sequence[int]) -> str:
        # one by one, so that what is printed does not depend on how tokens were grouped
        return "".join(self._advance(i) for i in self._kept(token_ids))

    def flush(self) -> str:
        return self._print(self._decode(self._window))

    def _advance(self, token_id: int) -> str:
        self._window.append(token_id)
        if token_id in self._tokenizer.vocabulary.byte_run_ids:
            return ""  # one bad byte turns the whole run into U+FFFD, so wait for its end
        text = self._decode(self._window)
        if text.endswith(_REPLACEMENT):
            return ""
        return self._print(text)

    def _print(self, text: str) -> str:
        new = text[len(self._printed_text) :]
        if new:
            self._window = self._window[self._printed :]
            self._printed = len(self._window)
            self._printed_text = self._decode(self._window)
        return new

    def _kept(self, token_ids: Sequence[int]) -> list[int]:
        known = self._tokenizer.vocabulary
        return [i for i in token_ids if i in known and i not in self._skip]

    def _decode(self, token_ids: Sequence[int]) -> str:
        return self._tokenizer.decode(token_ids, skip_special_tokens=False)
