"""Requests whose grammar is being compiled, outside the batch: they hold neither slot nor block,
and nobody waits for them."""

from collections import OrderedDict
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from hashlib import blake2b
from typing import Protocol

from prelude.batcher.sequence import Sequence
from prelude.types.constraint import (
    Constraint,
    ConstraintError,
    Matcher,
    SlowConstraintError,
)
from prelude.types.errors import Refusal, RefusedError, RequestError
from prelude.types.request import Request

_NUM_KEPT = 128
_NUM_THREADS = 2
_MOST_HELD = 1024


class Grammar(Protocol):
    """Compiled; ``matcher`` gives one answer its own."""

    def matcher(self, constraint: Constraint, *, ignore_eos: bool) -> Matcher: ...


class Compiler(Protocol):
    """``compile`` may take long, and is called from several threads. Raises ``ConstraintError``."""

    def compile(self, constraint: Constraint) -> Grammar: ...
    def close(self) -> None: ...


_Compiling = Future[Grammar]
_Key = tuple[str, bytes]


class Grammars:
    """Compiles each constraint once, in threads, and keeps the ones used last. Without a
    ``compiler`` (a model without a tokenizer) every constraint is refused."""

    def __init__(self, compiler: Compiler | None = None) -> None:
        self._compiler = compiler
        self._threads: ThreadPoolExecutor | None = None
        self._known: OrderedDict[_Key, _Compiling] = OrderedDict()
        self._held: dict[int, tuple[Request, _Compiling]] = {}

    @property
    def num_held(self) -> int:
        """Requests that wait here."""
        return len(self._held)

    @property
    def has_ready(self) -> bool:
        """True if one of those need not wait any longer."""
        return any(future.done() for _, future in self._held.values())

    def knows(self, request: Request) -> bool:
        """True if what its constraint comes to is known; if not, that is being found out, and the
        request waits here. Raises ``RequestError`` where it cannot be."""
        constraint = _constraint(request)
        if self._compiler is None:
            raise RequestError(f"{constraint.field}: needs a model that has a tokenizer.json")
        future = self._find(self._compiler, constraint)
        if not future.done():
            if len(self._held) >= _MOST_HELD:
                raise RefusedError(Refusal("queue_full", num_waiting=len(self._held)))
            self._held[request.uid] = (request, future)
        return future.done()

    def follow(self, group: Seq[Sequence]) -> None:
        """Every choice of a request that is known follows its grammar on its own. Raises
        ``RequestError`` if nothing could be made of that."""
        params = group[0].params
        if (constraint := params.constraint) is None or self._compiler is None:
            return
        try:
            grammar = self._find(self._compiler, constraint).result()
        except ConstraintError as error:
            if isinstance(error, SlowConstraintError):
                self._known.pop(_key(constraint), None)  # the next one may have better luck
            raise RequestError(f"{constraint.field}: {error}") from error
        for seq in group:
            seq.matcher = grammar.matcher(constraint, ignore_eos=params.ignore_eos)

    def take_ready(self) -> Iterator[Request]:
        """Those that need not wait any longer leave, one by one in the order they came. What one
        has waited for is known when it leaves, whatever has been compiled since."""
        for uid in [uid for uid, (_, future) in self._held.items() if future.done()]:
            request, future = self._held.pop(uid)
            self._keep(_key(_constraint(request)), future)
            yield request

    def take(self, uid: int) -> Request | None:
        """It leaves, if it waits here."""
        held = self._held.pop(uid, None)
        return held[0] if held else None

    def take_all(self) -> list[Request]:
        requests = [request for request, _ in self._held.values()]
        self._held.clear()
        return requests

    def wait(self, timeout_s: float) -> None:
        """For one of them to be ready."""
        futures = [future for _, future in self._held.values()]
        wait(futures, timeout_s, return_when=FIRST_COMPLETED)

    def close(self) -> None:
        if self._threads is not None and self._compiler is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._compiler.close()

    def _find(self, compiler: Compiler, constraint: Constraint) -> _Compiling:
        key = _key(constraint)
        if (future := self._known.get(key)) is None:
            self._threads = self._threads or ThreadPoolExecutor(_NUM_THREADS, "prelude-grammar")
            future = self._threads.submit(compiler.compile, constraint)
        self._keep(key, future)
        return future

    def _keep(self, key: _Key, future: _Compiling) -> None:
        self._known[key] = future
        self._known.move_to_end(key)
        if len(self._known) > _NUM_KEPT:
            self._known.popitem(last=False)


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
