"""What an answer must look like, whatever the model would rather say."""

from typing import Literal

import msgspec

ConstraintKind = Literal["json", "json_schema", "regex", "choice", "lark"]


class Constraint(msgspec.Struct, frozen=True, omit_defaults=True):
    """``text`` is, by ``kind``: nothing ("json": any JSON object), a JSON schema as JSON text, a
    regular expression that the whole answer matches, a JSON list of strings of which it is one,
    a grammar in llguidance's dialect of Lark. ``after_reasoning`` leaves everything free up to and
    including the model's token that ends reasoning."""

    kind: ConstraintKind
    text: str = ""
    after_reasoning: bool = False
