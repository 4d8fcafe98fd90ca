"""Class-aware batching against first come, first served, on the real engine:

    python -m benchmarks.scheduling --cache runs/scheduling tune matrix simulate

Engines in this process, one for each policy, serve the same open-loop trace on clocks of their own,
in turns of a quarter of a second: what disturbs the machine, or changes its speed, does so for all.
``saturate`` measures what plain FCFS sustains, ``tune`` which FCFS is best on a seed that is not
compared (``choose`` the same in the simulator, on the prices that were learned), ``matrix`` runs
what is missing in the result, cell by cell, ``simulate`` repeats it in the simulator. The table is
written by ``python -m benchmarks.scheduling_table``.
"""

import argparse
import gc
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from benchmarks.scheduling_cells import (
    ABLATIONS,
    LONG,
    MAIN,
    OURS,
    PLAIN,
    REGIMES,
    TUNABLE,
    TUNED,
    VARIANTS,
    Regime,
    Variant,
)
from benchmarks.scheduling_engine import (
    Bench,
    Benches,
    forget_prices,
)
from benchmarks.scheduling_play import Watch, Window, in_turns, playing, sustained
from benchmarks.scheduling_record import (
    Document,
    Run,
    Tried,
    read,
    run_of,
    write,
)
from benchmarks.scheduling_simulate import best_on_average, simulated_as, tried_in_simulator
from benchmarks.scheduling_traces import Trace, saturating, trace
from prelude.bench import machine
from prelude.bench.observer import Observer

RESULT = Path(__file__).parent / "results/cpu/scheduling.json"
SEEDS = (1, 2, 3)
TUNING_SEED, TUNING_REQUESTS = 100, 300
WARMUP, COOLDOWN = 0.1, 0.05  # of the requests, that do not count
SATURATION_REQUESTS, LEARNING_REQUESTS = 400, 160
FCFS_ONLY = ("plain", TUNED, OURS)

Cell = tuple[str, float, tuple[str, ...]]
_SHORT_OF_MEMORY = ("no evict", "no forecast", "no probation", "no prediction")
CELLS: tuple[Cell, ...] = (
    ("mixed", 0.95, (*MAIN, *ABLATIONS)),
    ("slots", 0.95, (*MAIN, "no park", "no probation", "no prediction", "blind", "lies")),
    ("kv", 0.95, (*MAIN, *_SHORT_OF_MEMORY, "blind", "lies")),
    ("short", 0.7, FCFS_ONLY),
    ("short", 0.95, FCFS_ONLY),
    ("long", 0.3, MAIN),
    ("slots", 1.1, MAIN),
    ("kv", 1.1, MAIN),
    ("mixed", 1.1, MAIN),
    ("mixed", 0.85, MAIN),
    ("short", 0.3, FCFS_ONLY),
    ("answers", 0.95, MAIN),
    ("bursts", 0.85, MAIN),
)


