"""What all tests share."""

import logging
import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

# Examples are bounded by count; a wall-clock limit would fail on a busy machine. Continuous
# integration judges a change by the same examples every time; new ones are looked for elsewhere.
settings.register_profile("prelude", deadline=None, print_blob=True, derandomize="CI" in os.environ)
settings.load_profile("prelude")


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """A command configures logging with the stderr of its test, which is closed afterwards."""
    root, ours = logging.getLogger(), logging.getLogger("prelude")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])
