"""Limits as OpenAI's clients read them: ``x-ratelimit-*`` headers, and the 429 that is retried."""

from math import ceil

from prelude.server.bucket import Bucket
from prelude.server.errors import RETRY_AFTER_S, ApiError

LIMIT_HEADERS = tuple(
    f"x-ratelimit-{fact}-{what}"
    for fact in ("limit", "remaining", "reset")
    for what in ("requests", "tokens")
)


def limit_headers(requests: Bucket | None, tokens: Bucket | None, now_s: float) -> dict[str, str]:
    headers = {}
    for what, bucket in (("requests", requests), ("tokens", tokens)):
        if bucket is not None:
            headers[f"x-ratelimit-limit-{what}"] = f"{bucket.per_min:.0f}"
            headers[f"x-ratelimit-remaining-{what}"] = str(max(int(bucket.level(now_s)), 0))
            headers[f"x-ratelimit-reset-{what}"] = duration(bucket.reset_s(now_s))
    return headers


def duration(seconds: float) -> str:
    """As OpenAI writes them: ``120ms``, ``6s``, ``1.5s``, ``1m30s``."""
    milliseconds = ceil(seconds * 1e3)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes}m{rest / 1e3:g}s" if minutes else f"{rest / 1e3:g}s"


def too_many(name: str, what: str, limit: int, wait_s: float, amount: int) -> ApiError:
    """The key ``name`` is at its ``limit`` of ``what`` for ``wait_s`` more seconds."""
    retry_ms = max(ceil(wait_s * 1e3), 1) if wait_s else RETRY_AFTER_S * 1000
    return ApiError(
        429,
        f"{f'the key {name}' if name else 'this server'} is at its limit: "
        f"{_said(what, limit, amount)}; retry after {duration(retry_ms / 1e3)}",
        code="rate_limit_exceeded",
        headers={"retry-after": str(ceil(retry_ms / 1e3)), "retry-after-ms": str(retry_ms)},
        details={"limit": what, "value": limit, "retry_after_ms": retry_ms},
    )


def _said(what: str, limit: int, amount: int) -> str:
    if what == "concurrency":
        return f"{limit} requests at once"
    if what == "tokens" and amount > 1:
        return (
            f"{limit} tokens a minute, and this request reserves {amount} for its prompt and its "
            "longest answer (a smaller max_tokens reserves fewer)"
        )
    return f"{limit} {what} a minute"


def too_long(num_prompt: int, limit: float) -> ApiError:
    return ApiError(
        400,
        f"the prompt has {num_prompt} tokens, and this key may use {limit:.0f} in a minute; "
        "shorten the prompt",
        code="context_length_exceeded",
    )


def beyond_context(num_prompt: int, max_tokens: int, context: int) -> ApiError:
    return ApiError(
        400,
        f"the prompt has {num_prompt} tokens, its answer up to {max_tokens}, and this key may use "
        f"{context} together; shorten the prompt or ask for fewer tokens",
        code="context_length_exceeded",
    )
