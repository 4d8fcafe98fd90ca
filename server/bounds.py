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
from prelude.server.nesting import Shape, is_deeper, num_openings, shape_of

MAX_DEPTH = 64
MAX_NODES = 65_536
_MAX_ITEMS = 1_500_000  # most of them token ids
_MAX_STRINGS = 400_000
_MAX_FIELDS = 1000
_SMALL_BYTES = 64 * 1024  # so small, it can only be too deep
_STOP_KIB = 16.0
_TOOLS_TO_SCHEMA = 16  # tools have one schema each, and few of them are long
_MESSAGES = ("messages", "input")
_STOPS = ("stop", "stop_sequences")
_NAMES = ("cache_salt", "model", "safety_identifier", "user")
_NAME_KIB = 4.0  # they are hashed, or quoted, on the event loop
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

    def check(self, fields: Mapping[str, msgspec.Raw]) -> None:
        """``fields`` are those of a body whose shape is good, not decoded yet."""
        if len(fields) > _MAX_FIELDS:
            message = f"the body has {len(fields)} fields, and may have {_MAX_FIELDS}"
            raise ApiError(400, message, code="too_many_fields")
        for name in _MESSAGES:
            _check_count(fields, name, self.max_messages)
        _check_count(fields, "tools", self.max_tools)
        _check_size(fields, "tools", self.max_schema_kib * _TOOLS_TO_SCHEMA)
        for name in _SCHEMAS:
            _check_size(fields, name, self.max_schema_kib)
        for name in _STOPS:
            _check_size(fields, name, _STOP_KIB)
        for name in _NAMES:
            _check_size(fields, name, _NAME_KIB)
        for name in _IDS:
            _check_size(fields, name, _IDS_KIB)


DEFAULT_BOUNDS = BodyBounds.of(LimitsConfig())


def check_shape(body: bytes) -> None:
    """Raises ``ApiError`` if reading ``body``, which is JSON or is not, could take long."""
    if len(body) <= _SMALL_BYTES and num_openings(body) <= MAX_DEPTH:
        return
    if (problem := problem_of(shape_of(body))) is not None:
        raise ApiError(400, f"the body {problem}", code="invalid_json")


def problem_of(shape: Shape) -> str | None:
    """What there is too much of, to be said of what has this shape."""
    for count, most, what in (
        (shape.num_nodes, MAX_NODES, "arrays and objects"),
        (shape.num_commas, _MAX_ITEMS, "values"),
        (shape.num_strings, _MAX_STRINGS, "strings"),
    ):
        if count > most:
            return f"has more than {most} {what}"
    if is_deeper(shape.brackets, MAX_DEPTH):
        return f"is nested more than {MAX_DEPTH} levels deep"
    return None


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
