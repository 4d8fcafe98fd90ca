"""A search instead of a grid: Optuna proposes settings, and each is tried under all the swept
traffic and seeds.

Proposals are asked for and told of in one order, whatever finishes first, so that a search that is
continued in the same folder proposes what it did before and finds the outcomes there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from prelude.conf.compose import ConfigError
from prelude.conf.keys import list_keys
from prelude.conf.sweep import SweepOptions
from prelude.sweep.grid import Assignment, Axis, product
from prelude.sweep.measures import is_higher_better
from prelude.sweep.outcome import Outcome
from prelude.sweep.points import Point, Space, bounded

Gather = Callable[[Sequence[Point]], list[Outcome]]
Chosen = tuple[Assignment, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """``free`` is what is searched over, ``rest`` what every trial is run under."""

    space: Space
    options: SweepOptions
    free: tuple[Axis, ...]
    rest: tuple[Chosen, ...]

    def points(self, chosen: Chosen) -> list[Point]:
        """Of one trial."""
        return [self.space.point([*chosen, *others]) for others in self.rest]


def problem(space: Space, options: SweepOptions) -> Problem:
    """Raises ``ConfigError`` for a search that cannot be, before anything has run: without Optuna,
    objectives or settings, or with bounds that no configuration takes."""
    _optuna()
    if not options.objectives:
        raise ConfigError("sweep.objectives: what to search for, such as [chat.ttft_ms.p99]")
    free = tuple(axis for axis in space.swept if space.is_setting(axis.key))
    if not free:
        raise ConfigError("sweep.search=optuna: only traffic is swept, and no setting")
    places = [axis for axis in space.swept if not space.is_setting(axis.key)]
    for axis in places:
        if axis.bounds is not None:
            raise ConfigError(f"{axis.key}=interval(...): traffic and seeds are not searched over")
    found = Problem(space, options, free, tuple(product(places)))
    bounded(options.trials * len(found.rest), options.max_points)
    for axis in free:
        for value in axis.values or _edges(space, axis):
            first = [(other.key, _some(space, other)) for other in free if other is not axis]
            found.points(((axis.key, value), *first))
    return found


def search(found: Problem, at_once: int, gather: Gather) -> tuple[list[Point], list[Outcome]]:
    """The points of all trials, and their outcomes; ``at_once`` trials are proposed before any of
    them has run. Raises ``ConfigError`` for an objective that nothing measures."""
    optuna = _optuna()
    options = found.options
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=options.search_seed),
        directions=[
            "maximize" if is_higher_better(name) else "minimize" for name in options.objectives
        ],
    )
    spread = {axis.key: _distribution(optuna, found.space, axis) for axis in found.free}
    points: list[Point] = []
    outcomes: list[Outcome] = []
    while len(study.trials) < options.trials:
        num = min(at_once, options.trials - len(study.trials))
        trials = [study.ask(spread) for _ in range(num)]
        tried = [found.points(_chosen(trial.params)) for trial in trials]
        new = gather([point for group in tried for point in group])
        for trial, group in zip(trials, tried, strict=True):
            mine, new = new[: len(group)], new[len(group) :]
            values = objectives(mine, options.objectives)
            if values is None:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(trial, values)
            points += group
            outcomes += mine
    return _unique(points, outcomes)


def objectives(outcomes: Sequence[Outcome], names: Sequence[str]) -> list[float] | None:
    """Means over a trial's points; none if one of them failed."""
    if any(outcome.error for outcome in outcomes):
        return None
    known = [outcome.values() for outcome in outcomes]
    for name in names:
        if any(name not in values for values in known):
            raise ConfigError(
                f"sweep.objectives: no metric {name}; there are {', '.join(known[0])}"
            )
    return [float(np.mean([values[name] for values in known])) for name in names]


def after_search(
    options: SweepOptions, space: Space, points: Sequence[Point], outcomes: Sequence[Outcome]
) -> SweepOptions:
    """What the report puts on top where nobody said so: the objectives, and the setting with the
    best mean of the first of them."""
    tried: dict[Chosen, list[float]] = {}
    for point, outcome in zip(points, outcomes, strict=True):
        setting = tuple(pair for pair in point.swept if space.is_setting(pair[0]))
        value = outcome.values().get(options.objectives[0])
        if value is not None:
            tried.setdefault(setting, []).append(value)
    if not tried:
        return options
    choose = max if is_higher_better(options.objectives[0]) else min
    best = choose(tried, key=lambda setting: float(np.mean(tried[setting])))
    return replace(
        options,
        subject=options.subject or [f"{key}={value}" for key, value in best],
        headline=options.headline or list(options.objectives),
        pareto=options.pareto or (options.objectives if len(options.objectives) == 2 else []),
    )


def _unique(
    points: Sequence[Point], outcomes: Sequence[Outcome]
) -> tuple[list[Point], list[Outcome]]:
    """Without what was proposed twice."""
    pairs = {point.swept: (point, outcome) for point, outcome in zip(points, outcomes, strict=True)}
    return [point for point, _ in pairs.values()], [outcome for _, outcome in pairs.values()]


def _distribution(optuna: Any, space: Space, axis: Axis) -> Any:
    if axis.bounds is None:
        return optuna.distributions.CategoricalDistribution(axis.values)
    low, high = axis.bounds
    if _is_whole(space, axis):
        return optuna.distributions.IntDistribution(int(low), int(high))
    return optuna.distributions.FloatDistribution(low, high)


def _is_whole(space: Space, axis: Axis) -> bool:
    kinds = {key.name: key.kind for key in list_keys(space.target.command.schema)}
    return "int" in kinds.get(axis.key, "").split()


def _edges(space: Space, axis: Axis) -> list[str]:
    assert axis.bounds is not None
    return [_text(int(edge) if _is_whole(space, axis) else edge) for edge in axis.bounds]


def _some(space: Space, axis: Axis) -> str:
    return axis.values[0] if axis.values else _edges(space, axis)[0]


def _chosen(params: dict[str, Any]) -> Chosen:
    return tuple((key, _text(value)) for key, value in params.items())


def _text(value: str | int | float) -> str:
    """Four digits: what is proposed can be read, and typed."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise ConfigError(
            "sweep.search=optuna: needs Optuna; pip install 'prelude-llm[sweep]'"
        ) from None
    return optuna
