"""The price list of a captured runner: every program timed, forwards behind a few contexts."""

from prelude.runner.captured_programs import Programs
from prelude.runner.static_inputs import Shape
from prelude.types.prices import MODES, Curve, PriceTable

_CONTEXT = 1024
_LEAST = 1e-9  # ms; a price of nothing could never be corrected


def measure_prices(programs: Programs) -> PriceTable:
    """Time every forward program (the head's product is part of it) on an empty context, the
    largest of each kind behind ``_CONTEXT`` tokens a row, and every sampling program."""
    times = {shape: programs.forward_ms(shape, 0) for shape in programs.shapes}
    body: dict[int, float] = {}
    for shape, ms in times.items():
        body[shape.num_tokens] = max(ms, body.get(shape.num_tokens, 0.0))
    rows = sorted({shape.num_rows for shape in programs.shapes})
    greedy, filtered, full = (
        Curve.of({count: programs.sample_ms(mode, count) for count in rows}) for mode in MODES
    )
    return PriceTable(
        Curve.of(body),
        _slope(programs, [shape for shape in times if shape.kind == "decode"], times),
        _slope(programs, [shape for shape in times if shape.kind == "prefill"], times),
        (greedy, filtered, full),
    )


def _slope(programs: Programs, shapes: list[Shape], times: dict[Shape, float]) -> float:
    """Milliseconds per KV token read (decode) or per query-key pair (prefill)."""
    if not shapes:
        return _LEAST
    shape = max(shapes)
    count = -(-shape.num_tokens // shape.num_rows)
    context = min(_CONTEXT, programs.max_len - count)
    more = programs.forward_ms(shape, context) - times[shape]
    return max(more / max(shape.num_tokens * context, 1), _LEAST)
