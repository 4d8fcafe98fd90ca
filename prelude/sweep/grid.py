"""Hydra's grammar of sweeps, as axes and their product."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files

from hydra.core.override_parser.types import Glob, IntervalSweep, Override

from prelude.conf.command import Command
from prelude.conf.compose import ConfigError, parse_overrides

Assignment = tuple[str, str]  # what is swept, and a value of it, as on the command line


@dataclass(frozen=True, slots=True)
class Axis:
    """One override: ``prefix`` is ``+``, ``++``, ``~`` or nothing. One that is not swept has one
    value; an interval has none, and bounds instead."""

    key: str
    prefix: str
    values: tuple[str, ...]
    is_swept: bool
    bounds: tuple[float, float] | None = None

    def line(self, value: str) -> str:
        """The override that sets ``value``."""
        return f"{self.prefix}{self.key}{value and '='}{value}"


def axes(command: Command, lines: Sequence[str]) -> list[Axis]:
    """One axis for each key; the last override of a key counts. ``glob(...)`` picks among the
    options of a group. Raises ``ConfigError``."""
    found = {}
    for override in parse_overrides(lines):
        axis = _axis(command, override)
        found[axis.key] = axis
    return list(found.values())


def product(chosen: Iterable[Axis]) -> Iterator[tuple[Assignment, ...]]:
    """Every combination of the values of ``chosen``, the last axis fastest."""
    pairs = [[(axis.key, value) for value in axis.values] for axis in chosen]
    return itertools.product(*pairs)


def _axis(command: Command, override: Override) -> Axis:
    prefix, key = _key(override)
    value = override.value()
    if isinstance(value, IntervalSweep):
        assert value.start is not None and value.end is not None
        return Axis(key, prefix, (), True, (value.start, value.end))
    if isinstance(value, Glob):
        values = tuple(value.filter(_options(command, key)))
    elif override.is_sweep_override():
        values = tuple(override.sweep_string_iterator())
    else:
        _, _, text = (override.input_line or "").partition("=")
        return Axis(key, prefix, (text,), False)
    if not values:
        raise ConfigError(f"{override.input_line}: no values to sweep over")
    return Axis(key, prefix, values, True)


def _key(override: Override) -> tuple[str, str]:
    element = override.get_key_element()
    key = element.lstrip("+~")
    return element[: len(element) - len(key)], key


def _options(command: Command, group: str) -> list[str]:
    if group not in command.groups:
        raise ConfigError(f"{group}=glob(...): only groups have options to choose among")
    folder = command.groups[group].partition("@")[0]
    names = (item.name for item in files("prelude.conf").joinpath(folder).iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))
