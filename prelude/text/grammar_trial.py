"""Compiling what a stranger wrote without risk: in a process of its own, with a time limit."""

import select
import subprocess
import sys
import threading
import time

import msgspec

from prelude.text.grammar_worker import Job, Verdict, Words
from prelude.types.constraint import Constraint, ConstraintError, SlowConstraintError

_START_S = 30.0  # for an interpreter, on a busy machine


class Trial:
    """One worker process, started when it is first needed and again after it had to be killed.
    Safe to use from several threads, which then take turns. A constraint may take ``limit_s``."""

    def __init__(self, words: Words, limit_s: float) -> None:
        self.limit_s = limit_s
        self._words = words
        self._worker: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def source(self, constraint: Constraint) -> str:
        """The grammar's text, of which it is known that it compiles in time. Raises
        ``ConstraintError``; ``SlowConstraintError`` where the machine may be at fault."""
        with self._lock:
            verdict = self._judge(constraint)
        if verdict.error:
            raise ConstraintError(verdict.error)
        return verdict.source

    def close(self) -> None:
        with self._lock:
            self._kill()

    def _judge(self, constraint: Constraint) -> Verdict:
        is_new = self._worker is None
        try:
            worker = self._worker or self._start()
            return _ask(worker, Job(constraint, self.limit_s), self.limit_s)
        except TimeoutError as error:
            self._kill()
            message = f"takes more than {self.limit_s:g} s to compile; simplify it"
            raise SlowConstraintError(message) from error
        except OSError:
            self._kill()
            if not is_new:  # it may have died of something else
                return self._judge(constraint)
            return Verdict(error="takes too much memory to compile; simplify it")

    def _start(self) -> subprocess.Popen[bytes]:
        worker = self._worker = subprocess.Popen(
            [sys.executable, "-m", "prelude.text.grammar_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        _write(worker, self._words)
        _ask(worker, Job(Constraint("json"), _START_S), _START_S)
        return worker

    def _kill(self) -> None:
        if (worker := self._worker) is not None:
            self._worker = None
            worker.kill()
            worker.communicate()


def _ask(worker: subprocess.Popen[bytes], job: Job, limit_s: float) -> Verdict:
    _write(worker, job)
    return msgspec.json.decode(_read_line(worker, limit_s), type=Verdict)


def _write(worker: subprocess.Popen[bytes], message: Words | Job) -> None:
    assert worker.stdin is not None
    worker.stdin.write(msgspec.json.encode(message) + b"\n")


def _read_line(worker: subprocess.Popen[bytes], limit_s: float) -> bytes:
    """Raises ``TimeoutError``, and ``OSError`` if the worker is gone."""
    assert worker.stdout is not None
    line, end_s = b"", time.monotonic() + limit_s
    while not line.endswith(b"\n"):
        left_s = end_s - time.monotonic()
        if left_s <= 0.0 or not select.select([worker.stdout], [], [], left_s)[0]:
            raise TimeoutError
        piece = worker.stdout.read(2**16)
        if not piece:
            raise OSError("the worker is gone")
        line += piece
    return line
