"""Content and tool calls, told apart as the text streams."""

from collections.abc import Mapping
from typing import Any

from prelude.text.message import ToolCallDelta
from prelude.text.parsing.calls import Calls, NewId
from prelude.text.parsing.feed import Feed, Steps
from prelude.text.parsing.formats import ToolFormat
from prelude.text.parsing.seek import Found, text_to

# Content, and the calls that stand behind it.
Run = tuple[str, tuple[ToolCallDelta, ...]]


class ToolParser:
    """``feed`` text, ``close`` at its end; both return the content and the calls that are certain
    by then, in the order of the text. ``tools`` are schemas of parameters by name; calls beyond
    ``limit`` are left out.

    What looks like a call and is none is content, whitespace and marks included; where calls are
    found, the marks and the whitespace around them are gone. ``is_all_calls`` says that there is no
    content, because a grammar allows none: what looks like it is a call that was cut off.
    """

    def __init__(
        self,
        form: ToolFormat,
        tools: Mapping[str, Mapping[str, Any]],
        *,
        limit: int | None = None,
        is_all_calls: bool = False,
        new_id: NewId | None = None,
    ) -> None:
        self._format = form
        self._feed = Feed()
        self._calls = Calls(tools, new_id or form.new_id, limit)
        self._is_all_calls = is_all_calls
        self._content: list[str] = []
        self._runs: list[Run] = []
        self._steps = self._read()
        next(self._steps)

    @property
    def num_calls(self) -> int:
        return self._calls.num_begun

    @property
    def is_whole(self) -> bool:
        """Whether the last call ended as it should."""
        return self._calls.is_whole

    def feed(self, text: str) -> list[Run]:
        if text:
            self._feed.push(text)
            next(self._steps)
        return self._drain()

    def close(self) -> list[Run]:
        self._feed.close()
        for _ in self._steps:
            raise AssertionError("a reader waits for text after its end")
        return self._drain()

    def _drain(self) -> list[Run]:
        self._end_run(self._calls.drain())
        runs, self._runs = self._runs, []
        return runs

    def _say(self, text: str) -> None:
        """``text`` is content; what there is of calls stands before it."""
        if self._is_all_calls:
            return
        if text and (calls := self._calls.drain()):
            self._end_run(calls)
        self._content.append(text)

    def _end_run(self, calls: tuple[ToolCallDelta, ...]) -> None:
        if (content := "".join(self._content)) or calls:
            self._runs.append((content, calls))
        self._content.clear()

    def _read(self) -> Steps[None]:
        if self._format.is_bare:
            self._feed.hold()
            yield from self._call(is_marked=False)
        while True:
            found = yield from self._plain_text()
            if not found.word:
                return
            self._feed.hold(found.trimmed + found.word)
            yield from self._call(is_marked=True)

    def _plain_text(self) -> Steps[Found]:
        if self._format.start:
            return (yield from text_to(self._feed, (self._format.start,), self._say))
        while (yield from self._feed.peek()):
            self._say(self._feed.rest())
        return Found("", "")

    def _call(self, is_marked: bool) -> Steps[None]:
        """A call or several, after their mark; content if they are none."""
        if not (yield from self._format.body(self._feed, self._calls, is_marked)):
            self._say(self._feed.give_back())
            return
        yield from self._feed.skip_space()
        self._feed.hold()
        if self._format.end and not (yield from self._feed.skip(self._format.end)):
            self._feed.unread()  # it may be the beginning of something else
            return
        self._feed.forget()
        yield from self._feed.skip_space()
