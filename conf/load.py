"""The door of the configuration: overrides in, plain checked dataclasses out.

Everything below receives ``Config``; only this package knows Hydra and OmegaConf.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from prelude.conf.checks import check_config
from prelude.conf.command import ENGINE, Command
from prelude.conf.compose import SCHEMA_SOURCE, Composed, ConfigError, compose, leaves
from prelude.conf.keys import list_keys, show
from prelude.conf.schema import Config

__all__ = [
    "ENGINE",
    "Command",
    "ConfigError",
    "Value",
    "config_digest",
    "explain",
    "load",
    "load_config",
]

T = TypeVar("T")
Overrides = Sequence[str] | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Value:
    """One resolved leaf and its source: the schema, a YAML file, or the command line."""

    name: str
    text: str
    origin: str


def load_config(overrides: Overrides = (), *, config_dirs: Sequence[str | Path] = ()) -> Config:
    """The engine's configuration.

    ``overrides`` is either a sequence in Hydra's grammar (``["model=tiny", "server.port=9000"]``)
    or a mapping, dotted or nested, of plain values (``{"model.path": folder, "cache": {"prefix":
    False}}``; a group's name with a text picks its option, as in ``{"preset": "latency"}``).
    Raises ``ConfigError``, a ``ValueError``, with one line that says what to do.
    """
    return load(ENGINE, Config, overrides, config_dirs=config_dirs)


def load(
    command: Command,
    schema: type[T],
    overrides: Overrides = (),
    *,
    config_dirs: Sequence[str | Path] = (),
) -> T:
    """As ``load_config``, for a command with a schema of its own."""
    config = _to_object(_compose(command, overrides, config_dirs))
    assert isinstance(config, schema)
    return config


def explain(
    command: Command, overrides: Overrides = (), *, config_dirs: Sequence[str | Path] = ()
) -> list[Value]:
    """Every resolved leaf in the schema's order, with its source. Raises ``ConfigError``."""
    composed = _compose(command, overrides, config_dirs)
    _to_object(composed)
    OmegaConf.resolve(composed.tree)
    return [
        Value(name, _text(node), _origin(name, composed.origins))
        for name, node in leaves(composed.tree)
    ]


def config_digest(config: Any) -> str:
    """16 hexadecimal digits that are equal for equal configurations, in any process."""
    text = json.dumps(asdict(config), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _compose(command: Command, overrides: Overrides, config_dirs: Sequence[str | Path]) -> Composed:
    if isinstance(overrides, str):
        raise ConfigError(f"{overrides}: pass a list of overrides, as in ['{overrides}']")
    if not isinstance(overrides, Mapping):
        return compose(command, list(overrides), {}, config_dirs)
    lines, values = _split(command, overrides)
    return compose(command, lines, values, config_dirs)


def _split(command: Command, overrides: Mapping[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """Texts for whole groups become ``group=option`` lines, everything else dotted values."""
    keys = {key.name for key in list_keys(command.schema)}
    lines: list[str] = []
    values: dict[str, Any] = {}

    def visit(prefix: str, mapping: Mapping[str, Any]) -> None:
        for name, value in mapping.items():
            full = f"{prefix}{name}"
            is_branch = any(key.startswith(f"{full}.") for key in keys)
            if isinstance(value, Mapping) and is_branch:
                visit(f"{full}.", value)
            elif isinstance(value, str) and full in command.groups and full not in keys:
                lines.append(f"{full}={value}")
            else:
                values[full] = _plain(value)

    visit("", overrides)
    return lines, values


def _plain(value: Any) -> Any:
    """A Python value such that composition keeps it: texts are not read for ``${...}``."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str | Path) and not isinstance(value, Enum):
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", str(value))
    return value


def _to_object(composed: Composed) -> Any:
    try:
        config = OmegaConf.to_object(composed.tree)
    except OmegaConfBaseException as error:
        reason = str(error.msg or error).splitlines()[0]
        raise ConfigError(f"{error.full_key}: {reason}") from error
    if isinstance(config, Config):
        try:
            check_config(config)
        except ValueError as error:
            raise ConfigError(str(error)) from None
    return config


def _text(node: Any) -> str:
    value = node._value() if not OmegaConf.is_config(node) else OmegaConf.to_container(node)
    return show(value)


def _origin(name: str, origins: Mapping[str, str]) -> str:
    """The source of a leaf, or of the mapping it came in."""
    while name not in origins and "." in name:
        name = name.rpartition(".")[0]
    return origins.get(name, SCHEMA_SOURCE)
