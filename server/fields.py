"""Which request fields we know, and what becomes of those we do not honour.

Known and unsupported: refused, unless the value asks for nothing. Known and without effect on
the answer: accepted. Unknown: accepted, counted and warned about once, or refused when strict.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from prelude.server.bounds import DEFAULT_BOUNDS, BodyBounds, check_shape
from prelude.server.errors import ApiError, from_msgspec, invalid, unsupported

T = TypeVar("T", bound=msgspec.Struct)

logger = logging.getLogger(__name__)

_INLINE_BYTES = 64 * 1024  # well below a millisecond
_MAX_UNKNOWN = 64
_MAX_NAME = 64

# Fields that are for the caller's own books, or that state what we do anyway.
WITHOUT_EFFECT = frozenset(
    {
        "metadata",
        "parallel_tool_calls",
        "prompt_cache_key",
        "store",
    }
)

# Field: the values, besides null, that ask for nothing.
UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "bad_words": ([],),
    "best_of": (1,),
    "chat_template": (),
    "documents": ([],),
    "early_stopping": (False,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "input_audio": (),
    "kv_transfer_params": (),
    "length_penalty": (1,),
    "logits_processors": ([],),
    "modalities": ([], ["text"]),
    "prediction": (),
    "prompt_embeds": (),
    "suffix": ("",),
    "thinking_token_budget": (),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "use_beam_search": (False,),
    "verbosity": ("medium",),
    "web_search_options": (),
}


@dataclass(frozen=True, slots=True)
class FieldRules:
    """Of one API: fields without effect, and unsupported ones with their harmless values."""

    without_effect: Collection[str]
    unsupported: Mapping[str, tuple[Any, ...]]


GENERATION_FIELDS = FieldRules(WITHOUT_EFFECT, UNSUPPORTED)


class FieldChecker:
    """Decodes bodies. ``on_unknown`` is told the name of every unknown field, the first time
    with a warning; ``strict`` refuses such requests instead, ``bounds`` those that are too large
    in their parts."""

    def __init__(
        self,
        strict: bool,
        on_unknown: Callable[[str], None],
        bounds: BodyBounds = DEFAULT_BOUNDS,
    ) -> None:
        self._strict = strict
        self._bounds = bounds
        self._on_unknown = on_unknown
        self._warned: set[str] = set()
        self._thread = ThreadPoolExecutor(1, "bodies")

    async def read(self, body: bytes, kind: type[T], rules: FieldRules = GENERATION_FIELDS) -> T:
        """``decode``, of large bodies on a thread: one at a time, for they contend with the event
        loop, which must get its turn between any two steps of that."""
        if len(body) <= _INLINE_BYTES:
            return self.decode(body, kind, rules)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self.decode, body, kind, rules)

    def decode(self, body: bytes, kind: type[T], rules: FieldRules = GENERATION_FIELDS) -> T:
        """``body`` as a ``kind``, whose other fields are judged by ``rules``. Raises ``ApiError``
        naming the field at fault."""
        try:
            check_shape(body)
            raw = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
            self._bounds.check(raw)
            known = set(kind.__struct_fields__)
            others = {name: value for name, value in raw.items() if name not in known}
            self._check_others(others, rules)
            return msgspec.json.decode(_without(others, raw, body), type=kind)
        except msgspec.DecodeError as error:
            raise from_msgspec(error) from error
        except (UnicodeDecodeError, RecursionError) as error:
            raise ApiError(
                400, f"the body is not valid JSON: {error}", code="invalid_json"
            ) from error

    def _check_others(self, others: Mapping[str, msgspec.Raw], rules: FieldRules) -> None:
        for name in others:
            if name in rules.without_effect:
                continue
            harmless = rules.unsupported.get(name)
            if harmless is None:
                self._unknown(name)
            elif not _asks_for_nothing(msgspec.json.decode(others[name]), harmless):
                raise unsupported(name, _refusal(name, harmless))

    def _unknown(self, name: str) -> None:
        if self._strict:
            raise invalid(name, "unknown field", code="unknown_parameter")
        if name not in self._warned:
            if len(self._warned) >= _MAX_UNKNOWN or len(name) > _MAX_NAME:
                name = "other"  # clients choose these names: keep number and length bounded
            else:
                self._warned.add(name)
                logger.warning("ignoring the unknown request field %r", name)
        self._on_unknown(name)


def _without(
    others: Mapping[str, msgspec.Raw], fields: Mapping[str, msgspec.Raw], body: bytes
) -> bytes:
    """``body`` with those ``fields`` alone that are none of the ``others``, each once and as it was
    judged: the last of a name counts, as everywhere."""
    if len(body) <= _INLINE_BYTES:
        return body
    known = (b'"%b":%b' % (name.encode(), fields[name]) for name in fields if name not in others)
    return b"{%b}" % b",".join(known)


def _asks_for_nothing(value: Any, harmless: tuple[Any, ...]) -> bool:
    return value is None or _contains(harmless, value)


def _contains(values: Iterable[Any], value: Any) -> bool:
    return any(type(value) is type(one) and value == one for one in values) or (
        isinstance(value, float) and value in [one for one in values if isinstance(one, int)]
    )


def _refusal(name: str, harmless: tuple[Any, ...]) -> str:
    allowed = "".join(f" or {msgspec.json.encode(value).decode()}" for value in harmless)
    return f"not supported; leave it out{allowed and f', or send null{allowed}'}"
