"""What events tell of a sequence's class: as what it waited, when it changed, as what it ended."""

from typing import Any

import pytest

from prelude.conf.schema import BatcherConfig, Policy
from prelude.engine.core import EngineCore
from prelude.types.request import RequestTimings, TokenEvent
from tests.engines import make_core, request, run

ALWAYS = 1  # a token that ends no answer


def told(core: EngineCore, prompt_len: int, max_tokens: int) -> list[tuple[int, RequestTimings]]:
    """The timings of a lone request, with the number of the output token they came with."""
    core.add(request([5] * prompt_len, max_tokens=max_tokens, ignore_eos=True))
    events: list[TokenEvent] = run(core)
    return [(n, e.timings) for n, e in enumerate(events, 1) if e.timings is not None]


def classes(found: list[tuple[int, RequestTimings]]) -> list[tuple[int, str, str]]:
    return [(number, t.waited_as, t.service_class) for number, t in found]


def core_of(**batcher: Any) -> EngineCore:
    return make_core(model=lambda context: ALWAYS, policy=Policy.fcfs, **batcher)


def quantum(core: EngineCore) -> int:
    rules = core.rules
    return rules.quantum


def test_a_short_answer_tells_twice() -> None:
    assert classes(told(core_of(), 4, 3)) == [(1, "fast", "fast"), (3, "fast", "fast")]


def test_one_token_tells_once() -> None:
    assert classes(told(core_of(), 4, 1)) == [(1, "fast", "fast")]


def test_a_demotion_is_told_with_the_token_that_brought_it() -> None:
    core = core_of(probation_ms=1e-6)
    assert quantum(core) == 1
    found = classes(told(core, 4, 5))
    assert found == [(1, "fast", "deep"), (5, "fast", "deep")]


def test_a_document_stays_one_for_those_who_ask_how_long_it_waited() -> None:
    core = core_of(doc_ms=1e-6)
    found = classes(told(core, 20, 3))
    assert found == [(1, "doc", "fast"), (3, "doc", "fast")]


@pytest.mark.parametrize("max_tokens", [2, 7])
def test_times_never_run_backwards(max_tokens: int) -> None:
    found = [timings for _, timings in told(core_of(), 6, max_tokens)]
    assert [t.decode_ms for t in found] == sorted(t.decode_ms for t in found)
    assert found[0].decode_ms == 0
    assert len({(t.queue_ms, t.prefill_ms) for t in found}) == 1


def test_who_never_got_a_token_waited_as_what_it_is() -> None:
    core = make_core(doc_ms=1e-6)
    core.add(request([5] * 20, uid=7, max_tokens=3))
    (event,) = core.abort(7)
    assert event.timings is not None
    assert (event.timings.waited_as, event.timings.service_class) == ("doc", "doc")


def test_defaults_judge_by_prices() -> None:
    assert BatcherConfig().doc_ms is None
    assert quantum(core_of()) > 1
