"""Small results of every kind, for the tests of what reads them."""

from prelude.bench.result import (
    ClassReport,
    EngineResult,
    Environment,
    Generator,
    Interval,
    PeerResult,
    PeerRun,
    Probe,
    Process,
    Quiet,
    RequestSample,
    ServeResult,
    StepFloor,
    StepTiming,
    Summary,
)

QUIET = Quiet(load_1min=0.1, busy_share=0.01, spin_share=0.99, quiet=True)
PROBE = Probe("cpu", 2, "float32", 30.0, 177.0, QUIET)


def summary(value: float, *, bounds: bool = True) -> Summary:
    part = Interval(value, value - 1.0 if bounds else None, value + 1.0 if bounds else None)
    return Summary(count=5, mean=value, min=value, max=value + 2.0, p50=part, p90=part, p99=part)


def environment(*, quiet: bool = True, probe: Probe | None = PROBE) -> Environment:
    return Environment(
        command=["prelude", "bench"],
        started_utc="2026-01-02T03:04:05+00:00",
        wall_s=1.5,
        host_cpu="Fast One",
        cores=[0, 1],
        memory_gib=16.0,
        accelerators=[],
        versions={"python": "3.11.7"},
        variables={"OMP_NUM_THREADS": "2"},
        load_before=(0.1, 0.2, 0.3),
        load_after=(0.4, 0.5, 0.6),
        others_cpu_share=0.01 if quiet else 0.6,
        quiet=quiet,
        processes=[Process("benchmark", 7, [0], 0.5, 40.0)],
        probe=probe,
    )


def class_report(failures: dict[str, int] | None = None) -> ClassReport:
    return ClassReport(
        num_sent=12,
        num_completed=10,
        failures=failures or {},
        prompt_tokens=100,
        output_tokens=50,
        cached_tokens=3,
        req_s=2.5,
        prompt_tok_s=25.0,
        output_tok_s=12.5,
        goodput_req_s=2.0,
        attainment=0.8,
        ttft_ms=summary(11.0),
        first_content_ms=summary(12.0),
        tpot_ms=None,
        itl_ms=summary(13.0, bounds=False),
        stall_ms=summary(14.0),
        e2e_ms=summary(15.0),
    )


def serve_result(
    *, classes: tuple[str, ...] = ("chat",), warnings: tuple[str, ...] = ()
) -> ServeResult:
    total = class_report({"timeout": 2})
    return ServeResult(
        environment=environment(),
        config={"rate": 2.0},
        model="tiny",
        measured_s=4.0,
        total=total,
        classes={name: class_report() for name in classes},
        generator=Generator(2.1, summary(0.5), 3, 0.05),
        warnings=list(warnings),
        samples=[RequestSample(0, "chat", 10.0, 0.5, ttft_ms=11.0, good=True)],
    )


def engine_result(*, skipped: tuple[str, ...] = ()) -> EngineResult:
    timing = StepTiming(
        kind="decode",
        batch=4,
        tokens=4,
        context=128,
        step_ms=summary(20.0),
        tok_s=200.0,
        overhead_ms=summary(0.25),
        work_mib=300.0,
        work_gflop=1.0,
        floor=StepFloor(10.0, "memory", 0.5),
        samples_ms=[20.0],
    )
    return EngineResult(
        environment=environment(quiet=False),
        config={},
        model="tiny",
        weights_mib=300.0,
        startup_s={"load": 1.0},
        timings=[timing],
        programs=(1, 2),
        frontend_us_token=12.5,
        skipped=list(skipped),
    )


def peer_run(engine: str, turn: int, scale: float = 1.0) -> PeerRun:
    return PeerRun(
        engine=engine,
        turn=turn,
        version="1.0",
        threads=2,
        cores=[0, 1],
        startup_s=2.0,
        prefill_tok_s=100.0 * scale,
        decode_tok_s=10.0 * scale,
        streams_tok_s=50.0 * scale,
        prefill_samples_ms=[1.0],
        decode_samples_ms=[2.0],
        streams_samples_ms=[3.0],
        first_ids=[1, 2, 3],
    )


def peer_result() -> PeerResult:
    return PeerResult(
        environment=environment(probe=None),
        config={},
        shape={"hidden_size": 8},
        runs=[peer_run("prelude", 0, 2.0), peer_run("transformers", 0)],
        ratios={"transformers": {"prefill": Interval(2.0, 1.9, 2.1)}},
        equal_ids={"transformers": (30, 33)},
        skipped={"vllm": "not installed"},
        probes=[PROBE],
        roof_shares={"prelude": {"prefill": 0.871}},
    )
