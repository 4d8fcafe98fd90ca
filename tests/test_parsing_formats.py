"""Which format a chat template speaks, and grammars that hold answers to it."""

import json
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from prelude.text.parsing.force import enforceable, forced_calls, strict_calls
from prelude.text.parsing.formats import FORMATS, spoken_format
from prelude.text.tokenizer import Tokenizer
from tests.parsing_samples import calls_of, parsed
from tests.text_samples import byte_level, byte_level_folder


def speaking(template: str) -> Tokenizer:
    plain = byte_level()
    return Tokenizer(plain.backend, {"default": template}, plain.special_tokens, plain.eos_ids)


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ('{{ tools }} <tool_call>\\n{"name": <function-name>', "hermes"),
        ("{{ tools }} <tool_call>\\n<function=example_function_name>", "qwen3_coder"),
        ("{{ tools }} [AVAILABLE_TOOLS] [TOOL_CALLS]", "mistral"),
        ("{{ tools }} Environment: ipython", "llama3_json"),
        ("{{ tools }} <|python_tag|>", "llama3_json"),
        ("{{ tools }} <|python_start|>", "llama4_pythonic"),
        ("{{ tools }} something new", None),
        ("<tool_call> but no place for them", None),
    ],
)
def test_the_template_says_which_format_the_model_writes(template: str, name: str | None) -> None:
    found = spoken_format(speaking(template))
    assert (None if found is None else found.name) == name


SCHEMAS: dict[str, dict[str, Any]] = {
    "add": {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/number"}},
        "required": ["a"],
        "additionalProperties": False,
        "$defs": {"number": {"type": "integer", "description": "not GBNF: x ::= y"}},
    },
    "now": {},
}
MARKS = ("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]")


def tokenizer_with(*marks: str) -> tuple[Tokenizer, LLTokenizer]:
    backend = Backend.from_file(str(byte_level_folder() / "tokenizer.json"))
    backend.add_special_tokens([AddedToken(mark, normalized=False) for mark in marks])
    plain = byte_level()
    tokenizer = Tokenizer(backend, {}, plain.special_tokens, plain.eos_ids)
    return tokenizer, LLTokenizer(backend.to_str(), n_vocab=tokenizer.vocab_size)


def follows(grammar: str, text: str, *marks: str) -> bool:
    """Whether ``text`` keeps to it to its end."""
    tokenizer, words = tokenizer_with(*marks)
    matcher = LLMatcher(words, LLMatcher.grammar_from_lark(grammar), log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    ids = tokenizer.encode(text, add_special_tokens=False)
    return bool(matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting())


def hermes(a: Any) -> str:
    return f'<tool_call>\n{{"name": "add", "arguments": {{"a": {json.dumps(a)}}}}}\n</tool_call>'


TWO = {
    ("hermes", ()): f"{hermes(1)}\n{hermes(2)}",
    ("hermes", MARKS): f"{hermes(1)}\n{hermes(2)}",
    ("mistral", ()): '[TOOL_CALLS][{"name": "add", "arguments": {"a": 1}}, '
    '{"name": "add", "arguments": {"a": 2}}]',
    ("mistral", MARKS): '[TOOL_CALLS]add[ARGS]{"a": 1}[TOOL_CALLS]add[ARGS]{"a": 2}',
    ("llama3_json", ()): '{"name": "add", "parameters": {"a": 1}}; '
    '{"name": "add", "parameters": {"a": 2}}',
    (
        "json",
        (),
    ): '[{"name": "add", "arguments": {"a": 1}}, {"name": "add", "arguments": {"a": 2}}]',
}


@pytest.mark.parametrize(("form", "marks"), TWO)
def test_forced_calls_are_what_the_parser_reads(form: str, marks: tuple[str, ...]) -> None:
    text = TWO[form, marks]
    tokenizer, _ = tokenizer_with(*marks)

    def grammar(limit: int | None) -> str:
        return forced_calls(
            FORMATS[form],
            SCHEMAS,
            tokenizer.added_id,
            limit=limit,
            is_strict=False,
        )

    assert calls_of(parsed(form, [text])) == [("add", {"a": 1}), ("add", {"a": 2})]
    assert follows(grammar(None), text, *marks)
    assert not follows(grammar(1), text, *marks)
    assert not follows(grammar(None), text.replace('"a": 2', '"a": "x"'), *marks)
    assert not follows(grammar(None), text.replace("add", "sub"), *marks)
    assert not follows(grammar(None), f"Sure. {text}", *marks)
    assert not follows(grammar(None), "", *marks)


def test_formats_without_json_have_one_that_can_be_enforced() -> None:
    for form in FORMATS.values():
        assert enforceable(form).name in ("hermes", "mistral", "llama3_json", "json")
        assert enforceable(enforceable(form)) is enforceable(form)


def test_strict_calls_may_stand_in_any_text() -> None:
    tokenizer, _ = tokenizer_with(*MARKS)
    grammar = strict_calls(FORMATS["hermes"], SCHEMAS, tokenizer.added_id)
    assert grammar is not None
    for text in ("", "Hello.\n", hermes(1), f"Sure: {hermes(1)}\n{hermes(2)} so"):
        assert follows(grammar, text, *MARKS)
    assert not follows(grammar, hermes("x"), *MARKS)
    assert not follows(grammar, hermes(1).removesuffix("</tool_call>"), *MARKS)
    assert strict_calls(FORMATS["hermes"], SCHEMAS, byte_level().added_id) is None
    assert strict_calls(FORMATS["json"], SCHEMAS, tokenizer.added_id) is None


def test_what_cannot_be_enforced_counts_for_strict_tools_only() -> None:
    schemas = {"f": {"type": "object", "properties": {"a": {"not": {"type": "null"}}}}}
    _, words = tokenizer_with()

    def error(is_strict: bool) -> str:
        text = forced_calls(
            FORMATS["json"], schemas, lambda mark: None, limit=1, is_strict=is_strict
        )
        return LLMatcher(words, LLMatcher.grammar_from_lark(text), log_level=0).get_error()

    assert not error(is_strict=False)
    assert "not" in error(is_strict=True)
