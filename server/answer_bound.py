"""Whether an answer's form bounds its length, cheaply and on the safe side: what bounds it is
served as a short answer from the beginning."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from prelude.types.constraint import Constraint
from prelude.types.request import SamplingParams
from prelude.types.service import Hints

_MOST_CHARS = 1024  # a few hundred tokens
_MOST_NODES = 500  # of a schema that is looked at
_MOST_DEPTH = 16
_NUMBER_CHARS = 20
_FORMAT_CHARS = 40
_FORMATS = frozenset(("date", "date-time", "ipv4", "ipv6", "time", "uuid"))
_REPEATS = re.compile(r"[*+]|\{\d*,\}")  # where they are escaped, the answer is not called bounded
_COUNTS = re.compile(r"\{(?:\d+,)?(\d+)\}")
_UNIONS = ("anyOf", "oneOf", "allOf")


def bounded(hints: Hints, params: SamplingParams) -> Hints:
    """With what the answer's form says of its length; nothing where it reasons before."""
    constraint = params.constraint
    if constraint is None or constraint.after_reasoning or constraint.may_reason:
        return hints
    return msgspec.structs.replace(hints, is_bounded=is_bounded(constraint))


def is_bounded(constraint: Constraint) -> bool:
    """True only if no answer that meets it is long."""
    match constraint.kind:
        case "choice":
            choices = msgspec.json.decode(constraint.text, type=list[str])
            return max(map(len, choices)) <= _MOST_CHARS
        case "regex":
            return _regex_chars(constraint.text) <= _MOST_CHARS
        case "json_schema":
            schema = msgspec.json.decode(constraint.text)
            return _Sizes(schema).chars(schema) <= _MOST_CHARS
        case _:
            return False


def _regex_chars(text: str) -> float:
    """No fewer than the longest match has, for counts may be nested: all of them multiply."""
    if _REPEATS.search(text):
        return float("inf")
    chars = float(len(text))
    for count in _COUNTS.findall(text):
        chars *= max(float(count), 1.0)
    return chars


class _Sizes:
    """``chars`` is an upper bound of what a schema allows, infinite where it is none or not worth
    finding out."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._num_left = _MOST_NODES

    def chars(self, schema: Any, depth: int = 0) -> float:
        self._num_left -= 1
        if not isinstance(schema, Mapping) or self._num_left < 0 or depth > _MOST_DEPTH:
            return float("inf")
        if "const" in schema:
            return _length(schema["const"])
        if isinstance(schema.get("enum"), list):
            return max(map(_length, schema["enum"]), default=0.0)
        if "$ref" in schema:
            return self.chars(self._target(schema["$ref"]), depth + 1)
        for name in _UNIONS:
            if isinstance(schema.get(name), list) and "type" not in schema:
                return max((self.chars(part, depth + 1) for part in schema[name]), default=0.0)
        kinds = schema.get("type")
        kinds = kinds if isinstance(kinds, list) else [kinds]
        return max((self._typed(kind, schema, depth) for kind in kinds), default=0.0)

    def _typed(self, kind: Any, schema: Mapping[str, Any], depth: int) -> float:
        match kind:
            case "null" | "boolean" | "integer" | "number":
                return _NUMBER_CHARS
            case "string":
                return _string(schema)
            case "array":
                return self._array(schema, depth)
            case "object":
                return self._object(schema, depth)
        return float("inf")

    def _array(self, schema: Mapping[str, Any], depth: int) -> float:
        most = _count(schema, "maxItems")
        return 2 + most * (self.chars(schema.get("items"), depth + 1) + 2) if most else 2.0

    def _object(self, schema: Mapping[str, Any], depth: int) -> float:
        is_open = schema.get("additionalProperties") is not False or "patternProperties" in schema
        properties = schema.get("properties", {})
        if is_open or not isinstance(properties, Mapping):
            return float("inf")
        parts = (len(name) + 6 + self.chars(part, depth + 1) for name, part in properties.items())
        return 2 + sum(parts)

    def _target(self, ref: Any) -> Any:
        """What a reference within the schema points at."""
        found = self._root
        if not isinstance(ref, str) or not ref.startswith("#/"):
            return None
        for part in ref[2:].split("/"):
            found = found.get(part) if isinstance(found, Mapping) else None
        return found


def _string(schema: Mapping[str, Any]) -> float:
    if schema.get("format") in _FORMATS:
        return _FORMAT_CHARS
    pattern = schema.get("pattern")
    if isinstance(pattern, str) and pattern.startswith("^") and pattern.endswith("$"):
        return _regex_chars(pattern) + 2
    return 6 * _count(schema, "maxLength") + 2  # each may be a \u escape of six


def _count(schema: Mapping[str, Any], name: str) -> float:
    value = schema.get(name)
    try:
        return float(value) if isinstance(value, int | float) else float("inf")
    except OverflowError:  # integers of any length are JSON
        return float("inf")


def _length(value: Any) -> float:
    return float(len(msgspec.json.encode(value)))
