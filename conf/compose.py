"""Composition by Hydra's defaults list, without Hydra's application: YAML files are merged in
order into the typed schema, then the command line's values, and every leaf remembers its source.

Nothing global is touched (no ``GlobalHydra``, no ``ConfigStore``), so this works in any thread,
inside another Hydra application, and at any time. All of Hydra's unstable names that Prelude
uses are imported here.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra import version
from hydra._internal.config_repository import CachingConfigRepository, ConfigRepository
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.defaults_list import create_defaults_list
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from packaging.version import Version

from prelude.conf.command import Command
from prelude.conf.keys import Key, did_you_mean, list_keys

SCHEMA_SOURCE = "schema default"

_PLAIN_TYPES = {
    "could not be converted to Integer": "must be a whole number",
    "could not be converted to Float": "must be a number",
    "is not a valid bool (type str)": "must be true or false",
}


class ConfigError(ValueError):
    """The configuration is not usable; the message is one line that says what to do."""


@dataclass(frozen=True, slots=True)
class Composed:
    """The merged tree, still unresolved, and where each leaf's value came from."""

    tree: DictConfig
    origins: dict[str, str]


def parse_overrides(lines: Sequence[str]) -> list[Override]:
    """Hydra's override grammar. Raises ``ConfigError`` naming the one that cannot be read."""
    _settle_version_base()
    parser = OverridesParser.create()
    parsed = []
    for line in lines:
        try:
            parsed.append(parser.parse_override(line))
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(_unreadable(line)) from error
    return parsed


def compose(
    command: Command,
    lines: Sequence[str],
    values: Mapping[str, Any],
    config_dirs: Sequence[str | Path] = (),
) -> Composed:
    """Merge schema, YAML and overrides. ``lines`` are in Hydra's grammar; ``values`` are dotted
    keys with plain Python values, applied last. Folders in ``config_dirs`` may add options to
    the groups and take precedence over ours. Raises ``ConfigError``."""
    overrides = parse_overrides(lines)
    repo = _repository(config_dirs)
    chosen = [override for override in overrides if _is_choice(command, override)]
    assigned = [override for override in overrides if not _is_choice(command, override)]
    for override in chosen:
        _resolve_choice(command, repo, override)
    tree, origins = _merge_files(command, repo, chosen)
    keys = {key.name: key for key in list_keys(command.schema)}
    names = [*keys, *command.groups]
    for override in assigned:
        _apply(tree, override, keys, names, origins)
    for name, value in values.items():
        _assign(tree, name, value, keys, names)
        origins[name] = "argument"
    return Composed(tree, origins)


def leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and unresolved values; lists and empty mappings are leaves."""
    for name in tree:
        value = tree._get_node(name)
        if isinstance(value, DictConfig) and not value._is_none() and len(value):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _settle_version_base() -> None:
    """Outside any Hydra application, say which behaviour we want; inside one, leave its choice."""
    if not isinstance(version.getbase(), Version):
        version.setbase("1.3")


def _repository(config_dirs: Sequence[str | Path]) -> CachingConfigRepository:
    Plugins.instance()
    path = ConfigSearchPathImpl()
    for folder in config_dirs:
        if not Path(folder).is_dir():
            raise ConfigError(f"--config-dir {folder}: no such folder")
        path.append("user", f"file://{Path(folder).resolve()}")
    path.append("prelude", "pkg://prelude.conf")
    path.append("schema", "structured://")
    return CachingConfigRepository(ConfigRepository(path))


def _is_choice(command: Command, override: Override) -> bool:
    """Whether ``override`` picks an option of a group; ``server={port: 1}`` sets keys instead."""
    value = override._value
    return override.key_or_group in command.groups and not isinstance(value, dict)


def _resolve_choice(command: Command, repo: CachingConfigRepository, override: Override) -> None:
    """Check that the option exists, and give the group the name that Hydra knows."""
    if override.is_sweep_override():
        raise ConfigError(_sweep_message(override))
    value = None if override.package else override.value()
    group, _, package = command.groups[override.key_or_group].partition("@")
    options = repo.get_group_options(group, ObjectType.CONFIG)
    if value not in options or override.is_delete() or override.is_add():
        raise ConfigError(
            f"{override.input_line}: no such option{did_you_mean(str(value), options)}"
            f" (there are {', '.join(options)})"
        )
    override.key_or_group, override.package = group, package or None


def _merge_files(
    command: Command, repo: CachingConfigRepository, chosen: list[Override]
) -> tuple[DictConfig, dict[str, str]]:
    tree = OmegaConf.structured(command.schema)
    origins = {name: SCHEMA_SOURCE for name, _ in leaves(tree)}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Hydra's older version bases, in a host program
            defaults = create_defaults_list(
                repo, command.primary, chosen, prepend_hydra=False, skip_missing=False
            ).defaults
        for default in defaults:
            assert default.config_path is not None
            loaded = repo.load_config(default.config_path)
            assert loaded is not None
            part = _at_package(loaded.config, default.package)
            label = f"{default.config_path}.yaml"
            _merge(tree, part, label, command)
            origins |= {name: label for name, _ in leaves(part)}
    except HydraException as error:
        raise ConfigError(_one_line(error)) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{mark.name}:{mark.line + 1}" if mark else "--config-dir"
        raise ConfigError(f"{where}: not YAML: {error.problem}") from error
    return tree, origins


def _at_package(config: Any, package: str | None) -> DictConfig:
    config.pop("defaults", None)
    if not package:
        assert isinstance(config, DictConfig)
        return config
    part = OmegaConf.create()
    OmegaConf.update(part, package, config, merge=False)
    return part


def _merge(tree: DictConfig, part: DictConfig, label: str, command: Command) -> None:
    try:
        tree.merge_with(part)
    except (ConfigKeyError, ConfigAttributeError) as error:
        known = [key.name for key in list_keys(command.schema)]
        name = str(error.full_key)
        raise ConfigError(f"{label}: {name}: unknown key{did_you_mean(name, known)}") from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{label}: {error.full_key}: {_reason(error)}") from error


def _apply(
    tree: DictConfig,
    override: Override,
    keys: Mapping[str, Key],
    names: list[str],
    origins: dict[str, str],
) -> None:
    name = override.key_or_group
    if override.is_sweep_override():
        raise ConfigError(_sweep_message(override))
    if override.is_delete():
        _delete(tree, name, keys)
        for origin in [o for o in origins if f"{o}.".startswith(f"{name}.")]:
            del origins[origin]
        return
    _assign(tree, name, override.value(), keys, names)
    origins[name] = "command line"


def _assign(
    tree: DictConfig, name: str, value: Any, keys: Mapping[str, Key], names: list[str]
) -> None:
    is_open = _open_parent(name, keys) is not None
    is_branch = any(key.startswith(f"{name}.") for key in keys)
    if not is_open and name not in keys and not (is_branch and isinstance(value, dict)):
        if is_branch:
            raise ConfigError(f"{name}: a group of keys; set one of them, such as {name}.KEY=VALUE")
        raise ConfigError(f"{name}: unknown key{did_you_mean(name, names)}")
    try:
        _grow_records(tree, name)
        OmegaConf.update(tree, name, value, merge=True)
    except (ConfigKeyError, ConfigAttributeError) as error:
        full = str(error.full_key)
        raise ConfigError(f"{full}: unknown key{did_you_mean(full, names)}") from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{name}={value}: {_reason(error)}") from error


def _grow_records(tree: DictConfig, name: str) -> None:
    """A new entry of a mapping of records starts as a record of that type with its defaults."""
    parts = name.split(".")
    for depth in range(1, len(parts)):
        parent = OmegaConf.select(tree, ".".join(parts[:depth]))
        element = parent._metadata.element_type if isinstance(parent, DictConfig) else None
        if is_dataclass(element) and parts[depth] not in parent:
            parent[parts[depth]] = OmegaConf.structured(element)


def _delete(tree: DictConfig, name: str, keys: Mapping[str, Key]) -> None:
    parent, _, last = name.rpartition(".")
    node = OmegaConf.select(tree, parent) if _open_parent(name, keys) else None
    if node is None or last not in node:
        raise ConfigError(f"~{name}: only entries of a mapping can be removed")
    del node[last]


def _open_parent(name: str, keys: Mapping[str, Key]) -> str | None:
    parts = name.split(".")
    candidates = (".".join(parts[:end]) for end in range(1, len(parts)))
    return next((p for p in candidates if p in keys and keys[p].is_open), None)


def _sweep_message(override: Override) -> str:
    return (
        f"{override.input_line}: several values; only `prelude sweep` takes them."
        " Write a list as [a,b] and quote text that contains a comma"
    )


def _unreadable(line: str) -> str:
    if "=" not in line and not line.startswith("~"):
        return f"{line}: expected KEY=VALUE or GROUP=OPTION"
    key, _, value = line.partition("=")
    return f"{line}: cannot read the value; quote it, as in '{key}=\"{value}\"'"


def _reason(error: OmegaConfBaseException) -> str:
    """The first line of OmegaConf's message; what could not be converted, in plain words."""
    message = str(error.msg or error).splitlines()[0]
    for ending, plain in _PLAIN_TYPES.items():
        if message.endswith(ending):
            return plain
    return message


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
