"""The engine loop over a channel played by the test: who is let in when, and what is said."""

import threading
from collections.abc import Callable
from itertools import pairwise

import pytest

from prelude.engine.core import EngineCore
from prelude.engine.grammars import Grammar, Grammars
from prelude.engine.loop import run_loop
from prelude.types.constraint import Constraint, ConstraintError
from prelude.types.prices import flat_prices
from prelude.types.request import TokenEvent
from prelude.types.wire import Abort, FromEngine, Shutdown, StepEvents, Submit, ToEngine, Truncate
from tests.engines import VOCAB, CarefulRunner, Clock, expected, make_core, request, tokens_of

STEP_MS = 20.0


class Script:
    """A channel whose messages arrive at given times; after the last one it shuts down as soon as
    nothing has been said for a while."""

    def __init__(self, clock: Clock, messages: list[tuple[float, ToEngine]]) -> None:
        self._clock = clock
        self._messages = [(clock() + after_ms / 1e3, message) for after_ms, message in messages]
        self.said: list[StepEvents] = []
        self.timeouts_ms: list[float] = []
        self.is_gone: Callable[[], bool] = lambda: False

    def receive(self, timeout_ms: float) -> list[ToEngine]:
        if self.is_gone():
            raise EOFError("gone")
        self.timeouts_ms.append(timeout_ms)
        until_s = self._clock() + timeout_ms / 1e3 + 1e-9
        if not self._messages and timeout_ms >= 200.0:
            return [Shutdown()]
        first_s = self._messages[0][0] if self._messages else until_s
        self._clock.now_s = max(self._clock.now_s, min(first_s, until_s))
        due = [message for at_s, message in self._messages if at_s <= self._clock.now_s]
        self._messages = self._messages[len(due) :]
        return due

    def send(self, message: FromEngine) -> None:
        assert isinstance(message, StepEvents)
        self.said.append(message)

    @property
    def events(self) -> list[TokenEvent]:
        return [event for message in self.said for event in message.events]


def serve(
    depth: int, messages: list[tuple[float, ToEngine]], grammars: Grammars | None = None
) -> tuple[Script, EngineCore, CarefulRunner]:
    clock = Clock()
    runner = CarefulRunner(
        num_blocks=64,
        block_size=4,
        max_len=128,
        vocab_size=VOCAB,
        sleep=clock.sleep_ms,
        clock=clock,
        depth=depth,
        prices=flat_prices(STEP_MS, 0.0),
    )
    core = make_core(runner=runner, clock=clock)
    core._grammars = grammars or core._grammars
    channel = Script(clock, messages)
    run_loop(core, channel)
    return channel, core, runner


@pytest.mark.parametrize("depth", [1, 2])
def test_answers_are_complete_and_every_message_has_news(depth: int) -> None:
    asked = {uid: [uid + 1] * 5 for uid in range(6)}
    submits = [
        (uid * 7.0, Submit(request(prompt, uid=uid, max_tokens=8))) for uid, prompt in asked.items()
    ]
    channel, core, _ = serve(depth, list(submits))
    assert tokens_of(channel.events) == {
        (uid, 0): expected(prompt, 8) for uid, prompt in asked.items()
    }
    assert not core.has_work
    *said, _ = channel.said  # the last one says good-bye
    assert all(b.events or b.stats != a.stats for a, b in pairwise(said))
    core.ledger.check()


def test_the_loop_listens_while_a_step_runs_and_plans_before_it_ends() -> None:
    first = Submit(request([1, 2, 3], uid=1, max_tokens=6))
    second = Submit(request([4, 5, 6], uid=2, max_tokens=1))
    channel, core, _ = serve(2, [(0.0, first), (STEP_MS * 2.5, second)])
    waited = [ms for ms in channel.timeouts_ms if 0.0 < ms < 200.0]
    assert waited
    assert all(ms < STEP_MS for ms in waited)
    rows = [[seq_id for seq_id, _, _ in x.rows] for record in core.log for x in record.launches]
    assert rows == [[0], [0], [0], [0, 1], [0], [0]], "who came during the third is in the fourth"


