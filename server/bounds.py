"""How large the parts of a request's body may be, looked at before anything is made of them.

Whatever a schema or a conversation costs later is bounded by its size here: templates are the
checkpoint's own, so what they take grows with the messages alone.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from prelude.conf.schema import LimitsConfig
from prelude.server.errors import ApiError, invalid
from prelude.server.nesting import brackets, is_deeper, num_openings

MAX_DEPTH = 64
_MAX_NODES = 200_000
_STOP_KIB = 16.0
_TOOLS_TO_SCHEMA = 16  # tools have one schema each, and few of them are long
_MESSAGES = ("messages", "input")
_STOPS = ("stop", "stop_sequences")
_IDS = ("allowed_token_ids", "logit_bias", "stop_token_ids")
_IDS_KIB = 2048.0  # all of the largest vocabularies
_OBJECTS = re.compile(rb"\[\s*\{")  # not the token ids that an input of embeddings may be
# In whichever words a client sends them.
_SCHEMAS = (
    "grammar",
    "guided_choice",
    "guided_grammar",
    "guided_json",
    "guided_regex",
    "json_schema",
    "output_config",
    "output_format",
    "regex",
    "response_format",
    "structured_outputs",
    "text",
)


@dataclass(frozen=True, slots=True)
class BodyBounds:
    """``check`` raises ``ApiError`` that names the field and says what it may be."""

    max_messages: int
    max_tools: int
    max_schema_kib: float

    @classmethod
    def of(cls, limits: LimitsConfig) -> "BodyBounds":
        return cls(limits.max_messages, limits.max_tools, limits.max_schema_kib)

    def check(self, body: bytes, fields: Mapping[str, msgspec.Raw]) -> None:
        """``fields`` are those of ``body``, which is valid JSON and not decoded yet."""
        _check_nesting(body)
        for name in _MESSAGES:
            _check_count(fields, name, self.max_messages)
        _check_count(fields, "tools", self.max_tools)
        _check_size(fields, "tools", self.max_schema_kib * _TOOLS_TO_SCHEMA)
        for name in _SCHEMAS:
            _check_size(fields, name, self.max_schema_kib)
        for name in _STOPS:
            _check_size(fields, name, _STOP_KIB)
        for name in _IDS:
            _check_size(fields, name, _IDS_KIB)


DEFAULT_BOUNDS = BodyBounds.of(LimitsConfig())


def _check_nesting(body: bytes) -> None:
    if num_openings(body) <= MAX_DEPTH:
        return
    nested = brackets(body)
    if len(nested) > 2 * _MAX_NODES:
        message = f"the body has more than {_MAX_NODES} arrays and objects"
        raise ApiError(400, message, code="invalid_json")
    if is_deeper(nested, MAX_DEPTH):
        message = f"the body is nested more than {MAX_DEPTH} levels deep"
        raise ApiError(400, message, code="invalid_json")


def _check_count(fields: Mapping[str, msgspec.Raw], name: str, most: int) -> None:
    raw = bytes(fields.get(name, b""))
    if len(raw) <= most or not _OBJECTS.match(raw):
        return
    count = len(msgspec.json.decode(raw, type=list[msgspec.Raw]))
    if count > most:
        raise invalid(name, f"has {count} items, and may have {most}", code="array_too_long")


def _check_size(fields: Mapping[str, msgspec.Raw], name: str, most_kib: float) -> None:
    size_kib = len(bytes(fields.get(name, b""))) / 1024
    if size_kib > most_kib:
        message = f"is {size_kib:.1f} KiB of JSON, and may be {most_kib:g} KiB"
        raise invalid(name, message, code="field_too_large")
