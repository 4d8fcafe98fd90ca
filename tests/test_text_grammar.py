"""Grammars and the matchers they give: what is allowed, where they end, and what is refused."""

import io
import json
import os
import resource
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prelude.text import grammar_matcher, grammar_worker
from prelude.text.grammar import Grammar, GrammarCompiler
from prelude.text.grammar_matcher import TokenMatcher
from prelude.text.grammar_source import grammar_source
from prelude.text.grammar_trial import Trial
from prelude.text.grammar_worker import Job, Verdict, Words
from prelude.text.tokenizer import Tokenizer
from prelude.types.constraint import (
    Constraint,
    ConstraintError,
    ConstraintKind,
    SlowConstraintError,
)
from tests.text_samples import byte_level_folder

FOLDER = byte_level_folder()
TOKENIZER = Tokenizer.load(FOLDER)
SIZE = TOKENIZER.vocab_size
EOS = TOKENIZER.eos_ids
THINK, DONE = (TOKENIZER.encode(text)[0] for text in ("<think>", "</think>"))


@pytest.fixture(scope="module")
def compiler() -> Iterator[GrammarCompiler]:
    made = GrammarCompiler(FOLDER / "tokenizer.json", SIZE, EOS, limit_s=2.0)
    yield made
    made.close()


def allowed(matcher: TokenMatcher) -> set[int]:
    mask = np.zeros(-(-SIZE // 32), dtype=np.int32)
    matcher.fill(mask)
    return set(np.unpackbits(mask.view(np.uint8), bitorder="little", count=SIZE).nonzero()[0])


def walk(matcher: TokenMatcher, text: str) -> TokenMatcher:
    """Every token of ``text`` must have been allowed."""
    for token in TOKENIZER.encode(text, add_special_tokens=False):
        assert token in allowed(matcher), text
        matcher.accept(token)
    return matcher


def takes(grammar: Grammar, text: str) -> bool:
    """Whether ``text`` is a whole answer."""
    matcher = grammar.matcher(Constraint("json"))
    for token in TOKENIZER.encode(text, add_special_tokens=False):
        if matcher.ended is not None or token not in allowed(matcher):
            return False
        matcher.accept(token)
    return matcher.ended == "stop" or EOS[0] in allowed(matcher)


def compiled(compiler: GrammarCompiler, kind: ConstraintKind, value: object = "") -> Grammar:
    text = value if isinstance(value, str) else json.dumps(value)
    return compiler.compile(Constraint(kind, text))


@pytest.mark.parametrize(
    ("kind", "value", "good", "bad"),
    [
        ("json", "", ["{}", '{"a": [1, null]}'], ["[]", '"x"', "{", " {}", "{} "]),
        ("choice", ["yes", "yes, but", 'n"o\n'], ["yes", "yes, but", 'n"o\n'], ["y", "no", ""]),
        ("regex", "[0-9]{3}-[a-c]+", ["123-abc"], ["12-a", "123-", "123-abd"]),
        ("regex", "^ab$", ["ab"], ["^ab$", "a"]),
        ("regex", "a/b\\\\", ["a/b\\"], ["a/b"]),
        ("lark", 'start: "a" | "b" start', ["a", "bba"], ["b", "ab"]),
        ("lark", 'root ::= "a" | "b" root', ["a", "bba"], ["b", "ab"]),
        ("json_schema", {"type": "integer"}, ["12", "-3"], ["1.5", '"1"']),
        ("json_schema", {"enum": ["a", 1]}, ['"a"', "1"], ["a", "2"]),
        ("json_schema", {"type": "string", "pattern": "^x+$"}, ['"xx"'], ['"y"']),
        (
            "json_schema",
            {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]},
            ['{"a":true}', '{"a": true, "b": 1}', '{\n  "a": true\n}'],
            ["{}", '{"a":\n\n\n true}'],
        ),
    ],
)
def test_what_is_an_answer_and_what_is_not(
    compiler: GrammarCompiler, kind: ConstraintKind, value: object, good: list[str], bad: list[str]
) -> None:
    grammar = compiled(compiler, kind, value)
    assert [text for text in good if not takes(grammar, text)] == []
    assert [text for text in bad if takes(grammar, text)] == []


@pytest.mark.parametrize(
    ("kind", "text", "says"),
    [
        ("json_schema", "{", "not a valid JSON schema"),
        ("json_schema", "3", "not a valid JSON schema"),
        ("json_schema", '{"type": "strnig"}', "strnig"),
        ("json_schema", '{"not": {}}', "not"),
        ("json_schema", '{"$ref": "#/$defs/no"}', "/$defs/no"),
        ("json_schema", '{"$ref": "https://example.com/schema"}', "example.com"),
        ("json_schema", '{"$ref":"#/$defs/a","$defs":{"a":{"$ref":"#/$defs/a"}}}', "no answer"),
        ("json_schema", '{"type": "string", "minLength": 3, "maxLength": 1}', "minLength"),
        ("json_schema", '{"a":' * 5000 + "1" + "}" * 5000, "recursion"),
        ("regex", "(a", "unclosed"),
        ("regex", "a\\", "backslash"),
        ("regex", "(?=a)b", "look-ahead"),
        ("regex", "[^\\s\\S]", "no answer"),
        ("choice", "[]", "at least one"),
        ("choice", "[1]", "strings"),
        ("choice", "{", "not a valid list"),
        ("lark", "start: nobody", "nobody"),
        ("lark", 'root ::= "a" nobody', "not a valid grammar"),
        ("lark", "start: start", "no answer"),
    ],
)
def test_what_can_be_nobodys_answer_is_refused(
    compiler: GrammarCompiler, kind: ConstraintKind, text: str, says: str
) -> None:
    with pytest.raises(ConstraintError, match=says.replace("$", "\\$")):
        compiler.compile(Constraint(kind, text))


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("regex", ".*" * 20_000),
        (
            "json_schema",
            json.dumps({"allOf": [{"type": "string", "pattern": f"a{i}|b.*"} for i in range(40)]}),
        ),
    ],
    ids=["many stars", "many patterns"],
)
def test_what_would_take_for_ever_is_given_up(kind: ConstraintKind, text: str) -> None:
    compiler = GrammarCompiler(FOLDER / "tokenizer.json", SIZE, EOS, limit_s=0.3)
    with pytest.raises(ConstraintError, match=r"more than 0.3 s"):
        compiler.compile(Constraint(kind, text))
    assert takes(compiled(compiler, "regex", "ab"), "ab"), "the next one is none the worse"
    compiler.close()


