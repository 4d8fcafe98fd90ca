"""A runner on its own thread: the same outputs in the same order, and its errors are raised."""

import threading
import time
from dataclasses import dataclass, field

import pytest

from prelude.runner.fake import FakeRunner
from prelude.runner.threaded import ThreadedRunner
from prelude.types.plan import StepOutput
from tests.engines import VOCAB, expected, make_core, request, run, tokens_of


@dataclass(slots=True)
class Traced(FakeRunner):
    """Remembers who ran what, and can be made to wait or fail."""

    threads: set[str] = field(default_factory=set)
    gate: threading.Event = field(default_factory=threading.Event)
    fails: bool = False
    closed: bool = False
    num_upkeeps: int = 0

    def collect(self) -> StepOutput:
        self.threads.add(threading.current_thread().name)
        assert self.gate.wait(10)
        if self.fails:
            raise RuntimeError("device lost")
        return FakeRunner.collect(self)

    def upkeep(self) -> None:
        self.num_upkeeps += 1

    def close(self) -> None:
        self.closed = True


def traced(*, fails: bool = False) -> Traced:
    return Traced(num_blocks=64, block_size=4, max_len=128, vocab_size=VOCAB, fails=fails)


def test_answers_are_the_same_and_every_plan_runs_on_the_thread() -> None:
    inner = traced()
    inner.gate.set()
    core = make_core(runner=ThreadedRunner(inner))
    prompts = [[uid + 1] * (3 + uid) for uid in range(12)]
    for uid, prompt in enumerate(prompts):
        core.add(request(prompt, uid=uid, max_tokens=20))
    answers = tokens_of(run(core))
    assert answers == {(uid, 0): expected(prompt, 20) for uid, prompt in enumerate(prompts)}
    assert inner.threads == {"prelude-runner"}
    assert inner.num_upkeeps == inner.num_steps == core.stats().num_steps
    core.close()
    assert inner.closed


def test_submitting_does_not_wait_for_the_step() -> None:
    inner = traced()
    core = make_core(runner=ThreadedRunner(inner))
    core.add(request([1, 2, 3], uid=1, max_tokens=2))
    assert core.step() == []
    inner.gate.set()
    assert tokens_of(run(core))[1, 0] == expected([1, 2, 3], 2)
    core.close()


def test_what_fails_on_the_thread_is_raised_by_collect() -> None:
    inner = traced(fails=True)
    inner.gate.set()
    core = make_core(runner=ThreadedRunner(inner))
    core.add(request([1, 2, 3], uid=1, max_tokens=2))
    with pytest.raises(RuntimeError, match=r"^device lost$"):
        run(core)
    core.close()
    assert inner.closed


def test_closing_waits_for_the_step_that_runs() -> None:
    inner = traced()
    runner = ThreadedRunner(inner)
    core = make_core(runner=runner)
    core.add(request([1, 2, 3], uid=1, max_tokens=2))
    core.step()
    threading.Timer(0.05, inner.gate.set).start()
    begun_s = time.monotonic()
    core.close()
    assert inner.closed
    assert time.monotonic() - begun_s > 0.02
