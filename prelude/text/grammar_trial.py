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
_ENDING = "the engine is ending"


class Trial:
    """Worker processes, as many as threads ask at once, each started when it is first needed and
    again after it had to be killed. A constraint may take ``limit_s``."""

    def __init__(self, words: Words, limit_s: float) -> None:
        self._words = words
        self._limit_s = limit_s
        self._idle: list[_Worker] = []
        self._busy: set[_Worker] = set()
        self._is_closed = False
        self._lock = threading.Lock()

    def source(self, constraint: Constraint) -> str:
        """The grammar's text, of which it is known that it compiles in time. Raises
        ``ConstraintError``; ``SlowConstraintError`` where the machine may be at fault."""
        worker = self._take()
        try:
            verdict = worker.judge(constraint)
        finally:
            self._put(worker)
        if verdict.error:
            raise ConstraintError(verdict.error)
        return verdict.source

    def close(self) -> None:
        """Whoever waits for a verdict gets none. Idempotent."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
            for worker in self._busy:
                worker.stop()
        for worker in idle:
            worker.kill()

    def _take(self) -> "_Worker":
        with self._lock:
            if self._is_closed:
                raise SlowConstraintError(_ENDING)
            worker = self._idle.pop() if self._idle else _Worker(self._words, self._limit_s)
            self._busy.add(worker)
            return worker

    def _put(self, worker: "_Worker") -> None:
        with self._lock:
            self._busy.discard(worker)
            if not self._is_closed:
                self._idle.append(worker)
                return
        worker.kill()


class _Worker:
    """One process. One thread at a time asks it; ``stop`` may be called from another."""

    def __init__(self, words: Words, limit_s: float) -> None:
        self._words = words
        self._limit_s = limit_s
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stopped = False
        self._lock = threading.Lock()  # of these two

    def judge(self, constraint: Constraint) -> Verdict:
        is_new = self._process is None
        try:
            process = self._process or self._start()
            return _ask(process, Job(constraint, self._limit_s), self._limit_s)
        except TimeoutError as error:
            self.kill()
            message = f"takes more than {self._limit_s:g} s to compile; simplify it"
            raise SlowConstraintError(message) from error
        except OSError:
            self.kill()
            if not is_new:  # it may have died of something else
                return self.judge(constraint)
            if self._is_stopped:
                raise SlowConstraintError(_ENDING) from None
            return Verdict(error="takes too much memory to compile; simplify it")

    def stop(self) -> None:
        """Whoever is asking it gets no answer, and then buries it."""
        with self._lock:
            self._is_stopped = True
            if self._process is not None:
                self._process.kill()

    def kill(self) -> None:
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._is_stopped:
                raise SlowConstraintError(_ENDING)
            process = self._process = _spawn()
        _write(process, self._words)
        _ask(process, Job(Constraint("json"), _START_S), _START_S)
        return process


def _spawn() -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "prelude.text.grammar_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
    except OSError as error:  # no more files, processes or memory: it will be tried again
        raise SlowConstraintError(f"cannot be compiled now ({error}); retry later") from error


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
    poll = select.poll()  # unlike select, for descriptors of any number
    poll.register(worker.stdout, select.POLLIN)
    while not line.endswith(b"\n"):
        left_s = end_s - time.monotonic()
        if left_s <= 0.0 or not poll.poll(left_s * 1e3):
            raise TimeoutError
        piece = worker.stdout.read(2**16)
        if not piece:
            raise OSError("the worker is gone")
        line += piece
    return line
