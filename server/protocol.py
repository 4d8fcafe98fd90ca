"""The bodies that clients send, as types: what a field may hold, and nothing about its meaning.

``null`` counts as absent everywhere, because clients send it so.
"""

from typing import Any, Literal

import msgspec

from prelude.types.service import ServiceClass


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class RequestFields(msgspec.Struct, frozen=True, kw_only=True):
    """What every request for the model's work may say."""

    model: str | None = None
    truncate_prompt_tokens: int | None = None
    request_id: str | None = None
    cache_salt: str | None = None
    user: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    service_class: ServiceClass | None = None
    priority: int | None = None
    ttft_deadline_ms: float | None = None
    deadline_ms: float | None = None


class GenerationFields(RequestFields, frozen=True, kw_only=True):
    """What chat and text completions have in common."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[int, float] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    allowed_token_ids: list[int] | None = None
    prompt_logprobs: int | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None
    json_schema: dict[str, Any] | str | None = None
    regex: str | None = None
    grammar: str | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None

    @property
    def is_capped_by_context(self) -> bool:
        """Whether ``max_tokens`` is a wish that the context may cut short, not a need."""
        return False


class ReasoningOptions(msgspec.Struct, frozen=True):
    effort: str | None = None


class ChatRequest(GenerationFields, frozen=True, kw_only=True):
    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    reasoning: ReasoningOptions | None = None
    include_reasoning: bool | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None

    @property
    def effort(self) -> str | None:
        """Of reasoning, whichever way it was said."""
        if self.reasoning_effort is None and self.reasoning is not None:
            return self.reasoning.effort
        return self.reasoning_effort


def shared_with_chat(kind: type[msgspec.Struct], *but: str) -> tuple[str, ...]:
    """The fields of another API's body that mean what they mean for chat, ``but`` those that have
    its name alone."""
    chat = set(ChatRequest.__struct_fields__).difference(but)
    return tuple(name for name in kind.__struct_fields__ if name in chat)


class CompletionRequest(GenerationFields, frozen=True, kw_only=True):
    prompt: str | list[Any]
    echo: bool | None = None
    logprobs: int | None = None
    add_special_tokens: bool | None = None


class EmbeddingRequest(RequestFields, frozen=True, kw_only=True):
    input: str | list[Any]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    normalize: bool | None = None
    add_special_tokens: bool | None = None


class TokenizeRequest(msgspec.Struct, frozen=True, kw_only=True):
    model: str | None = None
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None


class DetokenizeRequest(msgspec.Struct, frozen=True, kw_only=True):
    model: str | None = None
    tokens: list[int]
    skip_special_tokens: bool | None = None
