"""Prompts of a given length, drawn before the run from one seed. Prompts never repeat by chance
(unless a file is shorter than the run), so that a prefix cache helps only where a workload says so.
"""

import string
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import msgspec

from prelude.conf.bench import LengthKind, Lengths, PromptSource, TrafficClass

# One token each in the tokenizers of Qwen, Llama 3 and GPT-2, alone and concatenated.
UNITS = tuple(f" {letter}" for letter in string.ascii_lowercase) + tuple(
    " hello| world| foo| bar| baz| yes| no| maybe".split("|")
)
ALPHABET = string.ascii_letters + string.digits + " .,!?;:-"

Content = str | list[int] | list[dict[str, Any]]


class Prompt(msgspec.Struct, frozen=True):
    """A text, token ids, or chat messages; ``max_tokens`` where the prompt's source knows it."""

    content: Content
    prefix: str | list[int] | None = None
    max_tokens: int | None = None


class FileLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of a prompt file."""

    prompt: str | list[int] | None = None
    messages: list[dict[str, Any]] | None = None
    max_tokens: int | None = None


class TraceLine(FileLine, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One line of a trace: ``arrival`` in seconds from its start. Without prompt and messages,
    ``prompt_len`` draws a prompt of that length from the class's source."""

    arrival: float
    prompt_len: int | None = None
    kind: str | None = msgspec.field(default=None, name="class")


Line = TypeVar("Line", bound=FileLine)


def draw_length(lengths: Lengths, rng: Random) -> int:
    """One length. Raises ``ValueError`` for a distribution that makes no sense."""
    if not 1 <= lengths.low <= lengths.high or lengths.value < 1 or lengths.sigma < 0:
        raise ValueError(
            "lengths: need 1 <= low <= high, value >= 1 and sigma >= 0, not "
            f"low={lengths.low} high={lengths.high} value={lengths.value} sigma={lengths.sigma}"
        )
    match lengths.kind:
        case LengthKind.fixed:
            return lengths.value
        case LengthKind.uniform:
            return rng.randint(lengths.low, lengths.high)
        case LengthKind.lognormal:
            drawn = round(lengths.value * rng.lognormvariate(0.0, lengths.sigma))
            return min(max(drawn, lengths.low), lengths.high)


class PromptStream:
    """Prompts of one traffic class, one after another. Raises ``ValueError`` naming the class."""

    def __init__(self, name: str, traffic: TrafficClass, rng: Random) -> None:
        self._name = name
        self._traffic = traffic
        self._rng = rng
        self._lines: Iterator[FileLine] | None = None
        self._check()
        if traffic.source is PromptSource.file:
            self._lines = cycle(read_lines(Path(traffic.path or ""), FileLine))
        self._prefixes = [self._text(traffic.prefix_len) for _ in range(traffic.num_prefixes)]
        self._count = 0

    def next(self, length: int | None = None) -> Prompt:
        """The next prompt; ``length`` overrides the class's distribution."""
        if self._lines is not None and length is None:
            line = next(self._lines)
            return Prompt(content=content_of(line), max_tokens=line.max_tokens)
        drawn = draw_length(self._traffic.prompt, self._rng) if length is None else length
        prefix = self._prefixes[self._count % len(self._prefixes)] or None
        self._count += 1
        return Prompt(content=self._text(drawn), prefix=prefix)

    def _text(self, length: int) -> str | list[int]:
        rng = self._rng
        match self._traffic.source:
            case PromptSource.chars:
                return "".join(rng.choices(ALPHABET, k=length))
            case PromptSource.ids:
                assert self._traffic.vocab_size is not None
                return [rng.randrange(self._traffic.vocab_size) for _ in range(length)]
            case PromptSource.words | PromptSource.file:
                return "".join(rng.choices(UNITS, k=length))

    def _check(self) -> None:
        traffic, where = self._traffic, f"classes.{self._name}"
        is_file = traffic.source is PromptSource.file
        if is_file != (traffic.path is not None):
            raise ValueError(f"{where}.path: needed with source=file, and only there")
        if (traffic.source is PromptSource.ids) != (traffic.vocab_size is not None):
            raise ValueError(f"{where}.vocab_size: needed with source=ids, and only there")
        if traffic.vocab_size is not None and traffic.vocab_size < 1:
            raise ValueError(f"{where}.vocab_size: must be at least 1")
        if traffic.prefix_len < 0 or traffic.num_prefixes < 1 or (is_file and traffic.prefix_len):
            raise ValueError(
                f"{where}.prefix_len: at least 0, num_prefixes at least 1, none with source=file"
            )


def content_of(line: FileLine) -> Content:
    """The prompt of a line that has one."""
    content = line.messages if line.prompt is None else line.prompt
    if not content or (line.prompt is not None and line.messages is not None):
        raise ValueError("a line needs either a prompt or messages, and not an empty one")
    return content


def read_lines(path: Path, kind: type[Line]) -> list[Line]:
    """The lines of a JSON lines file, blank ones left out. Raises ``ValueError`` with the number
    of the line that does not fit."""
    decoder = msgspec.json.Decoder(kind)
    lines = []
    for number, text in enumerate(path.read_bytes().splitlines(), start=1):
        if not text.strip():
            continue
        try:
            lines.append(decoder.decode(text))
        except msgspec.MsgspecError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
    if not lines:
        raise ValueError(f"{path}: has no lines")
    return lines
