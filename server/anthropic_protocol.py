"""The bodies of /v1/messages, as types, and what becomes of the fields that are not honoured."""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from prelude.server.protocol import shared_with_chat
from prelude.types.service import ServiceClass

# Fields that are for the caller's own books, or that state what happens anyway.
WITHOUT_EFFECT = frozenset(
    {
        "cache_control",
        "diagnostics",
        "inference_geo",
        "speed",
        "user_profile_id",
        "workspace_id",
    }
)

# Field: the values, besides null, that ask for nothing.
UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "container": (),
    "context_management": ({},),
    "mcp_servers": ([],),
}


class Metadata(msgspec.Struct, frozen=True):
    user_id: str | None = None


class Thinking(msgspec.Struct, frozen=True):
    """``budget_tokens`` is taken for an effort: the answer has no second limit beside
    ``max_tokens``."""

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: int | None = None
    display: str | None = None


class OutputConfig(msgspec.Struct, frozen=True):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: dict[str, Any] | None = None


class CountTokensRequest(msgspec.Struct, frozen=True, kw_only=True):
    messages: list[dict[str, Any]]
    model: str | None = None
    system: str | list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None


class MessagesRequest(CountTokensRequest, frozen=True, kw_only=True):
    """Fields after ``metadata`` are not Anthropic's; they mean what they mean for chat
    completions."""

    max_tokens: int
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    service_tier: str | None = None
    metadata: Metadata | None = None
    min_p: float | None = None
    min_tokens: int | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    ignore_eos: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    cache_salt: str | None = None
    service_class: ServiceClass | None = None
    priority: int | None = None
    ttft_deadline_ms: float | None = None
    deadline_ms: float | None = None


SAME = shared_with_chat(MessagesRequest, "messages", "tools", "tool_choice")

# Chat's fields, as errors name them: those of this API that they came from.
RENAMED: Mapping[str, str] = {
    "reasoning_effort": "thinking",
    r"response_format\.json_schema": "output_config.format",
    "response_format": "output_config.format",
    r"messages\..*": "messages",
    "continue_final_message": "messages",
    "stop": "stop_sequences",
    r"tools\.(\d+)\.function\.parameters": r"tools.\1.input_schema",
    r"tools\.(\d+)\.function": r"tools.\1",
    r"tool_choice\.function": "tool_choice",
    "user": "metadata.user_id",
}