@dataclass(slots=True)
class Session:
    """Options, loaded models and the result so far."""

    args: argparse.Namespace
    benches: Benches
    document: Document

    def save(self) -> None:
        write(self.args.result, self.document)

    def regime(self, name: str) -> Regime:
        regime = REGIMES[name]
        return replace(regime, num_requests=40) if self.args.quick else regime

    def shorter(self, name: str) -> Regime:
        """The regime as candidates are tried in it."""
        regime = self.regime(name)
        return replace(regime, num_requests=min(regime.num_requests, TUNING_REQUESTS))

    def variant(self, regime: str, name: str) -> Variant:
        return TUNABLE[self.document.tuned[regime]] if name == TUNED else VARIANTS[name]

    def rate(self, name: str, load: float) -> float:
        """Requests a second."""
        regime = REGIMES[name]
        known = regime.saturated_as or name
        if known not in self.document.saturation:
            self.saturate(known)
        return load * self.document.saturation[known]

    def bench(self, regime: Regime, lane: int = 0) -> Bench:
        """Its model, with the prices of this session's first."""
        bench = self.benches.of(regime, lane)
        if self.document.prices is None:
            self.learn_prices(bench)
        assert self.document.prices is not None
        bench.prices = self.document.prices
        self.prices_path.write_bytes(msgspec.json.encode(self.document.prices))
        return bench

    @property
    def prices_path(self) -> Path:
        path: Path = self.args.cache / "prices.json"
        return path

    def learn_prices(self, bench: Bench) -> None:
        """What was measured at the start is corrected by real traffic, in chunks of all sizes."""
        for name in TUNABLE:
            self.prices_path.write_bytes(msgspec.json.encode(bench.prices))
            core, _ = bench.core(REGIMES["mixed"], TUNABLE[name])
            found, _ = self.saturating("mixed", bench, LEARNING_REQUESTS)
            sustained(core, found.requests, found.num_before, clock=bench.clock)
            bench.learned(core)
        self.document.prices = bench.prices
        self.save()

    def saturating(self, name: str, bench: Bench, count: int) -> tuple[Trace, float]:
        return saturating(
            self.regime(name),
            TUNABLE[PLAIN],
            vocab_size=bench.runner.vocab_size,
            prices=self.prices_path,
            count=count,
        )

    def saturate(self, name: str) -> None:
        """What plain FCFS sustains."""
        regime = self.regime(name)
        bench = self.bench(regime)
        count = LEARNING_REQUESTS if self.args.quick else SATURATION_REQUESTS
        found, mean_output = self.saturating(name, bench, count)
        core, _ = bench.core(regime, TUNABLE[PLAIN])
        tok_s = sustained(core, found.requests, found.num_before, clock=bench.clock)
        self.document.saturation[name] = tok_s / mean_output
        self.save()
        say(f"{name}: plain FCFS sustains {tok_s / mean_output:.2f} requests/s")

    def runs(self, name: str, load: float, seed: int, variants: Mapping[str, Variant]) -> list[Run]:
        """Policies on one trace, in turns."""
        rate = self.rate(name, load)
        regime = self.shorter(name) if seed == TUNING_SEED else self.regime(name)
        lanes = []
        for number, variant in enumerate(variants.values()):
            bench = self.bench(regime, number)
            found = trace(
                regime,
                variant,
                rate=rate,
                seed=seed,
                vocab_size=bench.runner.vocab_size,
                prices=self.prices_path,
            )
            core, policy = bench.core(regime, variant)
            clock, watch = bench.clock, watch_of(found, regime)
            run = playing(core, found.requests, watch, clock=clock, sleep=clock.sleep)
            lanes.append((run, clock, core, policy))
        gc.freeze()
        with others() as share:
            played = in_turns([(run, clock) for run, clock, _, _ in lanes])
        gc.unfreeze()
        runs = [
            run_of(
                one,
                core,
                policy.us,
                regime=name,
                load=load,
                seed=seed,
                variant=label,
                rate=rate,
                at_s=time.time(),
                others_cpu_share=share(),
            )
            for label, one, (_, _, core, policy) in zip(variants, played, lanes, strict=True)
        ]
        for done in runs:
            say(line_of(done))
        return runs


def watch_of(found: Trace, regime: Regime) -> Watch:
    """The middle of a trace counts."""
    num = len(found.requests) - found.num_before
    first = found.num_before + int(WARMUP * num)
    end = len(found.requests) - int(COOLDOWN * num)
    window = Window(found.requests[first][0].arrival_s, found.requests[-1][0].arrival_s)
    return Watch(first, end, window, LONG if regime.long_prompt else None)


@contextmanager
def others() -> Iterator[Callable[[], float]]:
    """How much of the machine other processes took since the block was entered."""
    before, mine_s = machine.cpu_times(), time.process_time()

    def share() -> float:
        now = machine.cpu_times()
        if before is None or now is None:
            return 0.0
        used_s = now.busy_s - before.busy_s - (time.process_time() - mine_s)
        return max(used_s / max(now.total_s - before.total_s, 1e-9), 0.0)

    yield share


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def line_of(run: Run) -> str:
    """One line for whoever watches."""
    tried = Tried.of(run, run.variant)
    deep = run.kinds.get("deep")
    deep_ms = sum(deep.e2e) / len(deep.e2e) / 10 if deep and deep.e2e else 0.0
    return (
        f"{run.regime} {run.load:g} seed {run.seed} {run.variant:>14}: "
        f"TTFT p50 {tried.ttft_p50:.1f} p99 {tried.ttft_p99:.1f} ms, "
        f"gap p99 {tried.gap_p99:.1f}, deep {deep_ms:.0f} ms, "
        f"{run.tok_s:.0f} tok/s, {run.wall_s:.1f} s, others {run.others_cpu_share:.0%}, "
        f"schedule {run.schedule_us[0]:.0f}/{run.schedule_us[1]:.0f} us"
    )