def test_a_worker_that_dies_is_replaced() -> None:
    trial = Trial(Words(300, {0: "<eos>"}), 5.0)
    assert trial.source(Constraint("regex", "ab"))
    (worker,) = trial._idle
    first = worker._process
    assert first is not None
    first.kill()
    assert trial.source(Constraint("regex", "ab")), "it did not die of this one"
    assert trial._idle == [worker]
    assert worker._process is not first
    assert first.returncode is not None, "nobody is left to be buried"
    trial.close()
    assert worker._process is None
    with pytest.raises(SlowConstraintError, match="ending"):
        trial.source(Constraint("regex", "ab"))
    assert worker._process is None, "nothing is started only to be ended"


def test_one_that_takes_long_does_not_hold_up_another_and_may_be_cut_off() -> None:
    trial = Trial(Words(300, {0: "<eos>"}), 60.0)
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(trial.source, Constraint("regex", ".*" * 20_000))
        while not trial._busy:
            pass
        assert trial.source(Constraint("regex", "ab"))
        assert not slow.done()
        (worker,) = trial._busy
        while worker._process is None:
            pass
        trial.close()
        assert isinstance(slow.exception(20), SlowConstraintError)
        assert worker._process is None


def test_a_process_that_cannot_be_started_is_nobodys_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trial = Trial(Words(300, {0: "<eos>"}), 5.0)

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as broken:
        broken.setattr("subprocess.Popen", full)
        with pytest.raises(SlowConstraintError, match=r"Too many open files.*later"):
            trial.source(Constraint("regex", "ab"))
    assert trial.source(Constraint("regex", "ab"))
    trial.close()


