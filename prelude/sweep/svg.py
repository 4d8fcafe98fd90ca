"""Small line and scatter plots as SVG text, coloured by classes, so that one style sheet serves the
page's light and dark and a file of its own alike."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 380, 250
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 26, 40
NUM_COLOURS = 10
Ticks = list[tuple[float, str]]


@dataclass(frozen=True, slots=True)
class Series:
    """One line. ``colour`` counts from 0, the baseline's; ``errors`` are bounds of y; ``marks`` are
    the indices to put a ring around; ``notes`` are shown where the pointer rests."""

    name: str
    colour: int
    x: Sequence[float]
    y: Sequence[float]
    has_line: bool = True
    has_dots: bool = False
    errors: Sequence[tuple[float | None, float | None]] = ()
    marks: frozenset[int] = frozenset()
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to pixels."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool

    def __call__(self, value: float) -> float:
        low, high, at = self.low, self.high, value
        if self.is_log:
            low, high, at = math.log(low), math.log(high), math.log(max(value, self.low))
        return self.start + (at - low) / (high - low) * (self.end - self.start)


def plot(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    x_ticks: Ticks | None = None,
    log_x: bool = False,
    log_y: bool = False,
) -> str:
    """An SVG element. Values that a logarithm has no place for are drawn at the edge."""
    xs = [value for item in series for value in item.x]
    ys = [value for item in series for value in item.y]
    ys += [edge for item in series for pair in item.errors for edge in pair if edge is not None]
    x = _scale(xs, LEFT, WIDTH - RIGHT, is_log=log_x, is_tight=x_ticks is not None)
    y = _scale(ys, HEIGHT - BOTTOM, TOP, is_log=log_y, is_tight=False)
    parts = [
        f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}" xmlns="http://www.w3.org/2000/svg">',
        f'<text class="title" x="{LEFT - 40}" y="14">{escape(title)}</text>',
        *_axes(x, y, x_ticks, x_label, y_label),
        *(part for item in series for part in _series(item, x, y)),
        "</svg>",
    ]
    return "".join(parts)


def _axes(x: Scale, y: Scale, x_ticks: Ticks | None, x_label: str, y_label: str) -> Iterator[str]:
    bottom = HEIGHT - BOTTOM
    for value, text in ticks(y.low, y.high, is_log=y.is_log):
        at = y(value)
        yield f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>'
        yield _text("tick", LEFT - 5, at + 3.5, text, "end")
    for value, text in x_ticks or ticks(x.low, x.high, is_log=x.is_log):
        at = x(value)
        yield f'<path class="grid" d="M{at:.1f} {TOP}V{bottom}"/>'
        anchor = "end" if at > WIDTH - RIGHT - 8 else "middle"
        yield _text(
            "tick", min(at + 6, WIDTH - 2) if anchor == "end" else at, bottom + 14, text, anchor
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    yield f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{WIDTH - RIGHT}"/>'
    yield _text("label", middle, HEIGHT - 8, escape(x_label), "middle")
    yield (
        f'<text class="label" transform="translate(11 {(TOP + bottom) / 2:.0f}) rotate(-90)" '
        f'text-anchor="middle">{escape(y_label)}</text>'
    )


def _text(kind: str, x: float, y: float, text: str, anchor: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def _series(item: Series, x: Scale, y: Scale) -> Iterator[str]:
    colour = f"c{item.colour % NUM_COLOURS}"
    dash = " dashed" if item.colour >= NUM_COLOURS else ""
    places = [(x(a), y(b)) for a, b in zip(item.x, item.y, strict=True)]
    if item.has_line and len(places) > 1:
        path = "L".join(f"{a:.1f} {b:.1f}" for a, b in places)
        name = f"<title>{escape(item.name)}</title>"
        yield f'<path class="line {colour}{dash}" d="M{path}">{name}</path>'
    for (at, _), (low, high) in zip(places, item.errors, strict=False):
        if low is not None and high is not None:
            yield f'<path class="error {colour}" d="M{at:.1f} {y(low):.1f}V{y(high):.1f}"/>'
    for index, (a, b) in enumerate(places if item.has_dots else ()):
        note = item.notes[index] if item.notes else item.name
        if index in item.marks:
            yield f'<circle class="ring {colour}" cx="{a:.1f}" cy="{b:.1f}" r="7.5"/>'
        yield (
            f'<circle class="dot {colour}" cx="{a:.1f}" cy="{b:.1f}" r="4">'
            f"<title>{escape(note)}</title></circle>"
        )


def _scale(
    values: Sequence[float], start: float, end: float, *, is_log: bool, is_tight: bool
) -> Scale:
    usable = [value for value in values if math.isfinite(value) and (value > 0 or not is_log)]
    low, high = (min(usable), max(usable)) if usable else (1.0, 10.0)
    if is_tight:
        return Scale(low, high if high > low else low + 1, start, end, is_log)
    if is_log:
        margin = max((high / low) ** 0.06, 1.1)
        return Scale(low / margin, high * margin, start, end, True)
    margin = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    floor = 0.0 if 0 <= low < high * 0.5 else low - margin
    return Scale(floor, high + margin, start, end, False)


def ticks(low: float, high: float, *, is_log: bool) -> Ticks:
    """Round values inside the bounds; at least two where there is any room."""
    if is_log and high / low >= 8:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        steps = (1, 3) if high / low < 2000 else (1,)
        values = [step * 10.0**power for power in powers for step in steps]
    else:
        rough = (high - low) / 5
        size = 10 ** math.floor(math.log10(rough))
        step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
        first = math.ceil(low / step)
        values = [number * step for number in range(first, math.floor(high / step) + 1)]
    return [(value, short(value)) for value in values if low <= value <= high]


def short(value: float) -> str:
    """Of a tick: 1500 is 1.5k."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"
