"""The outcomes of a sweep, arranged for comparison: settings (how requests were served) by regimes
(what came, on what) by seeds, and ratios of settings paired over seeds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from prelude.conf.compose import ConfigError
from prelude.conf.sweep import SweepOptions
from prelude.sweep.grid import Assignment
from prelude.sweep.measures import is_higher_better
from prelude.sweep.outcome import Outcome
from prelude.sweep.points import Point, Space

Values = tuple[Assignment, ...]

CONFIDENCE = 0.95
MAX_SHOWN = 12


class Gain(NamedTuple):
    """How many times better: over 1 is a win. The interval is null for a single seed."""

    factor: float
    low: float | None
    high: float | None

    @property
    def is_even(self) -> bool:
        """Could it be nothing?"""
        inside = self.low is not None and self.high is not None and self.low <= 1 <= self.high
        return inside or abs(self.factor - 1) < 0.005


class Estimate(NamedTuple):
    """The mean over seeds, and its 95 % bootstrap interval."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Run:
    """One point that succeeded, by what was swept."""

    setting: Values
    regime: Values
    seed: str
    outcome: Outcome
    values: dict[str, float]


class Study:
    """``settings``, ``regimes`` and ``seeds`` are in the order of the command line."""

    def __init__(
        self,
        space: Space,
        options: SweepOptions,
        points: Sequence[Point],
        outcomes: Sequence[Outcome],
    ) -> None:
        self._options = options
        parts = [_parts(space, point) for point in points]
        self.settings = list(dict.fromkeys(setting for setting, _, _ in parts))
        self.regimes = list(dict.fromkeys(regime for _, regime, _ in parts))
        held_out = set(map(str, options.held_out))
        seeds = list(dict.fromkeys(seed for _, _, seed in parts))
        self.seeds = [seed for seed in seeds if seed not in held_out]
        self.choosing = [seed for seed in seeds if seed in held_out] or self.seeds
        self.runs = [
            Run(*part, outcome, outcome.values())
            for part, outcome in zip(parts, outcomes, strict=True)
            if not outcome.error
        ]
        self._by_place = {(run.setting, run.regime, run.seed): run for run in self.runs}
        self.metrics = list(dict.fromkeys(name for run in self.runs for name in run.values))
        self.headline = self.known(options.headline) or _default_headline(
            self.metrics, self._kinds()
        )
        self.candidates = matching("baseline", options.baseline, self.settings, self.settings[:1])
        last = self.settings[-1:]
        self.subject = matching("subject", options.subject, self.settings, last)[0]
        self.shown = self._shown()

    def baseline(self, regime: Values) -> Values | None:
        """What to compare with here: of several candidates the one whose first headline metric
        is best in this regime, on the held-out seeds if there are any; if not, on those that it is
        compared on, which favours it. None where none succeeded."""
        if not self.headline:
            return None
        metric = self.headline[0]
        known = []
        for candidate in self.candidates:
            values = self.by_seed(candidate, regime, metric, self.choosing)
            if values:
                known.append((float(np.mean(list(values.values()))), candidate))
        if not known:
            return None
        choose = max if is_higher_better(metric) else min
        return choose(known, key=lambda pair: pair[0])[1]

    def by_seed(
        self, setting: Values, regime: Values, metric: str, seeds: Sequence[str] | None = None
    ) -> dict[str, float]:
        """The values of a metric that are there, for the seeds that count."""
        found = {}
        for seed in self.seeds if seeds is None else seeds:
            run = self._by_place.get((setting, regime, seed))
            if run is not None and metric in run.values:
                found[seed] = run.values[metric]
        return found

    def estimate(self, setting: Values, regime: Values, metric: str) -> Estimate | None:
        values = list(self.by_seed(setting, regime, metric).values())
        if not values:
            return None
        low, high = bootstrap(values, self._options.resamples)
        return Estimate(float(np.mean(values)), low, high)

    def gain(self, setting: Values, baseline: Values, regime: Values, metric: str) -> Gain | None:
        """The geometric mean over seeds of the paired ratios; seeds of which one side is missing,
        and metrics that are not positive, do not count."""
        mine, theirs = (self.by_seed(side, regime, metric) for side in (setting, baseline))
        pairs = [(mine[seed], theirs[seed]) for seed in mine if seed in theirs]
        logs = [float(np.log(other / own)) for own, other in pairs if own > 0 and other > 0]
        if not logs or len(logs) < len(pairs):
            return None
        if is_higher_better(metric):
            logs = [-value for value in logs]
        low, high = bootstrap(logs, self._options.resamples)
        factor = float(np.exp(np.mean(logs)))
        edges = [None if edge is None else float(np.exp(edge)) for edge in (low, high)]
        return Gain(factor, *edges)

    def curve(self, setting: Values, regime: Values, kind: str, metric: str) -> list[float] | None:
        """Values at ``measures.SHARES``: the mean over seeds of each quantile."""
        runs = [self._by_place.get((setting, regime, seed)) for seed in self.seeds]
        curves = [run.outcome.curves.get(kind, {}).get(metric) for run in runs if run is not None]
        known = [curve for curve in curves if curve]
        return [float(value) for value in np.mean(known, axis=0)] if known else None

    def known(self, names: Iterable[str]) -> list[str]:
        """The same names. Raises ``ConfigError`` for one that no point has."""
        for name in names:
            if self.runs and name not in self.metrics:
                raise ConfigError(f"{name}: no such metric; there are {', '.join(self.metrics)}")
        return list(names)

    def _kinds(self) -> list[str]:
        """Classes of traffic, or what else measures are of; the one with most requests first."""
        kinds = dict.fromkeys(name.split(".")[0] for name in self.metrics)
        num = {kind: sum(r.values.get(f"{kind}.num_sent", 0) for r in self.runs) for kind in kinds}
        classes = [kind for kind in kinds if kind not in ("total", "run", "generator")]
        return sorted(classes, key=lambda kind: -num[kind])

    def _shown(self) -> list[Values]:
        """All settings, or so many that a table and a plot can hold: a baseline, the subject, and
        those with the best first headline metric over all regimes."""
        if len(self.settings) <= MAX_SHOWN or not self.headline:
            return self.settings[:MAX_SHOWN]
        name = self.headline[0]
        sign = -1.0 if is_higher_better(name) else 1.0

        def rank(setting: Values) -> tuple[bool, float]:
            found = [self.estimate(setting, regime, name) for regime in self.regimes]
            known = [estimate.mean for estimate in found if estimate is not None]
            is_wanted = setting in (self.candidates[0], self.subject)
            return not is_wanted, sign * float(np.mean(known)) if known else np.inf

        best = set(sorted(self.settings, key=rank)[:MAX_SHOWN])
        return [setting for setting in self.settings if setting in best]