def tune(session: Session) -> None:
    """The six candidates in turn, in every regime that has no tuned baseline yet, on a seed of
    their own."""
    document = session.document
    for regime in untuned(session):
        runs = session.runs(regime, REGIMES[regime].loads[0], TUNING_SEED, TUNABLE)
        found = [Tried.of(run, run.variant) for run in runs]
        document.tried += found
        document.tuned[regime] = best(found, is_long=bool(REGIMES[regime].long_prompt)).name
        say(f"{regime}: tuned is {document.tuned[regime]}")
        session.save()


def untuned(session: Session) -> list[str]:
    wanted = session.args.regimes or list(REGIMES)
    return [name for name in wanted if name not in session.document.tuned]


def best(tried: Sequence[Tried], *, is_long: bool) -> Tried:
    """The lowest p99 of chat's first token; beside a long prompt, of the gaps."""
    return min(tried, key=lambda one: one.gap_p99 if is_long else one.ttft_p99)


def matrix(session: Session) -> None:
    """All cells in order, or those of ``--regimes``; what is in the result already is kept."""
    until_s = time.monotonic() + session.args.max_s
    for name, load, variants in CELLS:
        if session.args.regimes and name not in session.args.regimes:
            continue
        if session.args.loads and load not in session.args.loads:
            continue
        chosen = [v for v in variants if not session.args.variants or v in session.args.variants]
        for turn, seed in enumerate(session.args.seeds):
            has, key = session.document.has, (name, load, seed)
            missing = [label for label in rotated(chosen, turn) if not has((*key, label))]
            if time.monotonic() > until_s:
                say("time is up")
                return
            if not missing:
                continue
            if session.args.resaturate:
                session.saturate(REGIMES[name].saturated_as or name)
            together = {label: session.variant(name, label) for label in missing}
            session.document.runs += session.runs(*key, together)
            session.save()


def rotated(names: Sequence[str], turn: int) -> list[str]:
    """Another one goes first each time."""
    first = turn % max(len(names), 1)
    return [*names[first:], *names[:first]]


def choose(session: Session) -> None:
    """As ``tune``, in the simulator, on the prices that the engine has learned: nothing disturbs
    it, and several traces take seconds."""
    for regime in untuned(session):
        if REGIMES[regime].is_real or REGIMES[regime].long_prompt:
            continue  # what the simulator knows nothing of
        load, rate = REGIMES[regime].loads[0], session.rate(regime, REGIMES[regime].loads[0])
        found = tried_in_simulator(
            session.regime(regime), regime, load, rate=rate, prices=session.prices_path
        )
        session.document.tried += found
        session.document.tuned[regime] = best_on_average(found)
        say(f"{regime}: tuned is {session.document.tuned[regime]}")
        session.save()


def simulated(session: Session) -> None:
    """Every run again, on the price list, without an engine."""
    document = session.document
    if document.prices is None:
        raise ValueError("simulate: nothing was measured yet; run matrix before")
    session.prices_path.write_bytes(msgspec.json.encode(document.prices))
    done = {(one.regime, one.load, one.seed, one.variant) for one in document.simulated}
    for run in document.runs:
        regime = session.regime(run.regime)
        if run.key in done or regime.is_real or regime.long_prompt:
            continue
        variant = session.variant(run.regime, run.variant)
        document.simulated.append(simulated_as(run, regime, variant, session.prices_path))
        session.save()


PARTS = {"tune": tune, "choose": choose, "matrix": matrix, "simulate": simulated}


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="+", choices=["build", "saturate", *PARTS])
    parser.add_argument("--cache", type=Path, required=True, help="for programs and prices")
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--regimes", nargs="*", choices=list(REGIMES), default=[])
    parser.add_argument("--loads", nargs="*", type=float, default=[])
    parser.add_argument("--variants", nargs="*", default=[])
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--max-s", type=float, default=2700.0, help="then no run begins")
    parser.add_argument(
        "--resaturate",
        action="store_true",
        help="what plain FCFS sustains, before each trace: where a machine changes its speed",
    )
    parser.add_argument("--quick", action="store_true", help="40 requests a run, one seed")
    args = parser.parse_args(argv)
    if args.quick:
        args.seeds = args.seeds[:1]
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    args.cache.mkdir(parents=True, exist_ok=True)
    session = Session(args, Benches(args.cache), read(args.result))
    forget_prices(args.cache)
    for part in args.parts:
        observer = Observer(None)
        if part == "build":
            session.benches.of(REGIMES["mixed"]), session.benches.of(REGIMES["long"])
        elif part == "saturate":
            for name in args.regimes or REGIMES:
                session.saturate(name)
        else:
            PARTS[part](session)
        session.document.environments.append(observer.finish())
        session.save()


if __name__ == "__main__":
    main()
