"""The points of a sweep: every one is composed and checked before the first of them runs."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prelude.conf.compose import ConfigError
from prelude.conf.load import config_digest, load
from prelude.sweep.grid import Assignment, Axis, axes, product
from prelude.sweep.targets import Target


@dataclass(frozen=True, slots=True)
class Point:
    """``swept`` are the values of what is swept; equal configurations have equal digests.
    ``overrides`` can be shown: keys to other people's servers are only in ``config``."""

    swept: tuple[Assignment, ...]
    overrides: tuple[str, ...]
    config: Any
    digest: str


@dataclass(frozen=True, slots=True)
class Space:
    """What can be run: overrides as axes, and what they are overrides of."""

    name: str
    target: Target
    axes: tuple[Axis, ...]
    config_dirs: tuple[str, ...] = ()

    @property
    def swept(self) -> tuple[Axis, ...]:
        return tuple(axis for axis in self.axes if axis.is_swept)

    def is_regime(self, key: str) -> bool:
        """Does the key say what came and on what it ran, rather than how it was served?"""
        return key != self.target.seed and key.lstrip("+~").startswith(self.target.regime)

    def is_setting(self, key: str) -> bool:
        return key != self.target.seed and not self.is_regime(key)

    def arguments(self, point: Point) -> list[str]:
        """The point as a command line."""
        folders = [str(Path(folder).resolve()) for folder in self.config_dirs]
        flags = [item for folder in folders for item in ("--config-dir", folder)]
        return [*flags, *point.overrides]

    def point(self, chosen: Iterable[Assignment]) -> Point:
        """Raises ``ConfigError`` or ``ValueError`` for a configuration that cannot run."""
        values = dict(chosen)
        lines = tuple(axis.line(values.get(axis.key, *axis.values[:1])) for axis in self.axes)
        schema = self.target.command.schema
        config: Any = load(self.target.command, schema, lines, config_dirs=self.config_dirs)
        self.target.check(config)
        swept = tuple((axis.key, values[axis.key]) for axis in self.swept)
        shown = tuple(map(without_secret, lines))
        return Point(swept, shown, config, config_digest(config))


def space_of(
    name: str, target: Target, lines: Sequence[str], config_dirs: Sequence[str] = ()
) -> Space:
    """Raises ``ConfigError`` for overrides that cannot be read, and for keys that a sweep sets."""
    found = axes(target.command, lines)
    for axis in found:
        if axis.key in target.own:
            raise ConfigError(f"{axis.key}: a sweep sets this itself for every point")
    return Space(name, target, tuple(found), tuple(config_dirs))


def grid(space: Space, max_points: int) -> list[Point]:
    """All combinations, checked. Raises ``ConfigError`` for more than ``max_points``, and for
    intervals, of which there is no end."""
    for axis in space.swept:
        if axis.bounds is not None:
            raise ConfigError(
                f"{axis.key}=interval(...): has no end of values; give A,B,C or range(a,b,step), "
                "or sweep.search=optuna"
            )
    num = 1
    for axis in space.swept:
        num *= len(axis.values)
    bounded(num, max_points)
    return list(_points(space))


def without_secret(line: str) -> str:
    """An override whose value nobody should read, without it."""
    name, equals, _ = line.partition("=")
    return f"{name}=..." if equals and name.rpartition(".")[2].lstrip("+") == "api_key" else line


def bounded(num: int, max_points: int) -> None:
    """Raises ``ConfigError`` for a sweep that is larger than wanted."""
    if num > max_points:
        raise ConfigError(f"{num} points in this sweep; sweep.max_points={max_points} is the most")


def _points(space: Space) -> Iterator[Point]:
    for chosen in product(space.swept):
        yield space.point(chosen)
