"""What a model thinks before it answers, told apart from the answer as the text streams."""

from prelude.text.parsing.feed import Feed, Steps
from prelude.text.parsing.seek import text_to

START = "<think>"
END = "</think>"


class ReasoningParser:
    """``feed`` text, ``close`` at its end; both return the reasoning and the rest that are certain
    by then. ``is_open`` says that the prompt has opened it; else only an answer that begins with
    the mark has any. The marks and the whitespace around them belong to neither.
    """

    def __init__(self, is_open: bool) -> None:
        self.has_reasoned = is_open
        self.is_over = False  # nothing but the answer comes from now on
        self._feed = Feed()
        self._reasoning: list[str] = []
        self._rest: list[str] = []
        self._steps = self._read(is_open)
        next(self._steps)

    def feed(self, text: str) -> tuple[str, str]:
        if self.is_over:
            return "", text
        if text:
            self._feed.push(text)
            next(self._steps, None)
            if self.is_over:
                self._rest.append(self._feed.rest())
        return self._drain()

    def close(self) -> tuple[str, str]:
        self._feed.close()
        for _ in self._steps:
            raise AssertionError("a reader waits for text after its end")
        return self._drain()

    def _drain(self) -> tuple[str, str]:
        reasoning, rest = "".join(self._reasoning), "".join(self._rest)
        self._reasoning.clear()
        self._rest.clear()
        return reasoning, rest

    def _read(self, is_open: bool) -> Steps[None]:
        feed = self._feed
        feed.hold()
        yield from feed.skip_space()
        if (yield from feed.skip(START)):
            self.has_reasoned = is_open = True
            feed.forget()
        elif is_open:
            feed.unread()
        else:
            self._rest.append(feed.give_back())
        if is_open:
            yield from feed.skip_space()
            yield from text_to(feed, (END,), self._reasoning.append)
            yield from feed.skip_space()
        self.is_over = True
