"""Find stop strings in streamed text, holding back as little of it as possible.

A stop string can arrive in pieces, so the end of the text is held back while it could still
become one, and no longer. The first stop string to be complete wins; of several complete at the
same character, the longest.
"""

from typing import NamedTuple


class StopMatch(NamedTuple):
    stop: str
    text: str  # what may still be printed: all before the stop, and the stop itself if included


class StopMatcher:
    """Feed text until ``feed`` sets ``match``; ``flush`` at the end gives what was held back."""

    def __init__(self, stops: tuple[str, ...], include: bool = False) -> None:
        self.match: StopMatch | None = None
        self._stops = stops
        self._include = include
        self._held = ""

    @property
    def num_held(self) -> int:
        """Characters seen but not printed yet."""
        return len(self._held)

    def feed(self, text: str) -> str:
        """Text that may be printed now. Once there is a match, nothing more comes."""
        if self.match is not None:
            return ""
        text = self._held + text
        found = _first_complete(text, self._stops)
        if found is not None:
            start, stop = found
            kept = text[: start + len(stop)] if self._include else text[:start]
            self.match = StopMatch(stop, kept)
            self._held = ""
            return kept
        num_held = _longest_beginning(text, self._stops)
        self._held = text[len(text) - num_held :]
        return text[: len(text) - num_held]

    def flush(self) -> str:
        held, self._held = self._held, ""
        return held


def _first_complete(text: str, stops: tuple[str, ...]) -> tuple[int, str] | None:
    """(start, stop) of the stop string that ends first in ``text``."""
    best: tuple[int, int, str] | None = None
    for stop in stops:
        start = text.find(stop)
        if start >= 0 and (best is None or (start + len(stop), start) < best[:2]):
            best = (start + len(stop), start, stop)
    return None if best is None else best[1:]


def _longest_beginning(text: str, stops: tuple[str, ...]) -> int:
    """Length of the longest end of ``text`` with which some stop string begins."""
    longest = 0
    for stop in stops:
        for num in range(min(len(stop) - 1, len(text)), longest, -1):
            if stop.startswith(text[-num:]):
                longest = num
                break
    return longest
