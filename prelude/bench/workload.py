"""From a configuration to the exact requests of a run: bytes and send times, all drawn before."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from prelude.bench.arrivals import draw_arrivals
from prelude.bench.connection import HttpClient
from prelude.bench.load import Job
from prelude.bench.prompts import (
    Prompt,
    PromptStream,
    TraceLine,
    content_of,
    draw_length,
    read_lines,
)
from prelude.conf.bench import Arrival, Endpoint, ServeBenchConfig

PATHS = {Endpoint.chat: "/chat/completions", Endpoint.completions: "/completions"}


@dataclass(frozen=True, slots=True)
class Draft:
    """A request before it is rendered."""

    kind: str
    arrival_s: float | None
    prompt: Prompt
    max_tokens: int


class Workload:
    """Draws the requests of one run.

    Arrivals, the choice of classes and each class's prompts have their own random streams of the
    one seed: changing a class leaves the send times as they were. Raises ``ValueError``.
    """

    def __init__(self, config: ServeBenchConfig) -> None:
        if not config.classes:
            raise ValueError("classes: none given; choose a workload, such as workload=chat")
        if any(traffic.weight < 0 for traffic in config.classes.values()):
            raise ValueError("classes: weights must not be negative")
        if not any(traffic.weight for traffic in config.classes.values()):
            raise ValueError("classes: at least one weight must be positive")
        self._config = config
        self._streams = {
            name: PromptStream(name, traffic, self._rng(f"prompts/{name}"))
            for name, traffic in config.classes.items()
        }
        self._outputs = {name: self._rng(f"outputs/{name}") for name in config.classes}
        self._mix = self._rng("mix")

    def drafts(self) -> list[Draft]:
        """The counted requests, in order of arrival."""
        config = self._config
        if config.arrival is Arrival.trace:
            return self._trace()
        if config.arrival is Arrival.closed:
            return [self._draft(None) for _ in range(config.num_requests)]
        arrivals = draw_arrivals(
            config.arrival,
            config.num_requests,
            rate=config.rate,
            burstiness=config.burstiness,
            rng=self._rng("arrivals"),
        )
        return [self._draft(arrival) for arrival in arrivals]

    def warmup(self) -> list[Draft]:
        """Further requests of the same kinds. Call it after ``drafts``: prompts never repeat."""
        return [self._draft(None) for _ in range(self._config.warmup)]

    def _draft(self, arrival_s: float | None) -> Draft:
        names = list(self._config.classes)
        weights = [traffic.weight for traffic in self._config.classes.values()]
        kind = self._mix.choices(names, weights)[0]
        prompt = self._streams[kind].next()
        return Draft(kind, arrival_s, prompt, self._max_tokens(kind, prompt))

    def _max_tokens(self, kind: str, prompt: Prompt) -> int:
        drawn = draw_length(self._config.classes[kind].output, self._outputs[kind])
        return drawn if prompt.max_tokens is None else prompt.max_tokens

    def _trace(self) -> list[Draft]:
        config = self._config
        if config.trace is None or not config.trace_speed > 0:
            raise ValueError("arrival=trace: needs trace=FILE and a positive trace_speed")
        lines = read_lines(Path(config.trace), TraceLine)
        lines.sort(key=lambda line: line.arrival)
        if lines[0].arrival < 0:
            raise ValueError(f"{config.trace}: arrival must not be negative")
        return [self._replay(line) for line in lines[: config.num_requests]]

    def _replay(self, line: TraceLine) -> Draft:
        kind = next(iter(self._streams)) if line.kind is None else line.kind
        if kind not in self._streams or (line.kind is None and len(self._streams) > 1):
            raise ValueError(
                f"trace: each line needs a class out of {sorted(self._streams)}, not {line.kind}"
            )
        if line.prompt is None and line.messages is None:
            if line.prompt_len is None or line.prompt_len < 1:
                raise ValueError("trace: each line needs prompt, messages or a prompt_len of 1 up")
            prompt = self._streams[kind].next(line.prompt_len)
        else:
            prompt = Prompt(content=content_of(line))
        max_tokens = line.max_tokens or self._max_tokens(kind, prompt)
        return Draft(kind, line.arrival / self._config.trace_speed, prompt, max_tokens)

    def _rng(self, purpose: str) -> Random:
        return Random(f"{self._config.seed}/{purpose}")


def render(
    drafts: Iterable[Draft], config: ServeBenchConfig, model: str, client: HttpClient
) -> list[Job]:
    """The requests as bytes, so that nothing is encoded while the load runs."""
    encoder = msgspec.json.Encoder()
    return [
        Job(
            index=index,
            kind=draft.kind,
            arrival_s=draft.arrival_s,
            request=client.render(
                "POST", PATHS[config.endpoint], encoder.encode(request_body(draft, config, model))
            ),
        )
        for index, draft in enumerate(drafts)
    ]


def request_body(draft: Draft, config: ServeBenchConfig, model: str) -> dict[str, Any]:
    """The JSON of one request; the class's own fields win over those for all."""
    body: dict[str, Any] = {
        "model": model,
        **_prompt_fields(draft.prompt, config.endpoint),
        "max_tokens": draft.max_tokens,
        "temperature": config.temperature,
        "stream": config.stream,
    }
    if config.stream:
        body["stream_options"] = {"include_usage": True}
    if config.ignore_eos:
        body["ignore_eos"] = True
    return {**body, **config.body, **config.classes[draft.kind].body}


def _prompt_fields(prompt: Prompt, endpoint: Endpoint) -> dict[str, Any]:
    content, prefix = prompt.content, prompt.prefix
    is_messages = isinstance(content, list) and isinstance(content[0], dict)
    if endpoint is Endpoint.completions:
        if is_messages:
            raise ValueError("endpoint=completions: cannot send chat messages; use endpoint=chat")
        return {"prompt": content if prefix is None else prefix + content}  # type: ignore[operator]
    if is_messages:
        return {"messages": content}
    if not isinstance(content, str):
        raise ValueError("endpoint=chat: cannot send token ids; use endpoint=completions")
    system = [] if prefix is None else [{"role": "system", "content": prefix}]
    return {"messages": [*system, {"role": "user", "content": content}]}
