"""Traces for OpenTelemetry, where an endpoint for them is configured; nothing of it is imported
where not. A request's spans are made when it has ended, from the numbers that the log line has too:
while it runs, tracing costs nothing.
"""

from typing import Protocol

from starlette.types import Scope

from prelude.conf.schema import TracingConfig


class Tracer(Protocol):
    """``record`` is told of every request that has ended, with its status and the second of the
    monotonic clock at which it began; ``close`` sends what is left and may block for seconds."""

    def record(self, scope: Scope, status: int, start_s: float) -> None: ...
    def close(self) -> None: ...


def make_tracer(config: TracingConfig, model_name: str) -> Tracer | None:
    """None without an endpoint. Raises ``ValueError`` where OpenTelemetry is missing."""
    if config.endpoint is None:
        return None
    try:
        from prelude.server.otel import Spans, exporting
    except ModuleNotFoundError as error:
        raise ValueError(
            f"server.tracing.endpoint={config.endpoint}: needs OpenTelemetry ({error.name} is"
            " missing); pip install 'prelude-llm[otel]'"
        ) from error
    return Spans(exporting(config), model_name)
