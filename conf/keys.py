"""The keys of a schema as data: dotted name, type, default and the comment beside it in the source.

``--help``, the reference page and the "did you mean" of unknown keys are all made from this list,
so none of them can disagree with the schema.
"""

import difflib
import inspect
import re
import threading
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any

# What the override grammar reads as text without quotes: addresses, paths, names.
_PLAIN_TEXT = re.compile(
    r"\d+(\.\d+){3}|(?!(null|true|false|inf|nan)$)[a-z_/][\w./@%+:-]*", re.A | re.I
)
# inspect parses with ast, which fails now and then on several threads (Python 3.11, gh-106905).
_ONE_AT_A_TIME = threading.Lock()
_FIELD_LINE = re.compile(r"^    (\w+): .+?  # (.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Key:
    """One leaf. ``is_open`` marks a mapping that takes names of the user's own below it."""

    name: str
    kind: str
    default: Any
    help: str
    is_open: bool = False


def list_keys(schema: type, prefix: str = "", made: Any = None) -> Iterator[Key]:
    """The leaves of dataclass ``schema``, in the order of its fields, nested ones dotted. Defaults
    are those of ``made``, if there is one: what is nested may have others than its class says."""
    hints = typing.get_type_hints(schema)
    comments = field_comments(schema)
    for item in fields(schema):
        hint = hints[item.name]
        default = _default(item) if made is None else getattr(made, item.name)
        if is_dataclass(hint):
            assert isinstance(hint, type)
            yield from list_keys(hint, f"{prefix}{item.name}.", default)
        else:
            yield Key(
                name=f"{prefix}{item.name}",
                kind=describe_type(hint),
                default=default,
                help=comments.get(item.name, ""),
                is_open=typing.get_origin(hint) is dict,
            )


@cache
def field_comments(schema: type) -> Mapping[str, str]:
    """The comment on each field's line, for the fields of ``schema`` and of its bases."""
    found: dict[str, str] = {}
    with _ONE_AT_A_TIME:
        for cls in reversed(schema.__mro__[:-1]):
            found |= dict(_FIELD_LINE.findall(inspect.getsource(cls)))
    return found


def describe_type(hint: Any) -> str:
    """``int | None`` as "int or null", an enum as its names, and so on."""
    if hint is type(None):
        return "null"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return " | ".join(member.name for member in hint)
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe_type(arg) for arg in typing.get_args(hint))
    if origin is list:
        return f"list of {describe_type(typing.get_args(hint)[0])}"
    if origin is dict:
        return "mapping"
    return {float: "number", bool: "true | false"}.get(hint, getattr(hint, "__name__", str(hint)))


def show(value: Any) -> str:
    """A value as an override would write it."""
    if isinstance(value, Enum):
        return value.name
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(show, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{name}: {show(item)}' for name, item in value.items())}}}"
    text = str(value)
    is_plain = not isinstance(value, str) or _PLAIN_TEXT.fullmatch(text)
    return text if is_plain else f"'{_escape(text)}'"


def _escape(text: str) -> str:
    return re.sub(r"\\+(?=')|\\+$", lambda match: match[0] * 2, text).replace("'", "\\'")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``"; did you mean X?"`` for the name closest to ``name``, or nothing if none is close.

    A last part that exists elsewhere (``port`` for ``server.port``) counts as close, the least
    nested of several.
    """
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.7)
    if not close:
        leaf = name.rpartition(".")[2]
        close = [other for other in names if other.rpartition(".")[2] == leaf]
        depth = min((other.count(".") for other in close), default=0)
        close = [other for other in close if other.count(".") == depth]
    return f"; did you mean {close[0]}?" if len(close) == 1 else ""


def _default(item: "Field[Any]") -> Any:
    if item.default is not MISSING:
        return item.default
    assert item.default_factory is not MISSING
    return item.default_factory()
