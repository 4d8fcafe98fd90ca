"""Requests whose grammar is being compiled: they hold nothing, hold up nobody, and end once."""

import threading
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from prelude.conf.schema import BatcherConfig, CacheConfig
from prelude.engine.core import EngineCore
from prelude.engine.grammars import Grammars
from prelude.types.constraint import Constraint, ConstraintError, MatchEnd, SlowConstraintError
from prelude.types.errors import REFUSAL_CODES
from prelude.types.request import Request, SamplingParams, TokenEvent
from prelude.types.service import Hints
from tests.engines import VOCAB, CarefulRunner, Clock, request

EOS = 0


@dataclass
class Digits:
    """A matcher whose answer is ``text``, digit by digit; an x is what it cannot go on with."""

    text: str
    ended: MatchEnd | None = None
    error: str = ""
    wish_id: int | None = None
    taken: list[int] = field(default_factory=list)

    def fill(self, mask: NDArray[np.int32]) -> None:
        mask.fill(-1 if self.ended else 0)
        if not self.ended:
            token = 7 if self.text[0] == "x" else int(self.text[0])
            mask[token // 32] = 1 << token % 32

    def accept(self, token_id: int) -> None:
        if self.ended:
            return
        self.taken.append(token_id)
        head, self.text = self.text[0], self.text[1:]
        if head == "x":
            self.ended, self.error = "error", "cannot go on"
        elif not self.text:
            self.ended = "stop"


@dataclass
class Grammar:
    text: str
    matchers: list[Digits] = field(default_factory=list)

    def matcher(self, constraint: Constraint, *, ignore_eos: bool) -> Digits:
        self.matchers.append(Digits(self.text))
        return self.matchers[-1]


class Compiler:
    """Compiles a text when it is told to, and never what begins with a question mark."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.grammars: list[Grammar] = []
        self.gate = threading.Event()
        self.is_closed = False

    def compile(self, constraint: Constraint) -> Grammar:
        self.texts.append(constraint.text)
        assert self.gate.wait(20)
        if constraint.text.startswith("?"):
            raise ConstraintError("what is that?")
        if constraint.text.startswith("~"):
            raise SlowConstraintError("takes too long")
        self.grammars.append(Grammar(constraint.text))
        return self.grammars[-1]

    def close(self) -> None:
        self.is_closed = True


def open_core(compiler: Compiler | None, **settings: Any) -> EngineCore:
    clock = Clock()
    depth = settings.pop("depth", 1)
    num_blocks = settings.pop("num_blocks", 64)
    return EngineCore(
        CarefulRunner(
            num_blocks=num_blocks,
            block_size=4,
            max_len=64,
            vocab_size=VOCAB,
            sleep=clock.sleep_ms,
            clock=clock,
            depth=depth,
        ),
        batcher=BatcherConfig(max_step_tokens=32, min_chunk=2, headroom=1, **settings),
        cache=CacheConfig(),
        max_seqs=4,
        eos_ids=(EOS,),
        clock=clock,
        seed=0,
        grammars=Grammars(compiler),
    )


def held(text: str, uid: int, **params: Any) -> Request:
    constraint = Constraint("regex", text, field="guided_regex")
    return request([3, 4, 5], uid=uid, constraint=constraint, **params)


def finish(core: EngineCore) -> dict[tuple[int, int], list[TokenEvent]]:
    events: dict[tuple[int, int], list[TokenEvent]] = {}
    while core.has_work:
        for event in core.step():
            events.setdefault((event.uid, event.index), []).append(event)
    core.ledger.check()
    assert core.ledger.pool.num_referenced == 0
    return events


def tokens(events: list[TokenEvent]) -> list[int]:
    return [token for event in events for token in event.token_ids]


def test_everybody_else_goes_on() -> None:
    compiler = Compiler()
    core = open_core(compiler)
    assert core.add(held("123", 1)) == []
    assert core.add(request([3, 4], uid=2, max_tokens=5)) == []
    others = [event for _ in range(8) for event in core.step()]
    assert {event.uid for event in others} == {2}
    assert others[-1].finish_reason == "length"
    assert core.has_work
    assert core.ledger.num_waiting == core.ledger.num_running == 0, "it holds nothing"
    assert core.slack_ms > 0, "and nobody need hurry"
    compiler.gate.set()
    found = finish(core)[1, 0]
    assert (tokens(found), found[-1].finish_reason) == ([1, 2, 3], "stop")
    assert found[-1].stop_reason is None
    core.close()
    assert compiler.is_closed


@pytest.mark.parametrize("depth", [1, 2])
def test_each_choice_and_each_request_has_its_own(depth: int) -> None:
    compiler = Compiler()
    core = open_core(compiler, depth=depth)
    assert core.add(held("12345", 1, n=2)) == []
    assert core.add(held("12345", 2)) == []
    compiler.gate.set()
    found = finish(core)
    assert {key: tokens(events) for key, events in found.items()} == {
        (1, 0): [1, 2, 3, 4, 5],
        (1, 1): [1, 2, 3, 4, 5],
        (2, 0): [1, 2, 3, 4, 5],
    }
    assert compiler.texts == ["12345"], "compiled once"
    assert len(compiler.grammars[0].matchers) == 3
    assert core.add(held("12345", 3)) == []
    assert core.ledger.num_waiting == 1, "what is known need not wait"
    finish(core)


def test_what_cannot_be_compiled_is_refused_and_remembered() -> None:
    compiler = Compiler()
    core = open_core(compiler)
    assert core.add(held("?", 1, n=2)) == []
    compiler.gate.set()
    found = finish(core)
    for index in range(2):
        (event,) = found[1, index]
        assert (event.finish_reason, event.error) == ("error", "guided_regex: what is that?")
    (again,) = core.add(held("?", 2))
    assert again.error == "guided_regex: what is that?"
    assert compiler.texts == ["?"]


def test_an_abort_while_it_is_compiled() -> None:
    compiler = Compiler()
    core = open_core(compiler)
    core.add(held("12", 1, n=2))
    assert [(e.index, e.finish_reason) for e in core.abort(1)] == [(0, "abort"), (1, "abort")]
    assert core.abort(1) == []
    assert not core.has_work
    core.add(held("12", 2))
    assert [e.finish_reason for e in core.abort_all()] == ["abort"]
    compiler.gate.set()
    assert core.step() == []


def test_a_model_without_a_tokenizer_says_so() -> None:
    (event,) = open_core(None).add(held("1", 1))
    assert event.error == "guided_regex: needs a model that has a tokenizer.json"


def test_too_many_are_refused() -> None:
    compiler = Compiler()
    core = open_core(compiler, max_waiting=4096)
    for uid in range(1024):
        assert core.add(held("1", uid)) == []
    (event,) = core.add(held("1", 5000))
    assert event.refusal is not None
    assert event.refusal.code == "queue_full"
    core.abort_all()
    compiler.gate.set()


class SlowFor(Compiler):
    """Compiles at once, but for what begins with a nine: that takes until the gate opens."""

    def compile(self, constraint: Constraint) -> Grammar:
        if constraint.text.startswith("9"):
            return super().compile(constraint)
        self.texts.append(constraint.text)
        return Grammar(constraint.text)


def of(client: str, request: Request) -> Request:
    return msgspec.structs.replace(request, hints=Hints(client=client))


def test_one_clients_slow_grammars_do_not_delay_others() -> None:
    compiler = SlowFor()
    core = open_core(compiler)
    for uid in range(20):
        core.add(of("slow", held(f"9{10 + uid}", uid)))
    core.add(of("quick", held("12", 100)))
    core.add(of("quick", held("34", 101)))
    ends: list[int] = []
    while len(ends) < 2:
        ends += [event.uid for event in core.step() if event.finish_reason]
    assert sorted(ends) == [100, 101]
    assert core._grammars.num_held == 20
    core.add(of("other", held("12", 102)))
    assert core.ledger.num_waiting == 1, "what is known waits for nobody"
    compiler.gate.set()
    finish(core)
    core.close()


def test_one_clients_grammars_do_not_cost_others_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prelude.engine.grammars._NUM_KEPT", 4)
    compiler = SlowFor()
    core = open_core(compiler)
    for uid, (client, text) in enumerate(
        [("b", "1"), *[("a", f"2{n}") for n in range(8)], ("b", "1")]
    ):
        core.add(of(client, held(text, uid)))
        finish(core)
    assert compiler.texts.count("1") == 1


def test_nobody_may_hold_more_room_than_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prelude.engine.grammars._MOST_HELD", 8)
    compiler = Compiler()
    core = open_core(compiler)
    refused = [bool(core.add(of("a", held("1", uid)))) for uid in range(6)]
    assert refused == [False] * 4 + [True] * 2
    assert [bool(core.add(of("b", held("2", 10 + n)))) for n in range(3)] == [False, False, True]
    assert core.stats().refused[REFUSAL_CODES.index("queue_full")] == 3
    core.abort(0)
    assert not core.add(of("c", held("3", 20)))
    core.abort_all()
    compiler.gate.set()


def test_what_all_have_given_up_is_not_compiled() -> None:
    compiler = Compiler()
    core = open_core(compiler)
    for uid in range(6):
        core.add(held(f"{uid + 1}", uid))
    for uid in range(1, 6):
        core.abort(uid)
    compiler.gate.set()
    finish(core)
    assert set(compiler.texts) <= {"1", "2"}, "two may have begun"
    core.add(held("4", 10))
    assert len(finish(core)[10, 0]) == 1
    core.close()


def test_what_was_given_up_when_it_had_begun_is_kept() -> None:
    compiler = Compiler()
    core = open_core(compiler)
    core.add(held("12", 1))
    core.abort(1)
    compiler.gate.set()
    job = core._grammars._compiling[next(iter(core._grammars._compiling))].job
    job.future.result(20)
    core.add(held("3", 2))
    finish(core)
    core.add(held("12", 3))
    finish(core)
    assert sorted(compiler.texts) == ["12", "3"]
    core.close()


def test_an_answer_that_cannot_go_on_ends_with_the_reason() -> None:
    compiler = Compiler()
    compiler.gate.set()
    core = open_core(compiler, depth=2)
    core.add(held("12x4", 1))
    found = finish(core)[1, 0]
    assert tokens(found) == [1, 2]
    assert found[-1].finish_reason == "error"
    assert found[-1].error == "guided_regex: cannot go on"


def test_the_end_comes_whatever_min_tokens_says() -> None:
    compiler = Compiler()
    compiler.gate.set()
    core = open_core(compiler)
    core.add(held("12", 1, min_tokens=5, max_tokens=9))
    found = finish(core)[1, 0]
    assert (tokens(found), found[-1].finish_reason) == ([1, 2], "stop")


@pytest.mark.parametrize("depth", [1, 2])
def test_who_loses_its_blocks_goes_on_where_it_was(depth: int) -> None:
    compiler = Compiler()
    compiler.gate.set()
    core = open_core(compiler, depth=depth, num_blocks=20)
    answers = ["1234567" * 6, "7654321" * 6, "3" * 40, "89" * 20]
    for uid, text in enumerate(answers):
        core.add(held(text, uid, max_tokens=60))
    found = finish(core)
    assert core.ledger.num_preemptions > 0
    for uid, text in enumerate(answers):
        assert tokens(found[uid, 0]) == [int(digit) for digit in text]
        assert found[uid, 0][-1].finish_reason == "stop"


def test_truncation_ends_it() -> None:
    compiler = Compiler()
    compiler.gate.set()
    core = open_core(compiler, depth=2)
    core.add(held("123456789", 1))
    events: list[TokenEvent] = []
    while len(tokens(events)) < 4:
        events += core.step()
    (last,) = core.truncate(1, 0, 2)
    assert last.finish_reason == "stop"
    assert finish(core) == {}


def test_the_ones_used_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prelude.engine.grammars._NUM_KEPT", 2)
    compiler = Compiler()
    compiler.gate.set()
    core = open_core(compiler)
    for uid, text in enumerate(["1", "2", "1", "3", "1", "2"]):
        core.add(held(text, uid))
        finish(core)
    assert compiler.texts == ["1", "2", "3", "2"]


def test_more_may_wait_than_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prelude.engine.grammars._NUM_KEPT", 2)
    compiler = Compiler()
    core = open_core(compiler)
    texts = [str(10 + i) for i in range(20)]
    for uid, text in enumerate(texts):
        assert core.add(held(text, uid)) == []
    compiler.gate.set()
    found = finish(core)
    assert [tokens(found[uid, 0]) for uid in range(20)] == [[int(d) for d in t] for t in texts]
    assert sorted(compiler.texts) == texts, "each is compiled once"
    core.close()


def test_params_without_a_constraint_are_untouched() -> None:
    assert SamplingParams().constraint is None
    assert SamplingParams(constraint=Constraint("json")).sample_mode == "full"


@pytest.mark.parametrize(("text", "num_tries"), [("?", 1), ("~", 2)])
def test_what_took_too_long_may_be_tried_again(text: str, num_tries: int) -> None:
    """Other refusals are final: it is the text's fault and nobody else's."""
    compiler = Compiler()
    compiler.gate.set()
    core = open_core(compiler)
    for uid in (1, 2):
        refused = core.add(held(text, uid))
        ((event,),) = finish(core).values() if not refused else [refused]
        assert event.finish_reason == "error"
    assert compiler.texts == [text] * num_tries
