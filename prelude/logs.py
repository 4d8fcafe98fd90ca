"""Logging of a process of ours: lines on stderr, for people or for programs; nothing in files."""

import json
import logging
import re
import sys
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime

_TEXT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
_PLAIN = re.compile(r"[\w./:+-]+")


@dataclass(slots=True)
class About:
    """The request that is being served, for whatever is logged meanwhile. ``error`` is the code of
    what its client was told that went wrong."""

    request_id: str
    error: str | None = None


about: ContextVar[About | None] = ContextVar("about", default=None)


class Fields(dict[str, object]):
    """A log message of named values: ``name=value`` in text, members of the object in JSON."""

    def __str__(self) -> str:
        return " ".join(f"{name}={_value(value)}" for name, value in self.items())


def configure_logging(level: str, form: str = "text") -> None:
    """Send records of ``level`` and above to stderr, as "text" or "json". Libraries' chatter
    starts at WARNING.

    Call it once in each process that Prelude starts; a program that embeds ``LLM`` keeps the
    logging it has.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter(_TEXT, "%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("prelude").setLevel(level)


class TextFormatter(logging.Formatter):
    """Lines for people; those of a request say its id unless they name it themselves."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        line = super().formatMessage(record)
        now = about.get()
        if now is None or isinstance(record.msg, Fields):
            return line
        return f"{line} [{now.request_id}]"


class JsonFormatter(logging.Formatter):
    """One object a line: time (UTC), level, logger, message or fields, request_id, exception."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
        }
        if (now := about.get()) is not None:
            line["request_id"] = now.request_id
        if isinstance(record.msg, Fields):
            line |= record.msg
        else:
            line["message"] = record.getMessage()
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def _value(value: object) -> str:
    """Quoted where a reader could take it for something else."""
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
