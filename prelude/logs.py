"""Logging of a process of ours: lines on stderr, nothing in files."""

import logging
import sys

_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


def configure_logging(level: str) -> None:
    """Send records of ``level`` and above to stderr. Libraries' chatter starts at WARNING.

    Call it once in each process that Prelude starts; a program that embeds ``LLM`` keeps the
    logging it has.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(_FORMAT, datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("prelude").setLevel(level)
