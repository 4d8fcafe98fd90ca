"""From a constraint to the text that llguidance compiles. Nothing here is bounded in time, so texts
of strangers only come here in a process that may be killed.
"""

import json

from prelude.types.constraint import Constraint, ConstraintError

# One space, or a new line with its indent: a model that may write white space for ever sometimes
# does.
_WHITE_SPACE = r" |\r?\n[ \t]{0,24}"
_ANY_OBJECT = '{"type":"object"}'


def grammar_source(constraint: Constraint) -> str:
    """Raises ``ConstraintError`` for a text that is no such thing."""
    try:
        return _source(constraint)
    except ConstraintError:
        raise
    except Exception as error:  # of many kinds, bare ones among them
        raise ConstraintError(f"not a valid {_NAMES[constraint.kind]}: {error}") from error


_NAMES = {
    "json": "JSON object",
    "json_schema": "JSON schema",
    "regex": "regular expression",
    "choice": "list of choices",
    "lark": "grammar",
}


def _source(constraint: Constraint) -> str:
    from llguidance import LLMatcher
    from llguidance.gbnf_to_lark import any_to_lark

    text = constraint.text
    match constraint.kind:
        case "json":
            return _from_schema(_ANY_OBJECT)
        case "json_schema":
            return _from_schema(text)
        case "regex":
            if (len(text) - len(text.rstrip("\\"))) % 2:
                raise ConstraintError("the regular expression ends with a lone backslash")
            return LLMatcher.grammar_from_regex(text)
        case "choice":
            return LLMatcher.grammar_from_lark(_choice(text))
        case "lark":
            return LLMatcher.grammar_from_lark(any_to_lark(text))


def _from_schema(text: str) -> str:
    from llguidance import LLMatcher

    # "x-guidance" in a schema comes before these.
    return LLMatcher.grammar_from_json_schema(text, defaults={"whitespace_pattern": _WHITE_SPACE})


def _choice(text: str) -> str:
    """All of them as one terminal, so that one may be the beginning of another."""
    choices = json.loads(text)
    if not isinstance(choices, list) or not choices:
        raise ConstraintError("must be a list of at least one string")
    if not all(isinstance(choice, str) for choice in choices):
        raise ConstraintError("must be a list of strings")
    return "start: CHOICE\nCHOICE: " + " | ".join(map(json.dumps, choices))
