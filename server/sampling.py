"""From request fields to ``SamplingParams``: names, defaults, and what must fit the context."""

from prelude.models.sampling_defaults import DEFAULTED, SamplingDefaults
from prelude.server.errors import ApiError, from_value_error, invalid
from prelude.server.protocol import ChatRequest, CompletionRequest, GenerationFields
from prelude.server.structured import constraint_of
from prelude.types.request import MAX_TOP_LOGPROBS, SamplingParams

_MAX_STOPS = 32  # every one is searched for in every token's text, on the event loop

_PASSED = (
    "n",
    "min_tokens",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "seed",
    "ignore_eos",
    "include_stop_str_in_output",
    "skip_special_tokens",
)


def sampling_params(
    fields: GenerationFields, defaults: SamplingDefaults, room: int
) -> SamplingParams:
    """``room`` is the number of tokens that the context has left beside the prompt. Raises
    ``ApiError`` naming the field."""
    values = {name: getattr(fields, name) for name in (*DEFAULTED, *_PASSED)}
    for name, default in defaults.values.items():
        values[name] = default if values[name] is None else values[name]
    if values["top_k"] == -1:  # vLLM's word for all of them
        values["top_k"] = 0
    values["max_tokens"] = _max_tokens(fields, defaults, room)
    values["stop"] = _stops(fields)
    values["stop_token_ids"] = tuple(fields.stop_token_ids or ())
    values["logprobs"] = _logprobs(fields)
    values["allowed_token_ids"] = tuple(fields.allowed_token_ids or ())
    values["prompt_logprobs"] = _prompt_logprobs(fields)
    values["constraint"] = constraint_of(fields)
    try:
        return SamplingParams(**{name: v for name, v in values.items() if v is not None})
    except ValueError as error:
        raise from_value_error(error) from error


def _stops(fields: GenerationFields) -> tuple[str, ...]:
    stops = (fields.stop,) if isinstance(fields.stop, str) else tuple(fields.stop or ())
    if len(stops) > _MAX_STOPS:
        raise invalid("stop", f"must be at most {_MAX_STOPS} strings")
    return stops


def _max_tokens(fields: GenerationFields, defaults: SamplingDefaults, room: int) -> int:
    name, value = "max_tokens", fields.max_tokens
    if isinstance(fields, ChatRequest) and fields.max_completion_tokens is not None:
        name, value = "max_completion_tokens", fields.max_completion_tokens
    if value is None:
        return min(defaults.max_tokens or room, room)
    if value == 0 and isinstance(fields, CompletionRequest) and fields.echo:
        return 1  # only the prompt is wanted; the one token is not shown
    if value < 1:
        raise invalid(name, "must be at least 1")
    if value > room and fields.is_capped_by_context:
        return room
    if value > room:
        raise ApiError(
            400,
            f"{name}: {value} tokens do not fit beside the prompt, which leaves {room}; "
            "ask for fewer, or leave the field out to use what is left",
            param=name,
            code="context_length_exceeded",
        )
    return value


def _prompt_logprobs(fields: GenerationFields) -> int | None:
    """An echoed prompt has as many alternatives as the answer."""
    echoed = fields.logprobs if isinstance(fields, CompletionRequest) and fields.echo else None
    wanted = [count for count in (fields.prompt_logprobs, echoed) if count is not None]
    return max(wanted, default=None)


def _logprobs(fields: GenerationFields) -> int | None:
    if isinstance(fields, CompletionRequest):
        return fields.logprobs
    assert isinstance(fields, ChatRequest)
    top = fields.top_logprobs
    if top is not None and not 0 <= top <= MAX_TOP_LOGPROBS:
        raise invalid("top_logprobs", f"must be between 0 and {MAX_TOP_LOGPROBS}")
    if top and not fields.logprobs:
        raise invalid("top_logprobs", "needs logprobs to be true")
    return (top or 0) if fields.logprobs else None
