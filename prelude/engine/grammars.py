"""Requests whose grammar is being compiled, outside the batch: they hold neither slot nor block,
and nobody waits for them. Clients take turns: one whose grammars take long delays its own."""

import threading
from collections import Counter, deque
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from typing import Protocol

from prelude.batcher.sequence import Sequence
from prelude.engine.kept import Kept
from prelude.engine.turns import Job, Turns
from prelude.types.constraint import (
    Constraint,
    ConstraintError,
    Matcher,
    SlowConstraintError,
)
from prelude.types.errors import Refusal, RefusedError, RequestError
from prelude.types.request import Request

_NUM_KEPT = 128
_NUM_THREADS, _MOST_EACH = 3, 2  # one is always free for whoever else comes
_MOST_HELD = 2048


class Grammar(Protocol):
    """Compiled; ``matcher`` gives one answer its own."""

    def matcher(self, constraint: Constraint, *, ignore_eos: bool) -> Matcher: ...


class Compiler(Protocol):
    """``compile`` may take long, and is called from several threads. Raises ``ConstraintError``."""

    def compile(self, constraint: Constraint) -> Grammar: ...
    def close(self) -> None: ...


_Key = tuple[str, bytes]


@dataclass(slots=True, eq=False)
class _Compiling:
    """One constraint, and the requests that wait for what it comes to, by uid."""

    key: _Key
    job: Job[Grammar]
    requests: dict[int, Request] = field(default_factory=dict)


class Grammars:
    """Compiles each constraint once, in threads, and keeps the ones used last. Without a
    ``compiler`` (a model without a tokenizer) every constraint is refused. ``num_refused`` counts
    the requests for which there was no room; nobody may hold more of it than is left."""

    def __init__(self, compiler: Compiler | None = None) -> None:
        self.num_refused = 0
        self._compiler = compiler
        self._turns: Turns[Grammar] = Turns(_NUM_THREADS, _MOST_EACH, "prelude-grammar")
        self._kept: Kept[_Key, Job[Grammar]] = Kept(_NUM_KEPT)
        self._compiling: dict[_Key, _Compiling] = {}
        self._held: dict[int, _Compiling] = {}
        self._num_held: Counter[str] = Counter()  # by client
        self._done: deque[_Compiling] = deque()  # threads append
        self._news = threading.Event()

    @property
    def num_held(self) -> int:
        """Requests that wait here."""
        return len(self._held)

    @property
    def has_ready(self) -> bool:
        """True if one of those need not wait any longer."""
        return bool(self._done)

    def knows(self, request: Request) -> bool:
        """True if what its constraint comes to is known; if not, that is being found out, and the
        request waits here. Raises ``RequestError`` where it cannot be."""
        constraint, client = _constraint(request), request.hints.client
        if self._compiler is None:
            raise RequestError(f"{constraint.field}: needs a model that has a tokenizer.json")
        key = _key(constraint)
        if self._kept.find(key, client) is not None:
            return True
        compiling = self._compiling.get(key)
        if compiling is not None and compiling.job.future.done():
            self._kept.keep(key, compiling.job, client)
            return True
        self._check_room(client)
        if compiling is None:
            compiling = self._compile(key, partial(self._compiler.compile, constraint))
        self._held[request.uid] = compiling
        self._num_held[client] += 1
        compiling.requests[request.uid] = request
        self._turns.want(compiling.job, client)
        return False

    def follow(self, group: Seq[Sequence]) -> None:
        """Every choice of a request that is known follows its grammar on its own. Raises
        ``RequestError`` if nothing could be made of that."""
        params = group[0].params
        if (constraint := params.constraint) is None:
            return
        key = _key(constraint)
        job = self._kept.find(key, group[0].request.hints.client)
        assert job is not None, "asked for before it was known"
        try:
            grammar = job.future.result()
        except ConstraintError as error:
            if isinstance(error, SlowConstraintError):
                self._kept.forget(key)  # the next one may have better luck
            raise RequestError(f"{constraint.field}: {error}") from error
        for seq in group:
            seq.matcher = grammar.matcher(constraint, ignore_eos=params.ignore_eos)

    def take_ready(self) -> Iterator[Request]:
        """Those that need not wait any longer leave, one by one, those of one constraint in the
        order they came. What one has waited for is known when it leaves, whatever has been
        compiled since."""
        self._news.clear()
        while self._done:
            compiling = self._done.popleft()
            if not compiling.requests:
                self._keep_unclaimed(compiling)
            self._compiling.pop(compiling.key, None)
            for uid in list(compiling.requests):
                request = self._release(uid)
                self._kept.keep(compiling.key, compiling.job, request.hints.client)
                yield request

    def take(self, uid: int) -> Request | None:
        """It leaves, if it waits here."""
        return self._release(uid) if uid in self._held else None

    def take_all(self) -> list[Request]:
        return [self._release(uid) for uid in list(self._held)]

    def wait(self, timeout_s: float) -> None:
        """For one of them to be ready."""
        self._news.wait(timeout_s)

    def close(self) -> None:
        self._turns.close()
        if self._compiler is not None:
            self._compiler.close()

    def _check_room(self, client: str) -> None:
        if self._num_held[client] >= _MOST_HELD - len(self._held):
            self.num_refused += 1
            raise RefusedError(Refusal("queue_full", num_waiting=len(self._held)))

    def _compile(self, key: _Key, work: partial[Grammar]) -> _Compiling:
        for _ in range(len(self._done)):
            compiling = self._done.popleft()
            if compiling.requests:
                self._done.append(compiling)
            else:
                self._keep_unclaimed(compiling)
        compiling = self._compiling[key] = _Compiling(key, Job(work))
        compiling.job.future.add_done_callback(lambda _: self._is_done(compiling))
        return compiling

    def _is_done(self, compiling: _Compiling) -> None:
        self._done.append(compiling)
        self._news.set()

    def _keep_unclaimed(self, compiling: _Compiling) -> None:
        """Whoever wanted it has left; the next one who does finds it."""
        self._compiling.pop(compiling.key, None)
        self._kept.keep(compiling.key, compiling.job, "")

    def _release(self, uid: int) -> Request:
        compiling = self._held.pop(uid)
        request = compiling.requests.pop(uid)
        client = request.hints.client
        self._num_held[client] -= 1
        if not self._num_held[client]:
            del self._num_held[client]
        if self._turns.leave(compiling.job, client):
            del self._compiling[compiling.key]
        return request


def match_error(seq: Sequence) -> str:
    """Why it cannot go on, for its client."""
    assert seq.matcher is not None
    return f"{_constraint(seq.request).field}: {seq.matcher.error}"


def _constraint(request: Request) -> Constraint:
    assert request.params.constraint is not None
    return request.params.constraint


def _key(constraint: Constraint) -> _Key:
    text = constraint.text.encode("utf-8", "surrogatepass")
    return constraint.kind, blake2b(text, digest_size=16).digest()
