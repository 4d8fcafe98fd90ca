"""The body of /v1/responses, as types, and what becomes of the fields that are not honoured."""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from prelude.server.protocol import shared_with_chat
from prelude.types.service import ServiceClass

# Fields that are for the caller's own books, or about what does not exist here.
WITHOUT_EFFECT = frozenset(
    {
        "access_programs",
        "max_tool_calls",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
    }
)

# Field: the values, besides null, that ask for nothing.
UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "background": (False,),
    "context_management": ([],),
    "conversation": (),
    "image": (),
    "moderation": (),
    "prompt": (),
}

# What ``include`` may name. All but the logprobs are parts of things that never come up here, or
# that are not encrypted.
INCLUDE_LOGPROBS = "message.output_text.logprobs"
INCLUDABLE = frozenset(
    {
        INCLUDE_LOGPROBS,
        "code_interpreter_call.outputs",
        "computer_call_output.output.image_url",
        "file_search_call.results",
        "message.input_image.image_url",
        "reasoning.encrypted_content",
        "web_search_call.action.sources",
        "web_search_call.results",
    }
)


class TextOptions(msgspec.Struct, frozen=True):
    """``format`` is ``{"type": "text" | "json_object"}`` or a named JSON schema."""

    format: dict[str, Any] | None = None
    verbosity: Literal["medium"] | None = None


class ResponsesReasoning(msgspec.Struct, frozen=True):
    """Summaries are not made: the reasoning itself is in the answer."""

    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None


class ResponsesStreamOptions(msgspec.Struct, frozen=True):
    include_obfuscation: bool | None = None


class ResponsesRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Fields after ``user`` are not OpenAI's; they mean what they mean for chat completions."""

    input: str | list[dict[str, Any]]
    model: str | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: ResponsesReasoning | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    include: list[str] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: ResponsesStreamOptions | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    user: str | None = None
    top_k: int | None = None
    min_p: float | None = None
    min_tokens: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[int, float] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    ignore_eos: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    cache_salt: str | None = None
    service_class: ServiceClass | None = None
    priority: int | None = None
    ttft_deadline_ms: float | None = None
    deadline_ms: float | None = None


SAME = shared_with_chat(
    ResponsesRequest, "tools", "tool_choice", "reasoning", "stream_options", "top_logprobs"
)

# Chat's fields, as errors name them: those of this API that they came from.
RENAMED: Mapping[str, str] = {
    r"messages(\..*)?": "input",
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
    r"response_format\.json_schema": "text.format",
    "response_format": "text.format",
    r"tools\.(\d+)\.function": r"tools.\1",
    r"tool_choice\.function": "tool_choice",
}
