"""Registering custom ops in torch's ``prelude`` namespace.

``torch.library.custom_op`` would cost 10 microseconds more per eager call than this does, and
there are two calls per layer.
"""

from collections.abc import Callable
from typing import Any

import torch

_library: Any = torch.library  # torch's own annotations of it are incomplete
_FRAGMENT: Any = _library.Library("prelude", "FRAGMENT")


def define(schema: str, fake: Callable[..., Any], cpu: Callable[..., Any]) -> None:
    """Define ``prelude::<schema>`` with its shape function and its implementation on CPU."""
    name = schema.split("(", 1)[0]
    _FRAGMENT.define(schema)
    _library.register_fake(f"prelude::{name}", fake, lib=_FRAGMENT)
    _FRAGMENT.impl(name, cpu, "CPU")
