"""Step timing on a runner without torch, whose steps last what the price list says: the shapes
that were asked for, their times, and the reasons why some were not measured."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from prelude.bench.result import Probe
from prelude.bench.steps import Limits, Shape, StepBench, early_tokens
from prelude.conf.bench import EngineWorkload
from prelude.conf.schema import BatcherConfig, CacheConfig, MechanismsConfig
from prelude.engine.core import EngineCore
from prelude.runner.fake import FakeRunner
from prelude.types.plan import Plan
from prelude.types.prices import Curve, PriceTable
from tests.bench_results import PROBE

# 2 ms a launch and 0.5 ms a new token, exactly.
PRICES = PriceTable(Curve((1, 1001), (2.5, 502.5)))


class Recording(FakeRunner):
    """Remembers the launches it ran as (row starts, new tokens)."""

    def submit(self, plan: Plan) -> None:
        self.launches = getattr(self, "launches", [])
        self.launches += [
            [(row.start, row.num_tokens) for row in launch.rows] for launch in plan.launches
        ]
        super().submit(plan)


class Rig:
    """An engine on a fake runner, and the clock that its steps move."""

    def __init__(
        self, workload: EngineWorkload, step_tokens: int = 600, depth: int = 1, **limits: int
    ) -> None:
        self.time_s = 0.0
        self.runner = Recording(
            num_blocks=200,
            max_len=600,
            prices=PRICES,
            sleep=self._sleep,
            clock=lambda: self.time_s,
            depth=depth,
        )
        self.core = EngineCore(
            self.runner,
            batcher=BatcherConfig(
                max_step_tokens=step_tokens,
                step_ms=1e9,
                idle_step_ms=1e9,
                use=MechanismsConfig(split=False),
            ),
            cache=CacheConfig(),
            max_seqs=8,
            eos_ids=(0,),
            clock=lambda: self.time_s,
            seed=0,
        )
        room = Limits(max_len=600, max_seqs=8, num_kv_tokens=199 * 16, vocab_size=512)
        self.asked = 0
        self.bench = StepBench(
            self.core,
            replace(room, **limits),
            workload,
            clock=lambda: self.time_s,
            roof=self._roof if workload.paired else None,
        )

    def _sleep(self, ms: float) -> None:
        self.time_s += ms / 1e3

    def _roof(self) -> Probe:
        """Takes a second, which is none of a step's, and finds another machine each time."""
        self.time_s += 1.0
        self.asked += 1
        return msgspec.structs.replace(PROBE, read_gb_s=float(self.asked))

    def run(self) -> list[Shape]:
        return list(self.bench.run())


def workload(**changes: Any) -> EngineWorkload:
    defaults = {"batches": [1, 4], "contexts": [32], "prefills": [64], "steps": 5, "warmup": 2}
    return EngineWorkload(**{**defaults, "repeats": 3, **changes})


def test_a_prompt_is_one_step_of_the_right_length() -> None:
    rig = Rig(workload(contexts=[]))
    (shape,) = rig.run()
    assert shape.kind == "prefill"
    assert shape.rows == [(0, 64)]
    assert shape.step_ms == pytest.approx([34.0] * 3)
    assert rig.runner.launches == [[(0, 64)]] * 5, "two warm-ups and three repeats"


def test_steps_that_overlap_are_timed_alike() -> None:
    rig = Rig(workload(), depth=2)
    prompt, four, one = rig.run()
    assert prompt.step_ms == pytest.approx([34.0] * 3)
    assert four.step_ms == pytest.approx([4.0] * 5)
    assert one.step_ms == pytest.approx([2.5] * 5)
    overheads = [ms for shape in (prompt, four, one) for ms in shape.overhead_ms]
    assert overheads == pytest.approx([0.0] * 13, abs=1e-6)
    assert not rig.core.has_work
    assert rig.core.stats().num_blocks_referenced == 0


def test_decode_steps_have_their_batch_and_about_their_context() -> None:
    rig = Rig(workload(prefills=[]))
    four, one = rig.run()
    assert [len(four.rows), len(one.rows)] == [4, 1]
    assert four.step_ms == pytest.approx([4.0] * 5)
    assert one.step_ms == pytest.approx([2.5] * 5)
    decodes = [rows for rows in rig.runner.launches if all(new == 1 for _, new in rows)]
    assert [len(rows) for rows in decodes] == [4] * 7 + [1] * 7
    timed = [rows[0][0] for rows in decodes[2:7]]
    assert four.rows[0] == (sorted(timed)[2], 1), "the middle of the timed steps"
    timed = [rows[0][0] for rows in decodes[9:]]
    assert one.rows[0] == (sorted(timed)[2], 1)