def test_what_everybody_needs_is_made_when_all_is_quiet() -> None:
    compiler = GrammarCompiler(FOLDER / "tokenizer.json", SIZE, EOS)
    quiet = threading.Event()
    compiler.warm_when(quiet)
    assert compiler._tools is None
    quiet.set()
    (thread,) = [one for one in threading.enumerate() if one.name == "prelude-warm"]
    thread.join(20)
    made = compiler._tools
    assert made is not None
    assert takes(compiled(compiler, "regex", "ab"), "ab")
    assert compiler._tools is made
    compiler.close()


def test_a_compiler_that_was_closed_starts_nothing() -> None:
    compiler = GrammarCompiler(FOLDER / "tokenizer.json", SIZE, EOS)
    compiler.close()
    with pytest.raises(SlowConstraintError, match="ending"):
        compiler.compile(Constraint("regex", "ab"))


def test_what_a_worker_used_for_others_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Used:
        ru_utime, ru_stime = 100.5, 40.0

    lines = [Words(300, {0: "<eos>"}), Job(Constraint("regex", "ab"), 5.0)]
    stdin = io.BytesIO(b"\n".join(map(msgspec.json.encode, lines)) + b"\n")
    limits: list[tuple[int, tuple[int, int]]] = []
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(stdin))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out := io.BytesIO()))
    monkeypatch.setattr(os, "nice", lambda by: by)
    monkeypatch.setattr(resource, "getrusage", lambda who: Used)
    monkeypatch.setattr(resource, "setrlimit", lambda what, limit: limits.append((what, limit)))
    grammar_worker.main()
    assert not msgspec.json.decode(out.getvalue(), type=Verdict).error
    ((_, memory), (what, (soft, _))) = limits
    assert memory[0] == 2 * 2**30
    assert (what, soft) == (resource.RLIMIT_CPU, 148)


_KEYWORDS = """type properties items anyOf allOf oneOf $ref $defs enum pattern minLength maxItems
required format x-guidance not const additionalProperties prefixItems minimum multipleOf""".split()
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(_KEYWORDS),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.tuples(st.just("json_schema"), JSON_VALUES.map(json.dumps) | st.text(max_size=40))
    | st.tuples(st.just("regex"), st.text(alphabet="ab(){}[]|*+?.\\^$,13-pLd", max_size=24))
    | st.tuples(st.just("lark"), st.text(alphabet='starof: "/|()[]+*?\n::=<>%{}1', max_size=40))
    | st.tuples(st.just("choice"), st.text(max_size=20))
)
def test_any_text_compiles_or_is_refused(
    compiler: GrammarCompiler, pair: tuple[ConstraintKind, str]
) -> None:
    try:
        grammar = compiler.compile(Constraint(*pair))
    except ConstraintError as error:
        assert str(error)
        return
    matcher = grammar.matcher(Constraint("json"))
    for _ in range(4):
        if matcher.ended is None:
            matcher.accept(min(allowed(matcher)))


def test_a_grammar_that_is_complete_ends_the_answer(compiler: GrammarCompiler) -> None:
    grammar = compiled(compiler, "regex", "ab|abc")
    matcher = walk(grammar.matcher(Constraint("regex")), "ab")
    assert matcher.ended is None
    assert set(EOS) < allowed(matcher), "every end is one"
    assert walk(matcher, "c").ended == "stop"
    other = walk(grammar.matcher(Constraint("regex")), "ab")
    other.accept(EOS[-1])
    assert other.ended == "stop"


