"""Constrained answers of the demo model: those of a naive loop that masks every logit, the same on
the captured runner, and valid whatever else is in the batch."""

import json
import random
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer

from prelude.cache.layout import KVLayout
from prelude.conf.schema import BatcherConfig, CacheConfig
from prelude.engine.core import EngineCore
from prelude.engine.grammars import Grammars
from prelude.graphs.buckets import Buckets
from prelude.models.paths import resolve_model_path
from prelude.runner.captured import CapturedRunner
from prelude.runner.captured_programs import NoPlanning
from prelude.text.grammar import GrammarCompiler
from prelude.text.grammar_source import grammar_source
from prelude.text.tokenizer import Tokenizer
from prelude.types.constraint import Constraint
from prelude.types.request import Request, SamplingParams, TokenEvent
from tests.device_double import DeviceDouble
from tests.engines import events_of
from tests.model_samples import load, reference, reference_logits
from tests.parity import open_engine

FOLDER = resolve_model_path("demo")
TOKENIZER = Tokenizer.load(FOLDER)
EOS = (2,)
PLAIN = {
    "graphs.capture": "eager",
    "runner.batch_invariant": True,
    "cache.block_size": 16,
    "cache.num_blocks": 60,
    "model.max_len": 256,
    "runner.max_seqs": 6,
    "batcher.max_step_tokens": 32,
    "batcher.min_chunk": 3,
    "batcher.headroom": 1,
}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["a", "b", "cd"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
CONSTRAINTS = (
    Constraint("choice", '["yes", "no", "not at all"]'),
    Constraint("regex", "[A-Z][a-z]{2,12} [0-9]+(, [0-9]+){3}"),
    Constraint("json_schema", json.dumps(PERSON)),
    Constraint("json"),
    Constraint("lark", 'root ::= "(" root ")" | [a-z]+'),
)


@pytest.fixture(scope="module")
def core() -> Iterator[EngineCore]:
    engine = open_engine(FOLDER, PLAIN)
    torch.set_num_threads(1)
    yield engine
    engine.close()


def ask(uid: int, text: str, **params: Any) -> Request:
    prompt = TOKENIZER.encode_chat([{"role": "user", "content": text}])
    return Request(uid=uid, prompt_ids=prompt, params=SamplingParams(**params))


def tokens(events: list[TokenEvent]) -> list[int]:
    return [token for event in events for token in event.token_ids]


def naive(model: Any, prompt: list[int], constraint: Constraint, num: int) -> list[int]:
    """One token after the other, the whole context every time, the mask on the whole row."""
    text = (FOLDER / "tokenizer.json").read_text()
    matcher = LLMatcher(LLTokenizer(text, 640, list(EOS)), grammar_source(constraint))
    answer: list[int] = []
    while len(answer) < num and not matcher.is_stopped():
        logits = reference_logits(model, prompt + answer)[-1]
        bits = matcher.compute_bitmask()
        for token in range(len(logits)):
            if not bits[token // 8] >> token % 8 & 1:
                logits[token] = -torch.inf
        answer.append(int(logits.argmax()))
        assert matcher.consume_token(answer[-1])
    return answer


@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=lambda c: c.kind)
def test_greedy_answers_are_those_of_a_naive_loop(core: EngineCore, constraint: Constraint) -> None:
    asked = ask(1, "Tell me of the sea.", temperature=0.0, max_tokens=40, constraint=constraint)
    answer = tokens(events_of(core, [asked])[1, 0])
    assert answer == naive(reference(FOLDER), asked.prompt_ids, constraint, 40)
    assert answer


def some_params(rng: random.Random) -> dict[str, Any]:
    return {
        "max_tokens": 60,
        "min_tokens": rng.choice([0, 0, 6]),
        "temperature": rng.choice([0.0, 0.8, 1.5]),
        "top_k": rng.choice([0, 3]),
        "top_p": rng.choice([1.0, 0.7]),
        "presence_penalty": rng.choice([0.0, 0.9]),
        "repetition_penalty": rng.choice([1.0, 1.3]),
        "logit_bias": rng.choice([{}, {7: 3.0, 90: 100.0}]),
        "allowed_token_ids": rng.choice([(), (), (5, 6)]),
        "logprobs": rng.choice([None, 2]),
        "ignore_eos": rng.random() < 0.3,
        "n": rng.choice([1, 1, 3]),
        "seed": rng.randrange(2**40),
    }


def mixed(count: int, **more: Any) -> list[Request]:
    """Every other one free, the rest constrained in turns."""
    rng = random.Random(3)
    return [
        ask(
            uid,
            f"Question {uid}: who are you?",
            **some_params(rng)
            | {"constraint": CONSTRAINTS[uid // 2 % len(CONSTRAINTS)] if uid % 2 else None}
            | more,
        )
        for uid in range(count)
    ]


def whole_story(events: list[TokenEvent]) -> tuple[list[int], str | None, str | None]:
    return tokens(events), events[-1].finish_reason, events[-1].error


def test_answers_do_not_depend_on_runner_or_company(core: EngineCore) -> None:
    asked = mixed(10)
    together = events_of(core, asked)
    for request in asked[1:6:2]:
        alone = events_of(core, [request])
        for key in alone:
            assert whole_story(alone[key]) == whole_story(together[key]), key
    other = captured_engine()
    captured = events_of(other, asked)
    other.close()
    assert captured.keys() == together.keys()
    for key in together:
        assert whole_story(captured[key]) == whole_story(together[key]), key


def captured_engine() -> EngineCore:
    decoder = load(FOLDER)
    spec = decoder.spec
    layout = KVLayout(spec.num_layers, 16, spec.num_kv_heads, spec.head_dim, torch.float32)
    buckets = Buckets(decode=(1, 2, 4, 6), prefill=(16, 32), max_rows=6)
    runner = CapturedRunner(
        decoder,
        layout,
        DeviceDouble(),
        NoPlanning(),
        num_blocks=60,
        max_len=256,
        max_seqs=6,
        max_step_tokens=32,
        buckets=buckets,
    )
    while runner.programs.ready < runner.programs.total:
        runner.upkeep()
    return EngineCore(
        runner,
        batcher=BatcherConfig(max_step_tokens=32, min_chunk=3, headroom=1),
        cache=CacheConfig(block_size=16, num_blocks=60),
        max_seqs=6,
        eos_ids=EOS,
        buckets=buckets,
        grammars=Grammars(GrammarCompiler(FOLDER / "tokenizer.json", 640, EOS)),
    )


def test_memory_pressure_changes_no_answer(core: EngineCore) -> None:
    asked = mixed(12)
    roomy = events_of(core, asked)
    small = open_engine(FOLDER, PLAIN | {"cache.num_blocks": 18, "runner.overlap": "always"})
    pressed = events_of(small, asked)
    assert small.ledger.num_preemptions + small.ledger.num_parks > 0
    small.close()
    assert {key: whole_story(pressed[key]) for key in pressed} == {
        key: whole_story(roomy[key]) for key in roomy
    }


def test_logprobs_are_those_of_the_raw_logits(core: EngineCore) -> None:
    asked = ask(1, "Hi", temperature=0.0, logprobs=5, constraint=CONSTRAINTS[0], max_tokens=8)
    (first, *_) = events_of(core, [asked])[1, 0]
    logits = reference_logits(reference(FOLDER), asked.prompt_ids)[-1]
    table = torch.log_softmax(logits, dim=-1)
    assert first.logprobs is not None
    assert first.logprobs[0].logprob == pytest.approx(float(table[first.token_ids[0]]), abs=1e-3)
    assert first.logprobs[0].top_ids == table.topk(5).indices.tolist()


def names() -> st.SearchStrategy[str]:
    return st.sampled_from(["a", "bc", "key one", 'q"uote', "é"])


def schemas() -> st.SearchStrategy[dict[str, Any]]:
    leaf = st.one_of(
        st.just({"type": "boolean"}),
        st.just({"type": "null"}),
        st.builds(
            lambda low, more: {"type": "integer", "minimum": low, "maximum": low + more},
            st.integers(-50, 50),
            st.integers(0, 1000),
        ),
        st.builds(
            lambda low, more: {"type": "string", "minLength": low, "maxLength": low + more},
            st.integers(0, 2),
            st.integers(0, 3),
        ),
        st.just({"type": "string", "pattern": "^[a-f]{1,3}$"}),
        st.just({"type": "string", "format": "date"}),
        st.builds(lambda v: {"enum": v}, st.lists(st.text(max_size=4), min_size=1, max_size=3)),
        st.builds(lambda v: {"const": v}, st.integers() | st.text(max_size=4)),
    )

    def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
        def an_object(properties: dict[str, Any], num_optional: int) -> dict[str, Any]:
            return {
                "type": "object",
                "properties": properties,
                "required": list(properties)[num_optional:],
                "additionalProperties": False,
            }

        return st.one_of(
            st.builds(an_object, st.dictionaries(names(), inner, max_size=3), st.integers(0, 2)),
            st.builds(
                lambda items, num: {"type": "array", "items": items, "maxItems": num},
                inner,
                st.integers(0, 2),
            ),
            st.builds(lambda parts: {"anyOf": parts}, st.lists(inner, min_size=1, max_size=2)),
        )

    return st.recursive(leaf, nested, max_leaves=4)


REGEXES = st.sampled_from(
    ["[a-c]{2,5}", "(ab|c)*d", r"\d{1,3}(\.\d{1,3}){3}", "x?y?z?!", "(?i)yes|no", "[^a-z]{3}"]
)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    wanted=st.lists(schemas(), min_size=1, max_size=3),
    regex=REGEXES,
    choices=st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=4),
    seed=st.integers(0, 2**31),
)
def test_whatever_is_complete_is_valid(
    core: EngineCore, wanted: list[dict[str, Any]], regex: str, choices: list[str], seed: int
) -> None:
    constraints = [
        *(Constraint("json_schema", json.dumps(schema)) for schema in wanted),
        Constraint("regex", regex),
        Constraint("choice", json.dumps(choices)),
        None,
    ]
    hot = {"temperature": 1.0, "seed": seed, "max_tokens": 80}
    asked = [ask(i, "Go", constraint=c, **hot) for i, c in enumerate(constraints)]
    found = events_of(core, asked)
    texts = [
        TOKENIZER.decode(tokens(found[i, 0])) if found[i, 0][-1].finish_reason == "stop" else None
        for i in range(len(constraints))
    ]
    assert all(found[i, 0][-1].finish_reason in ("stop", "length") for i in range(len(asked)))
    for schema, text in zip(wanted, texts[: len(wanted)], strict=True):
        if text is not None:
            jsonschema.validate(json.loads(text), schema)
    if texts[-3] is not None:
        assert re.fullmatch(regex, texts[-3])
    if texts[-2] is not None:
        assert texts[-2] in choices
