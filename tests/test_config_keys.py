"""The schema as data: types in words, comments as help, suggestions."""

import inspect
import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest

from prelude.conf import schema
from prelude.conf.command import BENCH_ENGINE, BENCH_PRICES, BENCH_SERVE, ENGINE
from prelude.conf.keys import (
    Key,
    describe_type,
    did_you_mean,
    field_comments,
    list_keys,
    show,
)
from prelude.conf.schema import Config

ROOT = Path(__file__).resolve().parent.parent


class Colour(StrEnum):
    red = "red"
    green = "green"


@dataclass(slots=True)
class Inner:
    """A branch."""

    size: int = 3  # how big; # is allowed in here
    tags: list[str] = field(default_factory=lambda: ["a"])  # several


@dataclass(slots=True)
class Outer:
    inner: Inner = field(default_factory=Inner)  # not a leaf
    colour: Colour = Colour.red  # which one
    ratio: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)  # anything


@dataclass(slots=True)
class Derived(Outer):
    more: bool = True  # of its own


def test_leaves_in_the_order_of_the_fields() -> None:
    assert list(list_keys(Outer)) == [
        Key("inner.size", "int", 3, "how big; # is allowed in here"),
        Key("inner.tags", "list of str", ["a"], "several"),
        Key("colour", "red | green", Colour.red, "which one"),
        Key("ratio", "number or null", None, ""),
        Key("extra", "mapping", {}, "anything", is_open=True),
    ]


def test_inherited_fields_keep_their_comments() -> None:
    assert list(list_keys(Derived))[:-1] == list(list_keys(Outer))
    assert list(list_keys(Derived))[-1] == Key("more", "true | false", True, "of its own")
    assert field_comments(Derived)["colour"] == "which one"


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int, "int"),
        (bool, "true | false"),
        (float | None, "number or null"),
        (Colour | None, "red | green or null"),
        (list[int], "list of int"),
        (dict[str, Any], "mapping"),
    ],
)
def test_types_in_words(hint: Any, words: str) -> None:
    assert describe_type(hint) == words


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (False, "false"),
        (0, "0"),
        (0.5, "0.5"),
        (Colour.green, "green"),
        ("demo", "demo"),
        ("127.0.0.1", "127.0.0.1"),
        ("/models/a-b", "/models/a-b"),
        ("1", "'1'"),
        ("null", "'null'"),
        ("True", "'True'"),
        ("", "''"),
        ("it's", "'it\\'s'"),
        ("ends\\", "'ends\\\\'"),
        ("a b", "'a b'"),
        ([1, "x", None], "[1,x,null]"),
        ({"a": True, "b": [1]}, "{a: true,b: [1]}"),
    ],
)
def test_values_as_overrides_write_them(value: Any, text: str) -> None:
    assert show(value) == text


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("server.prot", "; did you mean server.port?"),
        ("sever.port", "; did you mean server.port?"),
        ("port", "; did you mean server.port?"),
        ("wrong.port", "; did you mean server.port?"),
        ("modle", "; did you mean model?"),
        ("name", ""),  # two keys end so
        ("zzz", ""),
    ],
)
def test_did_you_mean(name: str, answer: str) -> None:
    known = ["server.port", "server.host", "model.name", "log.name", "model"]
    assert did_you_mean(name, known) == answer


@pytest.mark.parametrize("command", [ENGINE, BENCH_SERVE, BENCH_ENGINE, BENCH_PRICES])
def test_names_are_unique_and_dotted(command: Any) -> None:
    names = [key.name for key in list_keys(command.schema)]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9_.]+", name) for name in names)


def test_every_key_of_the_engine_is_explained() -> None:
    assert [key.name for key in list_keys(Config) if not key.help] == []


def test_every_part_of_the_schema_is_a_slots_dataclass_with_a_docstring() -> None:
    for name, cls in inspect.getmembers(schema, inspect.isclass):
        if name.endswith("Config"):
            assert "__slots__" in vars(cls), name
            assert cls.__doc__ and not cls.__doc__.startswith(f"{name}("), name


def test_the_reference_page_lists_every_key_with_its_default() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    for key in list_keys(Config):
        row = f"| `{key.name}` | {show(key.default)} | {key.kind.replace('|', '&#124;')} |"
        assert row in page, f"{row} is missing: run `make docs`"