def test_who_ignores_ends_gets_none(compiler: GrammarCompiler) -> None:
    grammar = compiled(compiler, "regex", "a{1,2}")
    matcher = walk(grammar.matcher(Constraint("regex"), ignore_eos=True), "a")
    assert not allowed(matcher) & set(EOS)
    assert walk(matcher, "a").ended == "stop"


@pytest.mark.parametrize(
    ("kind", "value"), [("choice", [""]), ("regex", ""), ("lark", 'start: ""')]
)
def test_an_answer_of_nothing_ends_whoever_ignores_ends(
    compiler: GrammarCompiler, kind: ConstraintKind, value: object
) -> None:
    matcher = compiled(compiler, kind, value).matcher(Constraint(kind), ignore_eos=True)
    assert allowed(matcher) and allowed(matcher) <= set(EOS)
    matcher.accept(min(allowed(matcher)))
    assert matcher.ended == "stop"


def test_copies_are_on_their_own(compiler: GrammarCompiler) -> None:
    grammar = compiled(compiler, "choice", ["abc", "xyz"])
    one, other = (grammar.matcher(Constraint("choice")) for _ in range(2))
    walk(one, "ab")
    assert walk(other, "xyz").ended == "stop"
    assert walk(one, "c").ended == "stop"


def test_a_token_that_is_not_allowed_is_an_error(compiler: GrammarCompiler) -> None:
    matcher = compiled(compiler, "regex", "ab").matcher(Constraint("regex"))
    matcher.accept(TOKENIZER.encode("x")[0])
    assert matcher.ended == "error"
    assert "too complex" in matcher.error
    assert not allowed(matcher) & set(EOS), (
        "what comes after is dropped, and must not stop anything"
    )


def test_masks_that_take_too_long_end_the_answer(
    compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammar_matcher, "_ALLOWANCE_S", 0.0)
    monkeypatch.setattr(grammar_matcher, "_MASK_S", -1.0)
    matcher = compiled(compiler, "regex", "ab").matcher(Constraint("regex"))
    allowed(matcher)
    assert matcher.ended == "error"
    assert "takes too long" in matcher.error


def test_reasoning_is_free_and_has_no_end_but_its_own(compiler: GrammarCompiler) -> None:
    grammar = compiled(compiler, "regex", "ab")
    matcher = grammar.matcher(Constraint("regex", after_reasoning=True))
    assert allowed(matcher) == set(range(SIZE)) - set(EOS)
    walk(matcher, "anything")
    matcher.accept(DONE)
    assert matcher.wish_id == TOKENIZER.encode("\n")[0], "this tokenizer has no token for two"
    matcher.accept(matcher.wish_id)
    assert matcher.wish_id is None
    assert walk(matcher, "ab").ended == "stop"


def test_reasoning_may_be_wished_for_once(compiler: GrammarCompiler) -> None:
    grammar = compiled(compiler, "regex", "ab")
    matcher = grammar.matcher(Constraint("regex", may_reason=True))
    assert matcher.wish_id == THINK
    assert THINK not in allowed(matcher)
    matcher.accept(THINK)
    assert len(allowed(matcher)) == SIZE - len(EOS)
    plain = walk(grammar.matcher(Constraint("regex", may_reason=True)), "a")
    assert plain.wish_id is None


def test_a_tokenizer_that_is_of_no_use(tmp_path: Path) -> None:
    for text in ("{", '{"model": {}}'):
        (tmp_path / "tokenizer.json").write_text(text)
        broken = GrammarCompiler(tmp_path / "tokenizer.json", SIZE, EOS)
        with pytest.raises(ConstraintError, match="tokenizer"):
            broken.compile(Constraint("json"))


def test_a_package_that_is_missing(
    compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConstraintError, match="pip install llguidance"):
        compiler.compile(Constraint("json"))


def test_sources_say_what_they_are() -> None:
    assert "CHOICE" in grammar_source(Constraint("choice", '["a", "b"]'))
    assert "object" in grammar_source(Constraint("json"))