def test_each_timed_step_has_the_roof_of_its_moment() -> None:
    rig = Rig(workload(paired=True))
    prompt, four, one = rig.run()
    assert [roof.read_gb_s for roof in prompt.roofs] == [3.0, 4.0, 5.0], "after two warm-ups"
    assert [roof.read_gb_s for roof in four.roofs + one.roofs] == list(range(6, 16))
    assert prompt.step_ms == pytest.approx([34.0] * 3)
    assert four.step_ms == pytest.approx([4.0] * 5)
    assert Rig(workload()).run()[0].roofs == []


def test_prompts_beyond_a_step_come_in_chunks() -> None:
    rig = Rig(workload(prefills=[], contexts=[60], step_tokens=64), step_tokens=64)
    four, one = rig.run()
    decodes = [rows for rows in rig.runner.launches if all(new == 1 for _, new in rows)]
    middle = decodes[2:7][2]
    assert sorted(four.rows) == sorted(middle), "each row at its own context"
    starts = [start for start, _ in four.rows]
    assert min(starts) >= 60 and 0 < max(starts) - min(starts) <= early_tokens(4, 60, 64)
    assert len(one.rows) == 1


def test_early_tokens() -> None:
    assert early_tokens(4, 100, 400) == 0
    assert early_tokens(4, 100, 104) == 4
    assert early_tokens(4, 100, 1) > 0


def test_overhead_is_what_is_not_launches() -> None:
    shapes = Rig(workload()).run()
    assert [len(shape.overhead_ms) for shape in shapes] == [3, 5, 5]
    assert all(value == pytest.approx(0.0, abs=1e-6) for s in shapes for value in s.overhead_ms)


def test_the_engine_is_idle_afterwards() -> None:
    rig = Rig(workload())
    rig.run()
    assert not rig.core.has_work
    assert rig.core.stats().num_blocks_referenced == 0


def test_batches_come_largest_first_and_once() -> None:
    rig = Rig(workload(prefills=[], batches=[1, 2, 2, 8]))
    assert [len(shape.rows) for shape in rig.run()] == [8, 2, 1]


def test_contexts_grow_by_what_the_workload_says() -> None:
    rig = Rig(workload(prefills=[]))
    rig.run()
    last = max(rows[0][0] + 1 for rows in rig.runner.launches)
    assert last == 32 + rig.bench.decode_tokens - 1


@pytest.mark.parametrize(
    ("changes", "limits", "reasons"),
    [
        ({"prefills": [64, 700]}, {}, ["prefill 700: needs 701 tokens of context"]),
        ({"contexts": [590]}, {}, ["decode 4 at", "decode 1 at"]),
        ({"batches": [1, 16]}, {}, ["decode 16 at context 32: needs 16 sequences"]),
        ({}, {"num_kv_tokens": 100}, ["decode 4 at context 32: needs 192 KV tokens"]),
    ],
)
def test_shapes_that_do_not_fit_are_named(
    changes: dict[str, Any], limits: dict[str, int], reasons: list[str]
) -> None:
    rig = Rig(workload(**changes), **limits)
    shapes = rig.run()
    assert len(rig.bench.skipped) == len(reasons)
    for reason, skipped in zip(reasons, rig.bench.skipped, strict=True):
        assert skipped.startswith(reason)
    assert len(shapes) == 3 - len(reasons) + (len(changes.get("prefills", [0])) - 1)


def test_time_is_bounded_within_a_prompt() -> None:
    rig = Rig(workload(max_s=0.05))
    assert rig.run() == []
    assert [name.partition(":")[0] for name in rig.bench.skipped] == [
        "prefill 64",
        "decode 4 at context 32",
        "decode 1 at context 32",
    ]
    assert not rig.core.has_work


def test_time_is_bounded_within_decoding() -> None:
    # Three rows of 32 prompt tokens and the first decode steps fit, the others do not.
    rig = Rig(workload(prefills=[], max_s=0.09))
    assert rig.run() == []
    (skipped,) = rig.bench.skipped
    assert skipped.startswith("decode 4 at context 32: bench.max_s=0.09 was over")
    assert not rig.core.has_work


def test_the_seed_decides_the_prompts() -> None:
    first, again, other = (Rig(workload(seed=seed, contexts=[])) for seed in (1, 1, 2))
    prompts = []
    for rig in (first, again, other):
        rig.run()
        prompts.append(rig.runner._kv)
    assert prompts[0] == prompts[1] != prompts[2]
