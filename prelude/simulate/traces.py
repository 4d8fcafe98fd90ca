"""Recorded traffic: the lines that ``prelude bench serve`` replays, or a step log's requests."""

from dataclasses import replace
from pathlib import Path

from prelude.bench.prompts import TraceLine, draw_length, read_lines
from prelude.conf.simulate import Traffic
from prelude.simulate.recorded import read_recording
from prelude.simulate.traffic import Drawer, SimRequest, Start, numbered


def read_trace(traffic: Traffic) -> list[SimRequest]:
    """Requests in order of arrival, at most ``num_requests``. A line needs a ``prompt_len`` or
    token ids; without ``max_tokens`` its class's distribution gives the length of the answer. A
    step log's requests are of the kind that is their client, or their class; the last run in it is
    played. Raises ``ValueError``."""
    if traffic.trace is None or not traffic.trace_speed > 0:
        raise ValueError(
            "traffic.arrival=trace: needs traffic.trace=FILE and a trace_speed above 0"
        )
    path = Path(traffic.trace)
    if _is_step_log(path):
        recorded = read_recording(path).traffic()[: traffic.num_requests]
        return [replace(r, arrival_s=r.arrival_s / traffic.trace_speed) for r in recorded]
    drawer = Drawer(traffic)
    lines = sorted(read_lines(path, TraceLine), key=lambda line: line.arrival)
    found = [_request(drawer, line, traffic) for line in lines[: traffic.num_requests]]
    return numbered(found)


def _is_step_log(path: Path) -> bool:
    with path.open("rb") as lines:
        return lines.readline().startswith(b'{"type":')


def _request(drawer: Drawer, line: TraceLine, traffic: Traffic) -> SimRequest:
    kind = line.kind or next(iter(drawer.classes))
    if kind not in drawer.classes or (line.kind is None and len(drawer.classes) > 1):
        raise ValueError(f"trace: each line needs a class out of {sorted(drawer.classes)}")
    length = line.prompt_len
    if length is None and isinstance(line.prompt, list):
        length = len(line.prompt)
    if not length or line.arrival < 0:
        raise ValueError("trace: each line needs a prompt_len (or token ids) and an arrival >= 0")
    rng = drawer.stream(f"trace/{line.arrival}")
    output = line.max_tokens or draw_length(drawer.classes[kind].output, rng)
    scale = traffic.length_scale
    start = Start(kind, line.arrival / traffic.trace_speed, f"{kind}-0")
    prompt, answer = (
        drawer.text(round(length * scale) or 1),
        drawer.text(round(output * scale) or 1),
    )
    return drawer.request(start, start.arrival_s, (prompt,), answer)
