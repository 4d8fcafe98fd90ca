"""How much work a grammar may be, in llguidance's units."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llguidance import LLParserLimits

_STEP_FUEL = 60_000  # of the lexer for one mask: some 30 ms, far more than any sane one takes
_STEP_ITEMS = 50_000
_LEXER_STATES = 100_000  # of a kilobyte or two


def parser_limits() -> "LLParserLimits":
    from llguidance import LLParserLimits

    return LLParserLimits(
        step_lexer_fuel=_STEP_FUEL,
        step_max_items=_STEP_ITEMS,
        max_lexer_states=_LEXER_STATES,
        verbose_errors=False,
    )