def test_without_overlap_the_loop_only_looks_between_steps() -> None:
    channel, _, _ = serve(1, [(0.0, Submit(request([1, 2, 3], uid=1, max_tokens=6)))])
    assert {ms for ms in channel.timeouts_ms if ms < 200.0} == {0.0}


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize(
    ("message", "reason"), [(Abort(1), "abort"), (Truncate(1, 0, 2), "stop"), (Shutdown(), "abort")]
)
def test_a_request_ends_once_whatever_ends_it(message: ToEngine, reason: str, depth: int) -> None:
    first = Submit(request([1, 2, 3], uid=1, max_tokens=50))
    channel, core, _ = serve(depth, [(0.0, first), (STEP_MS * 4.5, message)])
    reasons = [event.finish_reason for event in channel.events if event.finish_reason]
    assert reasons == [reason]
    assert core.ledger.num_running == 0
    core.ledger.check()


def test_a_refusal_does_not_wait_for_the_step_that_runs() -> None:
    first = Submit(request([1, 2, 3], uid=1, max_tokens=4))
    channel, _, _ = serve(2, [(0.0, first), (STEP_MS / 2, Submit(request([], uid=2)))])
    order = [(event.uid, event.finish_reason) for event in channel.events]
    assert order[0] == (2, "error"), "the first token comes later"


def test_an_engine_whose_server_is_gone_ends_everything() -> None:
    clock = Clock()
    core = make_core(clock=clock, depth=2)
    channel = Script(clock, [(0.0, Submit(request([1], uid=1, max_tokens=50)))])
    channel.is_gone = lambda: core.stats().num_steps == 3
    run_loop(core, channel)
    assert core.ledger.num_running == core.ledger.num_waiting == 0


def test_an_engine_without_work_is_heard_once_a_second() -> None:
    channel, core, _ = serve(1, [(4500.0, Abort(99))])
    assert core.stats().num_steps == 0
    assert 4 <= len(channel.said) <= 7, "its client can tell idleness from a hang"
    assert not channel.events


def test_an_engine_says_when_all_is_quiet() -> None:
    clock = Clock()
    core = make_core(clock=clock, depth=1)
    steps: list[int] = []
    submit = Submit(request([1], uid=1, max_tokens=5))
    channel = Script(clock, [(0.0, submit), (4500.0, Abort(99))])
    run_loop(core, channel, lambda: steps.append(core.stats().num_steps))
    assert steps and set(steps) == {core.stats().num_steps}, "not before the work is done"


class _Never:
    """A compiler of grammars that take an hour."""

    def __init__(self) -> None:
        self.ended = threading.Event()

    def compile(self, constraint: Constraint) -> Grammar:
        self.ended.wait(20)
        raise ConstraintError("too late")

    def close(self) -> None:
        self.ended.set()


def test_an_engine_that_only_waits_for_a_grammar_is_heard() -> None:
    held = request([3, 4], uid=1, constraint=Constraint("regex", "a"))
    channel, core, _ = serve(
        1, [(0.0, Submit(held)), (4500.0, Abort(1))], grammars=Grammars(_Never())
    )
    core.close()
    assert 4 <= len(channel.said) <= 9, "its client can tell patience from a hang"
    assert [event.finish_reason for event in channel.events] == ["abort"]


def test_the_loop_learns_when_nothing_else_is_to_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    learned: list[bool] = []

    def learn(core: EngineCore) -> bool:
        learned.append(core.has_work)
        return len(learned) in (2, 3)

    monkeypatch.setattr(EngineCore, "learn", learn)
    channel, _, _ = serve(1, [(0.0, Submit(request([1, 2, 3], uid=1, max_tokens=6)))])
    assert len(learned) >= 4 and not any(learned)
    assert channel.timeouts_ms[-3:] == [0.0, 0.0, 200.0], "somebody may come while it learns"
