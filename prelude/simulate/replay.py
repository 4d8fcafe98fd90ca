"""The simulator held against a real engine's step log, in two ways: launch by launch, with
the log's own rows (are the prices right?), and free, from the arrivals alone (is all of it right?).
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from prelude.bench.result import Summary
from prelude.bench.stats import summarise
from prelude.conf.simulate import SimDevice, SimulateConfig
from prelude.engine.steplog import LaunchRecord, RequestRecord
from prelude.simulate.fleet import play
from prelude.simulate.prices import buckets_of, price_list
from prelude.simulate.recorded import Recording, end_of, kind_of, read_recording
from prelude.simulate.records import Life, Recorder
from prelude.simulate.replica import Replica
from prelude.simulate.runner import Truth
from prelude.types.prices import PriceTable, Sums

REPLAY_VERSION = 1
_FITTED_SHARE = 0.4  # of the steps


class LaunchError(msgspec.Struct, frozen=True):
    """Predicted against real milliseconds of launches: mean and median relative error, the p90 of
    it, and the predicted sum over the real one."""

    num: int
    mean: float
    median: float
    p90: float
    total: float


class Pair(msgspec.Struct, frozen=True):
    """A percentile as it was and as it was simulated, and the relative error."""

    real: float
    simulated: float
    error: float


class Replayed(msgspec.Struct, frozen=True):
    """One kind of request: percentiles by name and metric (milliseconds), and the median relative
    error of single requests."""

    num: int
    ttft_ms: dict[str, Pair]
    itl_ms: dict[str, Pair]
    e2e_ms: dict[str, Pair]
    request_error: dict[str, float]


class Fit(msgspec.Struct, frozen=True):
    """What the first part of a log told of the machine: real over listed milliseconds of its
    launches (percentiles), and what a step takes besides them: at least, and a row."""

    num_steps: int
    factor_p10: float
    factor_p50: float
    factor_p90: float
    overhead_ms: float
    overhead_row_ms: float


class ReplayResult(msgspec.Struct, frozen=True, tag="replay", tag_field="benchmark"):
    """``engine`` are the prices that the engine believed when it planned, ``listed`` those of
    ``device.prices``, both by kind of launch. ``classes`` are of the requests that came after the
    part that was fitted."""

    config: dict[str, Any]
    num_steps: int
    num_requests: int
    num_left_out: int
    measured_s: float
    fit: Fit
    engine: dict[str, LaunchError]
    listed: dict[str, LaunchError]
    classes: dict[str, Replayed]
    version: int = REPLAY_VERSION


def replay(config: SimulateConfig) -> ReplayResult:
    """Hold ``config``'s device and batcher against the log: what the machine is like is taken from
    its first part, what is compared from the rest. Raises ``ValueError``."""
    assert config.replay is not None
    recording = read_recording(Path(config.replay))
    table = price_list(config.device)
    first = recording.until(_FITTED_SHARE)
    truth = fitted(config.device, first)
    recorder = free_run(config, recording, truth)
    from_s = end_of(first.steps[-1])
    p10, p50, p90 = np.quantile(np.concatenate([*truth.factors.values()]), (0.1, 0.5, 0.9)).tolist()
    start_s, end_s = recording.requests[0].arrival_s, recording.requests[-1].end_s
    return ReplayResult(
        config=asdict(config),
        num_steps=len(recording.steps),
        num_requests=len(recording.requests),
        num_left_out=_left_out(recording),
        measured_s=end_s - start_s,
        fit=Fit(len(first.steps), p10, p50, p90, truth.overhead_ms, truth.overhead_row_ms),
        engine=by_kind((x, x.price_ms) for x in recording.launches),
        listed=by_kind(_listed(recording, table)),
        classes=_compare(recording, recorder, from_s),
    )


def fitted(device: SimDevice, recording: Recording) -> Truth:
    """The device as the recording found it: each launch takes its listed price times what some
    launch of its kind in the recording took over its own."""
    table = price_list(device)
    factors = defaultdict[str, list[float]](list)
    for launch, price_ms in _listed(recording, table):
        factors[launch.key.partition("[")[0]].append(launch.actual_ms / price_ms)
    overhead_ms, row_ms = recording.overhead_ms()
    return Truth(
        table=table,
        buckets=buckets_of(device),
        overhead_ms=overhead_ms,
        overhead_row_ms=row_ms,
        factors={kind: np.array(values) for kind, values in factors.items()},
    )


def free_run(config: SimulateConfig, recording: Recording, truth: Truth) -> Recorder:
    """The same arrivals through the same policy."""
    requests = recording.traffic()
    start_s = recording.requests[0].arrival_s
    from_s = end_of(recording.until(_FITTED_SHARE).steps[-1]) - start_s
    first = next((r.uid for r in requests if r.arrival_s >= from_s), len(requests))
    recorder = Recorder(first, len(requests))
    engine = Replica(
        0, config.device, config.batcher, recorder, seed=config.traffic.seed, truth=truth
    )
    play([engine], requests, config.fleet.routing)
    return recorder


def by_kind(predicted: Iterable[tuple[LaunchRecord, float]]) -> dict[str, LaunchError]:
    """Errors of launches, of all and by kind."""
    pairs = defaultdict[str, list[tuple[float, float]]](list)
    for launch, price_ms in predicted:
        for name in ("all", launch.key.partition("[")[0]):
            pairs[name].append((price_ms, launch.actual_ms))
    return {name: _launch_error(np.array(values)) for name, values in pairs.items()}


def _launch_error(pairs: "np.ndarray[Any, np.dtype[np.float64]]") -> LaunchError:
    errors = np.abs(pairs[:, 0] - pairs[:, 1]) / pairs[:, 1]
    return LaunchError(
        num=len(pairs),
        mean=float(errors.mean()),
        median=float(np.median(errors)),
        p90=float(np.quantile(errors, 0.9)),
        total=float(pairs[:, 0].sum() / pairs[:, 1].sum()),
    )


def _listed(recording: Recording, table: PriceTable) -> Iterable[tuple[LaunchRecord, float]]:
    """Every launch priced by a list that learns nothing."""
    for launch in recording.launches:
        yield launch, table.step_ms(_sums(launch))


def _sums(launch: LaunchRecord) -> Sums:
    """All rows count as sampled: the log does not say which chunk ended its prompt, and a launch
    has few of them."""
    mode = launch.key.rpartition(",")[2].removesuffix("]")
    sums = Sums()
    for _, start, count in launch.rows:
        sums = sums.plus(start, count, mode)  # type: ignore[arg-type]
    return sums


def _left_out(recording: Recording) -> int:
    known = {record.seq_id for record in recording.requests}
    seen = {row[0] for launch in recording.launches for row in launch.rows}
    return len(seen - known)


def _compare(recording: Recording, recorder: Recorder, from_s: float) -> dict[str, Replayed]:
    """By kind, the requests that came after ``from_s``."""
    real_gaps = recording.gaps(from_s)
    lives = [recorder.lives[uid] for uid in range(len(recording.requests))]
    pairs = zip(recording.requests, lives, strict=True)
    by_kind = defaultdict[str, list[tuple[RequestRecord, Life]]](list)
    for record, life in pairs:
        if record.arrival_s >= from_s:
            by_kind[kind_of(record)].append((record, life))
    return {
        kind: _replayed(chosen, (real_gaps[kind].summary(), recorder.gaps[kind].summary()))
        for kind, chosen in by_kind.items()
    }


def _replayed(
    pairs: Sequence[tuple[RequestRecord, Life]], gaps: tuple[Summary | None, Summary | None]
) -> Replayed:
    real_ttft = [((r.first_token_s or r.end_s) - r.arrival_s) * 1e3 for r, _ in pairs]
    real_e2e = [(r.end_s - r.arrival_s) * 1e3 for r, _ in pairs]
    ttft = [(life.ready_s - life.truth.arrival_s) * 1e3 for _, life in pairs]
    e2e = [(life.end_s - life.truth.arrival_s) * 1e3 for _, life in pairs]
    return Replayed(
        num=len(pairs),
        ttft_ms=_points(summarise(real_ttft, resamples=0), summarise(ttft, resamples=0)),
        itl_ms=_points(*gaps),
        e2e_ms=_points(summarise(real_e2e, resamples=0), summarise(e2e, resamples=0)),
        request_error={
            "ttft_ms": _median_error(real_ttft, ttft),
            "e2e_ms": _median_error(real_e2e, e2e),
        },
    )


def _points(real: Summary | None, simulated: Summary | None) -> dict[str, Pair]:
    if real is None or simulated is None:
        return {}
    found = {
        name: (getattr(real, name).value, getattr(simulated, name).value)
        for name in ("p50", "p90", "p99")
    }
    found["mean"] = (real.mean, simulated.mean)
    return {name: Pair(a, b, abs(b - a) / a) for name, (a, b) in found.items()}


def _median_error(real: Sequence[float], simulated: Sequence[float]) -> float:
    a, b = np.array(real), np.array(simulated)
    return float(np.median(np.abs(b - a) / a))
