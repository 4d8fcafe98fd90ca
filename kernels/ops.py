"""Custom ops in torch's ``prelude`` namespace, and what they run on CPU.

An op is defined once per process. Its implementation on CPU is the choice of the process: Python
functions or, in their place, a compiled library whose ops torch's dispatcher reaches without Python
(``cpu/op.h``).
"""

import ctypes
from collections.abc import Callable, Mapping
from typing import Any

import torch

_library: Any = torch.library  # torch's own annotations of it are incomplete
_FRAGMENT: Any = _library.Library("prelude", "FRAGMENT")


def define(schema: str, fake: Callable[..., Any]) -> None:
    """Define ``prelude::<schema>`` with its shape function."""
    name = schema.split("(", 1)[0]
    _FRAGMENT.define(schema)
    _library.register_fake(f"prelude::{name}", fake, lib=_FRAGMENT)


class CpuOps:
    """What some ops of the namespace run on CPU: the Python functions given, by the ops' names,
    until a library takes their place."""

    def __init__(self, functions: Mapping[str, Callable[..., Any]]) -> None:
        self._functions = functions
        self._python: Any = None
        self._compiled: ctypes.CDLL | None = None
        self.use_python()

    def use_python(self) -> None:
        self._release()
        self._python = _library.Library("prelude", "IMPL", "CPU")
        for name, function in self._functions.items():
            self._python.impl(name, function)

    def use_compiled(self, library: ctypes.CDLL, option: int = 0) -> None:
        """``library`` must implement the same ops; ``option`` is handed to it."""
        self._release()
        library.prelude_register(option)
        self._compiled = library

    def _release(self) -> None:
        """Two implementations at once would make torch warn, and the last one win."""
        if self._python is not None:
            self._python._destroy()
            self._python = None
        if self._compiled is not None:
            self._compiled.prelude_unregister()
            self._compiled = None
