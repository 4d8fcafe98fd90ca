"""The ``prelude`` command: finds the sub-command and turns failures into one line and a code.

A sub-command is imported only when it runs, so that help and errors come at once: nothing
here imports torch, Hydra or the server.
"""

import difflib
import importlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

from prelude.openmp import share_cores


class Command(NamedTuple):
    module: str
    summary: str


COMMANDS = {
    "serve": Command("prelude.commands.serve", "answer OpenAI-compatible requests over HTTP"),
    "generate": Command("prelude.commands.generate", "continue a prompt on stdout"),
    "batch": Command("prelude.commands.batch", "answer a file of requests"),
    "bench": Command("prelude.commands.bench", "measure a server or the engine"),
    "simulate": Command("prelude.commands.simulate", "play traffic through the batcher alone"),
    "sweep": Command("prelude.commands.sweep", "run many points of a configuration and compare"),
    "config": Command("prelude.commands.config", "print the configuration and its sources"),
    "keys": Command("prelude.commands.keys", "make, list and disable API keys"),
    "health": Command("prelude.commands.health", "ask a server whether it is ready"),
    "cache": Command("prelude.commands.cache", "list, carry along or clear what starts leave"),
    "version": Command("prelude.commands.version", "print the version"),
}

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``prelude ARGV``; returns the exit code: 0, 1 failed, 2 wrong usage, 130 interrupted."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if args else EXIT_USAGE
    name = "version" if args[0] == "--version" else args[0]
    if name not in COMMANDS:
        return _fail(f"{name}: unknown command{_suggest(name)}", EXIT_USAGE)
    share_cores()
    try:
        code = _load(name)(args[1:])
        sys.stdout.flush()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output is gone; the interpreter's own last flush must not fail too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except (ValueError, OSError, RuntimeError) as error:
        return _report(error)
    return code


def usage() -> str:
    """The text of ``prelude --help``."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: prelude COMMAND [GROUP=OPTION | KEY=VALUE ...]",
            "",
            "A compiled-graph LLM inference engine.",
            "",
            *lines,
            "",
            "prelude COMMAND --help lists the groups and keys that COMMAND takes.",
        ]
    )


def _load(name: str) -> Callable[[list[str]], int]:
    module = importlib.import_module(COMMANDS[name].module)
    return cast(Callable[[list[str]], int], module.run)


def _report(error: Exception) -> int:
    """One line for what a user can mend; its traceback is logged at DEBUG. Bugs are raised."""
    from prelude.client.client import EngineDeadError

    if isinstance(error, RuntimeError) and not isinstance(error, EngineDeadError):
        raise error
    logger.debug("the command failed", exc_info=error)
    code = EXIT_USAGE if isinstance(error, ValueError) else EXIT_FAILED
    return _fail(str(error) or type(error).__name__, code)


def _fail(message: str, code: int) -> int:
    print(f"prelude: error: {message}", file=sys.stderr)
    return code


def _suggest(name: str) -> str:
    close = difflib.get_close_matches(name, COMMANDS, n=1)
    return f"; did you mean {close[0]}?" if close else f" (there are {', '.join(COMMANDS)})"