def matching(
    option: str, lines: Sequence[str], settings: Sequence[Values], otherwise: list[Values]
) -> list[Values]:
    """The settings that have all the values that ``lines`` say. Raises ``ConfigError``."""
    if not lines:
        return otherwise
    pairs = [line.partition("=") for line in lines]
    wanted = {(key.strip(), value.strip()) for key, _, value in pairs}
    found = [setting for setting in settings if wanted <= set(setting)]
    if not found:
        raise ConfigError(f"sweep.{option}: no swept setting has {' and '.join(lines)}")
    return found


def check_choices(space: Space, options: SweepOptions, points: Sequence[Point]) -> None:
    """Raises ``ConfigError`` for a baseline, a subject or a seed that no point has."""
    parts = [_parts(space, point) for point in points]
    settings, seeds = [setting for setting, _, _ in parts], {seed for _, _, seed in parts}
    held_out = set(map(str, options.held_out))
    if not held_out <= seeds or (held_out and held_out == seeds):
        raise ConfigError("sweep.held_out: must be some, and not all, of the swept seeds")
    matching("baseline", options.baseline, settings, [])
    matching("subject", options.subject, settings, [])


def bootstrap(values: Sequence[float], resamples: int) -> tuple[float | None, float | None]:
    """The 95 % interval of the mean; none for a single value."""
    if len(values) < 2 or resamples == 0:
        return None, None
    draws = np.random.default_rng(0).integers(len(values), size=(resamples, len(values)))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.asarray(values)[draws].mean(axis=1), [tail, 1 - tail])
    return float(low), float(high)


def undominated(pairs: Sequence[tuple[float, float]]) -> list[int]:
    """Which of these have no other that is at least as good in both and better in one; lower is
    better here."""
    return [
        index
        for index, (x, y) in enumerate(pairs)
        if not any(a <= x and b <= y and (a, b) != (x, y) for a, b in pairs)
    ]


def _parts(space: Space, point: Point) -> tuple[Values, Values, str]:
    setting = tuple(pair for pair in point.swept if space.is_setting(pair[0]))
    regime = tuple(pair for pair in point.swept if space.is_regime(pair[0]))
    return setting, regime, dict(point.swept).get(space.target.seed, "")


def _default_headline(metrics: Sequence[str], classes: Sequence[str]) -> list[str]:
    """What a reader asks first: is the first class fast, what do the others pay, is it less in
    all?"""
    wanted = ["all.median", "all.p90"]
    for kind in classes[:1]:
        wanted += [f"{kind}.ttft_ms.p99", f"{kind}.ttft_ms.p50", f"{kind}.itl_ms.p99"]
    for kind in classes[1:]:
        wanted += [f"{kind}.ttft_ms.p99", f"{kind}.e2e_ms.mean"]
    wanted += ["total.output_tok_s", "total.attainment"]
    wanted += [f"{kind}.step_ms.p50" for kind in classes[:8]]
    known = set(metrics)
    return [name for name in wanted if name in known]
