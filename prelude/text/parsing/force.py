"""Grammars that hold an answer to calls in a model's own format, in llguidance's dialect of Lark.

Each tool's schema is a grammar of its own, so that references within it stay valid. The text
around it is what models of that format write, to the space.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from prelude.text.parsing.formats import FORMATS, ToolFormat

Schemas = Mapping[str, Mapping[str, Any]]
TokenId = Callable[[str], int | None]

# Formats whose arguments are no JSON; models of these read and write another one as well.
_STAND_INS = {"pythonic": "json", "llama4_pythonic": "json", "qwen3_coder": "hermes"}
# Special tokens are no text, so this ends where one of them comes.
_TEXT = "/(?s:.*)/"
_LINE = "\n"
_WHITESPACE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def enforceable(form: ToolFormat) -> ToolFormat:
    """The format in which calls are enforced where the model's is ``form``."""
    return FORMATS[_STAND_INS.get(form.name, form.name)]


def forced_calls(
    form: ToolFormat, schemas: Schemas, token_id: TokenId, *, limit: int | None, is_strict: bool
) -> str:
    """At least one call, and nothing else. ``token_id`` knows the marks that are single tokens.
    ``is_strict`` refuses schemas with anything that cannot be enforced."""
    rules = _Rules(schemas, token_id, is_strict)
    several = limit != 1
    match form.name:
        case "hermes":
            rules.add("start", f"call{_more(_LINE, several)}")
            rules.add("call", _between(form, rules))
        case "mistral" if token_id("[ARGS]") is not None:
            rules.add("start", "call+" if several else "call")
            rules.add("call", f"{rules.mark(form.start)} ({rules.named(rules.mark('[ARGS]'))})")
        case "mistral":
            rules.add("start", f'{rules.mark(form.start)} "[" call{_more(", ", several)} "]"')
            rules.add("call", rules.objects("arguments"))
        case "llama3_json":
            rules.add("start", f"call{_more('; ', several)}")
            rules.add("call", rules.objects("parameters"))
        case _:
            rules.add("start", 'call | "[" call (", " call)* "]"' if several else "call")
            rules.add("call", rules.objects("arguments"))
    return rules.text()


def strict_calls(form: ToolFormat, schemas: Schemas, token_id: TokenId) -> str | None:
    """Any text, with calls that keep to their schemas; None where the format has no token by
    which a call could be told from text."""
    if form.name != "hermes" or token_id(form.start) is None:
        return None
    rules = _Rules(schemas, token_id, is_strict=True)
    rules.add("start", "TEXT (call TEXT)*")
    rules.add("TEXT", _TEXT)
    rules.add("call", _between(form, rules))
    return rules.text()


class _Rules:
    """A grammar as it is written: a rule for each schema, and others."""

    def __init__(self, schemas: Schemas, token_id: TokenId, is_strict: bool) -> None:
        self._names = list(schemas)
        self._token_id = token_id
        options = {**_WHITESPACE, "lenient": not is_strict}
        self._lines: list[str] = []
        self._schemas = [
            f"arguments_{n}: %json {_json({**_object(schema), 'x-guidance': options})}"
            for n, schema in enumerate(schemas.values())
        ]

    def add(self, name: str, rule: str) -> None:
        self._lines.append(f"{name}: {rule}")

    def text(self) -> str:
        return "\n".join([*self._lines, *self._schemas])

    def mark(self, text: str) -> str:
        """A token where there is one, else its characters."""
        token_id = self._token_id(text)
        return json.dumps(text) if token_id is None else f"<[{token_id}]>"

    def objects(self, key: str) -> str:
        """One of the tools, as a JSON object that has its arguments under ``key``."""
        heads = (f'{{"name": {json.dumps(name)}, "{key}": ' for name in self._names)
        return " | ".join(f'{json.dumps(head)} arguments_{n} "}}"' for n, head in enumerate(heads))

    def named(self, mark: str) -> str:
        """One of the tools, as a name, a mark and its arguments."""
        return " | ".join(
            f"{json.dumps(name)} {mark} arguments_{n}" for n, name in enumerate(self._names)
        )


def _between(form: ToolFormat, rules: _Rules) -> str:
    body = rules.objects("arguments")
    return f'{rules.mark(form.start)} "\\n" ({body}) "\\n" {rules.mark(form.end)}'


def _more(separator: str, several: bool) -> str:
    return f" ({json.dumps(separator)} call)*" if several else ""


def _json(schema: Mapping[str, Any]) -> str:
    """The sign that makes a grammar GBNF is written so that nobody takes it for one."""
    return json.dumps(schema).replace("::=", ":\\u003a=")


def _object(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """A schema without a type would allow arguments that are no object."""
    return schema if schema.get("type") == "object" else {**schema, "type": "object"}
