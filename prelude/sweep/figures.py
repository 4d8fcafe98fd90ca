"""The report's figures: distributions, metrics over a swept load, and the Pareto front."""

import math
from collections.abc import Iterator, Sequence

from prelude.sweep import svg
from prelude.sweep.measures import SHARES, is_higher_better, metric_of
from prelude.sweep.study import Study, Values, undominated
from prelude.sweep.svg import Series
from prelude.sweep.words import amount, labels, metric_name

MAX_PANELS = 24
_SHOWN = {"ttft_ms": "TTFT", "e2e_ms": "end to end"}
_NINES = [(0.0, "min"), (0.5, "p50"), (0.9, "p90"), (0.99, "p99"), (0.999, "p99.9")]


def colours(study: Study) -> dict[Values, int]:
    """The baseline is 0, the subject 1, the others follow in their order."""
    first = [study.candidates[0], study.subject]
    order = dict.fromkeys([*first, *study.shown, *study.settings])
    is_own_baseline = study.candidates[0] == study.subject
    return {
        setting: number if number == 0 or not is_own_baseline else number + 1
        for number, setting in enumerate(order)
    }


def distributions(study: Study, regime: Values) -> Iterator[str]:
    """Percentiles of TTFT and end-to-end time, a panel for each class; the closer to 1, the more
    room a percentile gets."""
    kinds = dict.fromkeys(name.split(".")[0] for name in study.headline)
    for metric, label in _SHOWN.items():
        for kind in kinds:
            drawn = list(_curves(study, regime, kind, metric))
            if drawn:
                yield svg.plot(
                    f"{kind}: {label}",
                    drawn,
                    x_label="percentile of requests",
                    y_label="ms, logarithmic",
                    x_ticks=[(_depth(share), text) for share, text in _NINES],
                    log_y=True,
                )


def _curves(study: Study, regime: Values, kind: str, metric: str) -> Iterator[Series]:
    names, colour = labels(study.settings), colours(study)
    for setting in _back_to_front(study):
        curve = study.curve(setting, regime, kind, metric)
        if curve is not None:
            yield Series(names[setting], colour[setting], [_depth(s) for s in SHARES], curve)


def _depth(share: float) -> float:
    """Decades of what is left; half of one for the part up to the median."""
    return share if share <= 0.5 else 0.5 - math.log10(2 * (1 - share))


def over_loads(study: Study) -> list[str]:
    """Headline metrics over the one numeric key of the regimes, where there is one."""
    panels = []
    for group, key in _groups(study):
        for name in study.headline if key and len(group) > 1 else ():
            xs = {regime: float(dict(regime)[key]) for regime in group}
            drawn = list(_over(study, name, xs))
            if drawn:
                place = _without(group[0], key)
                panels.append(
                    svg.plot(
                        metric_name(name) + (f" ({place})" if place else ""),
                        drawn,
                        x_label=key,
                        y_label="ms, logarithmic" if metric_of(name).endswith("_ms") else "",
                        log_y=metric_of(name).endswith(("_ms", "slowdown")),
                    )
                )
    return panels[:MAX_PANELS]


def _over(study: Study, name: str, xs: dict[Values, float]) -> Iterator[Series]:
    names, colour = labels(study.settings), colours(study)
    for setting in _back_to_front(study):
        found = [(x, study.estimate(setting, regime, name)) for regime, x in xs.items()]
        known = sorted((x, estimate) for x, estimate in found if estimate is not None)
        if known:
            yield Series(
                names[setting],
                colour[setting],
                [x for x, _ in known],
                [estimate.mean for _, estimate in known],
                has_dots=True,
                errors=[(estimate.low, estimate.high) for _, estimate in known],
                notes=[f"{names[setting]}: {amount(e.mean, name)}" for _, e in known],
            )


def pareto(study: Study, names: Sequence[str]) -> list[str]:
    """``names[0]`` against ``names[1]``, a panel for each group of comparable regimes; points that
    nothing beats in both have a ring."""
    panels = []
    for group, key in _groups(study):
        drawn = list(_front(study, names, group, key))
        if drawn:
            place = _without(group[0], key)
            panels.append(
                svg.plot(
                    place or f"{metric_name(names[0])} against {metric_name(names[1])}",
                    drawn,
                    x_label=_with_unit(names[1]),
                    y_label=_with_unit(names[0]),
                    log_y=metric_of(names[0]).endswith("_ms"),
                )
            )
    return panels[:MAX_PANELS]


def _front(
    study: Study, names: Sequence[str], group: Sequence[Values], key: str
) -> Iterator[Series]:
    places = []
    for setting in study.settings:
        for regime in group:
            pair = [study.estimate(setting, regime, name) for name in names]
            if pair[0] is not None and pair[1] is not None:
                places.append((setting, regime, pair[0].mean, pair[1].mean))
    signs = [-1.0 if is_higher_better(name) else 1.0 for name in names]
    best = set(undominated([(signs[0] * y, signs[1] * x) for _, _, y, x in places]))
    settings, regimes, colour = labels(study.settings), labels(study.regimes, ""), colours(study)
    for setting in study.settings:
        mine = [(number, place) for number, place in enumerate(places) if place[0] == setting]
        yield Series(
            settings[setting],
            colour[setting],
            [place[3] for _, place in mine],
            [place[2] for _, place in mine],
            has_line=bool(key),
            has_dots=True,
            marks=frozenset(at for at, (number, _) in enumerate(mine) if number in best),
            notes=[
                f"{settings[setting]} {regimes[place[1]]}: "
                f"{amount(place[2], names[0])}, {amount(place[3], names[1])}"
                for _, place in mine
            ],
        )


def _groups(study: Study) -> list[tuple[list[Values], str]]:
    """Regimes that differ in one numeric key only, and that key; or all by themselves."""
    keys = {key for regime in study.regimes for key, value in regime if _is_number(value)}
    if len(keys) != 1:
        return [([regime], "") for regime in study.regimes]
    (key,) = keys
    if not all(_is_number(dict(regime)[key]) for regime in study.regimes):
        return [([regime], "") for regime in study.regimes]
    groups: dict[str, list[Values]] = {}
    for regime in study.regimes:
        groups.setdefault(_without(regime, key), []).append(regime)
    return [(group, key) for group in groups.values()]


def _without(regime: Values, key: str) -> str:
    return ", ".join(f"{name.rpartition('.')[2]} {value}" for name, value in regime if name != key)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _back_to_front(study: Study) -> list[Values]:
    """The subject is drawn last, on top."""
    return sorted(study.shown, key=lambda setting: setting == study.subject)


def _with_unit(name: str) -> str:
    return metric_name(name) + (", ms" if metric_of(name).endswith("_ms") else "")
