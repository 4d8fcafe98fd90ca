"""A step log as traffic and as truth: who came when, what every launch took, and when each token
really came.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from prelude.engine.steplog import LaunchRecord, RequestRecord, StepRecord, read_step_log
from prelude.simulate.prompts import Part, Texts
from prelude.simulate.records import Gaps
from prelude.simulate.traffic import SimRequest
from prelude.types.service import Hints

_PAUSE_MS = 1000.0  # between two steps: then the engine was stopped, not busy


@dataclass(slots=True)
class Recording:
    """One run of an engine. Requests that were aborted, or ended with an error, are left out of
    ``requests``: nobody knows how long they would have been."""

    steps: list[StepRecord] = field(default_factory=list)
    requests: list[RequestRecord] = field(default_factory=list)

    @property
    def launches(self) -> Iterator[LaunchRecord]:
        for step in self.steps:
            yield from step.launches

    def traffic(self) -> list[SimRequest]:
        """The same requests, to be simulated, in seconds after the first one. Their cached
        beginnings are one text that all share."""
        texts = Texts()
        shared = texts.part(0).text
        start_s = self.requests[0].arrival_s
        return [
            _as_traffic(uid, record, start_s, texts, shared)
            for uid, record in enumerate(self.requests)
        ]

    def until(self, share: float) -> "Recording":
        """The first steps of it, so large a share, and the requests that ended in them."""
        steps = self.steps[: max(int(share * len(self.steps)), 2)]
        end_s = end_of(steps[-1])
        return Recording(steps, [record for record in self.requests if record.end_s <= end_s])

    def overhead_ms(self) -> tuple[float, float]:
        """What a step takes besides its launches, until the next one begins: at least, and more
        for each row. By least squares over steps that followed each other at once."""
        points = []
        for step, after in pairwise(self.steps):
            run_ms = sum(launch.actual_ms for launch in step.launches)
            rest_ms = (after.start_s - step.start_s) * 1e3 - run_ms
            if step.num_running and 0.0 <= rest_ms < _PAUSE_MS:
                points.append((rest_ms, sum(len(launch.rows) for launch in step.launches)))
        if len(points) < 2:
            return 0.0, 0.0
        host_ms, rows = np.array(points).T
        columns = np.stack([np.ones(len(rows)), rows], axis=1)
        (least, each), *_ = np.linalg.lstsq(columns, host_ms, rcond=None)
        if each < 0.0 or least < 0.0:
            return float(host_ms.mean()), 0.0
        return float(least), float(each)

    def gaps(self, from_s: float) -> dict[str, Gaps]:
        """Between tokens as they really came, by kind, of requests that came after ``from_s``."""
        chosen = [record for record in self.requests if record.arrival_s >= from_s]
        kinds = {record.seq_id: kind_of(record) for record in chosen}
        lengths = {record.seq_id: record.num_prompt for record in chosen}
        last_s: dict[int, float] = {}
        found: dict[str, Gaps] = {kind: Gaps() for kind in kinds.values()}
        for step in self.steps:
            end_s = end_of(step)
            for seq_id, start, count in (row for x in step.launches for row in x.rows):
                if start + count != lengths.get(seq_id):
                    continue  # a chunk that does not end the prompt, or nobody we know
                lengths[seq_id] += 1
                if seq_id in last_s:
                    found[kinds[seq_id]].add((end_s - last_s[seq_id]) * 1e3)
                last_s[seq_id] = end_s
        return found


def end_of(step: StepRecord) -> float:
    """When its tokens came."""
    run_ms = sum(launch.actual_ms for launch in step.launches)
    return step.start_s + (run_ms + step.overhead_ms) / 1e3


def kind_of(record: RequestRecord) -> str:
    """Its client, where it names one; else the class it ended in."""
    return record.client or record.service_class


def read_recording(path: Path) -> Recording:
    """The last run in a step log file. Raises ``ValueError`` if nothing was served in it."""
    found = Recording()
    for record in read_step_log(path):
        if isinstance(record, StepRecord):
            if record.step == 1:
                found = Recording()
            found.steps.append(record)
        elif record.finish_reason in ("stop", "length"):
            found.requests.append(record)
    if not found.requests:
        raise ValueError(f"replay={path}: no request came to its end in the last run of it")
    found.requests.sort(key=lambda record: record.arrival_s)
    return found


def _as_traffic(
    uid: int, record: RequestRecord, start_s: float, texts: Texts, shared: int
) -> SimRequest:
    cached = Part(shared, record.num_cached)
    own = texts.part(record.num_prompt - record.num_cached)
    limit = record.num_output if record.finish_reason == "length" else record.max_tokens
    if record.finish_reason == "stop" and limit is not None:
        limit = max(limit, record.num_output + 1)  # so that it ends by itself
    return SimRequest(
        uid=uid,
        kind=kind_of(record),
        arrival_s=record.arrival_s - start_s,
        prompt=(cached, own) if record.num_cached else (own,),
        num_output=record.num_output,
        max_tokens=limit,
        hints=Hints(client=record.client),
        answer=texts.part(record.num_output).text,
    )
