"""The price list of a captured runner: every program timed, some behind a context."""

from collections.abc import Hashable, Iterable

from prelude.runner.captured_programs import Programs
from prelude.runner.static_inputs import SampleKey, Shape
from prelude.types.prices import MODES, Curve, PriceTable

_CONTEXT = 1024
_LEAST = 1e-9  # ms; a price of nothing could never be corrected


class PriceList:
    """What is known so far. A list of uncaptured programs is of no use for captured ones."""

    def __init__(self, programs: Programs) -> None:
        self._programs = programs
        self._times_ms: dict[Hashable, float] = {}

    def time_some(self) -> None:
        """Enough for a first list: the smallest and largest forward of each kind, sampling of
        most rows."""
        shapes = self._programs.shapes
        kinds = {shape.kind for shape in shapes}
        for kind in kinds:
            of_kind = sorted(shape for shape in shapes if shape.kind == kind)
            self.time((of_kind[0], of_kind[-1]))
        most = max(shape.num_rows for shape in shapes)
        self.time(SampleKey(mode, most) for mode in MODES)

    def time(self, keys: Iterable[Hashable]) -> None:
        """Time programs by key: a forward (the head's product is part of it) on an empty context,
        or a sampling program."""
        for key in keys:
            match key:
                case Shape():
                    self._times_ms[key] = self._programs.forward_ms(key, 0)
                case SampleKey():
                    self._times_ms[key] = self._programs.sample_ms(*key)

    def table(self) -> PriceTable:
        """The list of what was timed; contexts are priced by the largest forward of each kind."""
        times = {key: ms for key, ms in self._times_ms.items() if isinstance(key, Shape)}
        body: dict[int, float] = {}
        for shape, ms in times.items():
            body[shape.num_tokens] = max(ms, body.get(shape.num_tokens, 0.0))
        greedy, filtered, full = (self._sampling(mode) for mode in MODES)
        return PriceTable(
            Curve.of(body),
            self._slope([shape for shape in times if shape.kind == "decode"]),
            self._slope([shape for shape in times if shape.kind == "prefill"]),
            (greedy, filtered, full),
        )

    def _sampling(self, mode: str) -> Curve:
        return Curve.of(
            {
                key.num_rows: ms
                for key, ms in self._times_ms.items()
                if isinstance(key, SampleKey) and key.mode == mode
            }
        )

    def _slope(self, shapes: list[Shape]) -> float:
        """Milliseconds per KV token read (decode) or per query-key pair (prefill)."""
        if not shapes:
            return _LEAST
        shape = max(shapes)
        count = -(-shape.num_tokens // shape.num_rows)
        context = min(_CONTEXT, self._programs.max_len - count)
        more = self._programs.forward_ms(shape, context) - self._times_ms[shape]
        return max(more / max(shape.num_tokens * context, 1), _LEAST)
