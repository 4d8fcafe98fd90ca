"""One request's latencies, counted under the service class that each of them was suffered in."""

from collections.abc import Sequence

from prelude.server.metrics import Metrics
from prelude.types.request import RequestTimings, TokenEvent
from prelude.types.service import ServiceClass

Timings = dict[str, float | str]


class Tally:
    """``note`` every event of every choice. ``service_class`` is the one the request is known by:
    deep or batch if it ever was, else what it waited for its first token as."""

    def __init__(self, metrics: Metrics, num_choices: int, arrival_s: float) -> None:
        self.service_class: ServiceClass = "fast"
        self._metrics = metrics
        self._arrival_s = arrival_s
        self._first_s: float | None = None
        self._firsts_s: dict[int, float] = {}
        self._last_s: dict[int, float] = {}
        self._gaps = [metrics.inter_token["fast"]] * num_choices
        self._told: RequestTimings | None = None

    def note(self, index: int, event: TokenEvent, now_s: float) -> None:
        """``index`` is the choice's, counted over all prompts."""
        timings = event.timings
        if event.token_ids:
            last_s = self._last_s.get(index)
            if last_s is not None:
                self._gaps[index].add(now_s - last_s)
            else:
                self._begin(index, timings, now_s)
            self._last_s[index] = now_s
        if timings is not None:
            self._learn(index, timings)

    def ended(self, end_s: float, num_tokens: Sequence[int]) -> None:
        """All its choices came to their end by then, with so many tokens each."""
        metrics, name = self._metrics, self.service_class
        metrics.e2e[name].add(end_s - self._arrival_s)
        for index, num in enumerate(num_tokens):
            if num > 1 and index in self._last_s:
                span_s = self._last_s[index] - self._firsts_s[index]
                metrics.per_token[name].add(span_s / (num - 1))
        if self._told is not None and self._first_s is not None:
            prefill_s = self._told.prefill_ms / 1e3
            decode_s = max(self._last_s.values()) - self._first_s
            metrics.prefill[name].add(prefill_s)
            metrics.decode[name].add(decode_s)
            metrics.inference[name].add(prefill_s + decode_s)

    def timings(self, end_s: float, num_later: int) -> Timings:
        """Milliseconds: of the first choice in the engine, and of all as this process saw them.
        ``num_later`` is the number of output tokens that were not the first of their choice."""
        found: Timings = {}
        if (told := self._told) is not None:
            found["service_class"] = self.service_class
            if told.predicted_tokens:
                found["predicted_tokens"] = round(told.predicted_tokens, 1)
            found["queue_ms"] = told.queue_ms
            found["prefill_ms"] = told.prefill_ms
        if self._first_s is not None:
            found["ttft_ms"] = (self._first_s - self._arrival_s) * 1e3
            decode_s = end_s - self._first_s
            found["decode_ms"] = decode_s * 1e3
            if num_later > 0 and decode_s > 0:
                found["tokens_per_second"] = num_later / decode_s
        found["total_ms"] = (end_s - self._arrival_s) * 1e3
        return {k: round(v, 3) if isinstance(v, float) else v for k, v in found.items()}

    def _begin(self, index: int, timings: RequestTimings | None, now_s: float) -> None:
        """The first token of a choice."""
        self._firsts_s[index] = now_s
        if self._first_s is None:
            self._first_s = now_s
            waited_as = timings.waited_as if timings is not None else "fast"
            self._metrics.ttft[waited_as].add(now_s - self._arrival_s)

    def _learn(self, index: int, timings: RequestTimings) -> None:
        self._gaps[index] = self._metrics.inter_token[timings.service_class]
        if self._told is None:
            self._told = timings
        if self.service_class != "deep":
            is_fast = timings.service_class == "fast"
            self.service_class = timings.waited_as if is_fast else timings.service_class


def server_timing(timings: Timings, *, is_end: bool) -> str:
    """The value of a ``Server-Timing`` header (W3C): milliseconds by name, as far as they are
    known when the response begins, which is its end too if it is not streamed."""
    parts = [f'class;desc="{timings["service_class"]}"'] if "service_class" in timings else []
    names = ("queue", "prefill", "ttft", "decode", "total")
    for name in names if is_end else names[:3]:
        if (value := timings.get(f"{name}_ms")) is not None:
            parts.append(f"{name};dur={value}")
    return ", ".join(parts)
