"""What a client asks of an answer's form, in whichever words, as a ``Constraint``."""

from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec

from prelude.server.errors import invalid, unsupported
from prelude.server.protocol import GenerationFields
from prelude.types.constraint import Constraint, ConstraintKind
from prelude.types.request import SamplingParams

T = TypeVar("T", bound=msgspec.Struct)

_TEXTS: dict[str, ConstraintKind] = {
    "regex": "regex",
    "guided_regex": "regex",
    "grammar": "lark",
    "guided_grammar": "lark",
}
_OPTIONS = ("disable_any_whitespace", "disable_fallback")  # of structured_outputs
_LENIENT = {"lenient": True, "coerce_one_of": True}


class JsonSchemaFormat(msgspec.Struct, frozen=True, rename={"schema_": "schema"}):
    """OpenAI's ``json_schema``. Its name and its description are for the model's maker."""

    schema_: dict[str, Any] | bool | None = None
    strict: bool | None = None


class StructuredOutputs(msgspec.Struct, frozen=True):
    """vLLM's words for all kinds."""

    json: dict[str, Any] | bool | str | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    disable_any_whitespace: bool | None = None


def constraint_of(fields: GenerationFields) -> Constraint | None:
    """Raises ``ApiError`` naming the field that is wrong, or one too many."""
    found = list(_constraints(fields))
    if len(found) > 1:
        raise invalid(found[1].field, f"cannot be combined with {found[0].field}")
    return found[0] if found else None


def reasoned(params: SamplingParams, is_open: bool | None) -> SamplingParams:
    """For a model that reasons first: the constraint is its answer's. ``is_open`` says whether it
    has begun already; None: it does not."""
    if params.constraint is None or is_open is None:
        return params
    constraint = msgspec.structs.replace(
        params.constraint, after_reasoning=is_open, may_reason=not is_open
    )
    return msgspec.structs.replace(params, constraint=constraint)


def _constraints(fields: GenerationFields) -> Iterator[Constraint]:
    if fields.response_format is not None:
        yield from _response_format(fields.response_format)
    if fields.structured_outputs is not None:
        yield _structured_outputs(fields.structured_outputs)
    for name in ("json_schema", "guided_json"):
        if (schema := getattr(fields, name)) is not None:
            yield _schema(name, schema)
    for name, kind in _TEXTS.items():
        if (text := getattr(fields, name)) is not None:
            yield Constraint(kind, text, field=name)
    if fields.guided_choice is not None:
        yield _choice("guided_choice", fields.guided_choice)


def _response_format(value: dict[str, Any]) -> Iterator[Constraint]:
    name = "response_format"
    match value.get("type"):
        case "text":
            return
        case "json_object":
            schema = value.get("schema")
            yield Constraint("json", field=name) if schema is None else _schema(name, schema)
        case "json_schema":
            path = f"{name}.json_schema"
            form = _convert(value.get("json_schema"), JsonSchemaFormat, path)
            if form.schema_ is None:
                raise invalid(f"{path}.schema", "is required", code="missing_required_parameter")
            yield _schema(name, form.schema_, is_strict=bool(form.strict))
        case _:
            raise invalid(f"{name}.type", "must be text, json_object or json_schema")


def _structured_outputs(value: dict[str, Any]) -> Constraint:
    name = "structured_outputs"
    known = {*StructuredOutputs.__struct_fields__, *_OPTIONS}
    for key in value:
        if key not in known and value[key]:
            raise unsupported(f"{name}.{key}", f"not supported; known are {', '.join(known)}")
    form = _convert(value, StructuredOutputs, name)
    found: list[Constraint] = []
    if form.json is not None:
        options = {"whitespace_flexible": False} if form.disable_any_whitespace else {}
        found.append(_schema(name, form.json, **options))
    if form.regex is not None:
        found.append(Constraint("regex", form.regex, field=name))
    if form.choice is not None:
        found.append(_choice(name, form.choice))
    if form.grammar is not None:
        found.append(Constraint("lark", form.grammar, field=name))
    if form.json_object:
        found.append(Constraint("json", field=name))
    if len(found) != 1:
        raise invalid(name, "needs one of json, regex, choice, grammar and json_object")
    return found[0]


def _schema(
    name: str, schema: dict[str, Any] | bool | str, *, is_strict: bool = True, **options: bool
) -> Constraint:
    """A schema, or its text. One that is not strict may say things that cannot be enforced."""
    if isinstance(schema, str):
        try:
            schema = msgspec.json.decode(schema, type=dict[str, Any] | bool)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise invalid(name, f"is not a JSON schema: {error}") from error
    if isinstance(schema, bool):
        schema = {} if schema else {"enum": []}
    if not is_strict:
        options |= _LENIENT
    own = schema.get("x-guidance")
    if options and not isinstance(own, dict | None):
        raise invalid(name, "x-guidance must be an object")
    merged = {**schema, "x-guidance": {**options, **(own or {})}} if options else schema
    return Constraint("json_schema", _text(name, merged), field=name)


def _choice(name: str, choices: list[str]) -> Constraint:
    if not choices:
        raise invalid(name, "must be at least one string")
    return Constraint("choice", _text(name, choices), field=name)


def _text(name: str, value: object) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except (UnicodeError, RecursionError) as error:
        raise invalid(name, f"cannot be written as JSON: {error}") from error


def _convert(value: object, kind: type[T], path: str) -> T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise invalid(path, str(error).replace("`", ""), code="invalid_type") from error
