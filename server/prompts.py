"""From messages or prompts to token ids that fit the context.

Long text is templated and tokenized on a thread (both release the GIL enough), so that the event
loop keeps every other stream moving.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from itertools import chain, islice
from typing import Any, TypeVar

from prelude.server.bounds import MAX_DEPTH, MAX_NODES
from prelude.server.errors import ApiError, from_value_error, invalid, unsupported
from prelude.server.nesting import is_deeper, shape_of
from prelude.server.protocol import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    GenerationFields,
    RequestFields,
    TokenizeRequest,
)
from prelude.server.tool_prompt import in_words
from prelude.server.tools import tool_use
from prelude.text.tokenizer import Tokenizer

T = TypeVar("T")

_INLINE_CHARS = 2048  # about a millisecond of tokenizing


def size_of(*values: Any) -> int:
    """Characters and values in JSON ``values``, as far as it takes to know that they are many."""
    waiting, size = list(values), 0
    while waiting and size <= _INLINE_CHARS:
        value = waiting.pop()
        size += len(value) if isinstance(value, str) else 1
        if isinstance(value, dict | list):
            inside = value if isinstance(value, list) else chain(value, value.values())
            waiting += islice(inside, _INLINE_CHARS)
    return size


async def off_loop(size: int, function: Callable[[], T]) -> T:
    """Run ``function``, on a thread if ``size`` characters make it slow. A ``ValueError`` is the
    client's fault."""
    try:
        return function() if size <= _INLINE_CHARS else await asyncio.to_thread(function)
    except ValueError as error:
        raise from_value_error(error) from error


async def encode_chat(
    tokenizer: Tokenizer, body: ChatRequest | TokenizeRequest, context: int | None = None
) -> list[int]:
    """The prompt of a conversation. Raises ``ApiError`` naming the field at fault, also where it
    cannot fit a ``context`` of so many tokens."""
    size = size_of(body.messages, body.tools, body.chat_template_kwargs)
    return await off_loop(size, lambda: _encoded_chat(tokenizer, body, context))


def _encoded_chat(
    tokenizer: Tokenizer, body: ChatRequest | TokenizeRequest, context: int | None = None
) -> list[int]:
    assert body.messages is not None
    budget = _Budget()
    messages = [_message(message, n, tokenizer, budget) for n, message in enumerate(body.messages)]
    continues = bool(body.continue_final_message)
    variables = dict(body.chat_template_kwargs or {})
    if isinstance(body, ChatRequest) and body.effort is not None:
        variables.setdefault("reasoning_effort", body.effort)
        if body.effort == "none":
            variables.setdefault("enable_thinking", False)
    _check_variables(variables)
    used = tool_use(body)
    tools = used.shown if used is not None else None
    if not tokenizer.template_mentions("tools"):
        messages, tools = in_words(messages, tools or ()), None
    prompt = body.add_generation_prompt
    text = tokenizer.render_chat(
        messages,
        add_generation_prompt=not continues if prompt is None else prompt,
        continue_final_message=continues,
        tools=tools,
        template_kwargs=variables,
    )
    check_length(tokenizer, text, None if _is_cut(body) else context, "messages")
    return tokenizer.encode(text, add_special_tokens=False)


async def encode_prompts(
    tokenizer: Tokenizer, body: CompletionRequest, limit: int, context: int | None = None
) -> list[tuple[str | None, list[int]]]:
    """Of a completion request; see ``encode_texts``."""
    return await encode_texts(tokenizer, body.prompt, "prompt", limit, body, context)


async def encode_texts(
    tokenizer: Tokenizer,
    texts: str | list[Any],
    field: str,
    limit: int,
    body: CompletionRequest | EmbeddingRequest,
    context: int | None = None,
) -> list[tuple[str | None, list[int]]]:
    """Every prompt as (its text, where it was text; its ids): one string, one list of ids, or a
    list of up to ``limit`` of either, from the ``field`` of ``body``. Raises ``ApiError``, also for
    one that cannot fit a ``context`` of so many tokens."""
    special, room = body.add_special_tokens is not False, None if _is_cut(body) else context
    return await off_loop(
        size_of(texts), lambda: _encoded_texts(tokenizer, texts, field, limit, special, room)
    )


def _encoded_texts(
    tokenizer: Tokenizer,
    texts: str | list[Any],
    field: str,
    limit: int,
    special: bool,
    context: int | None,
) -> list[tuple[str | None, list[int]]]:
    if isinstance(texts, list) and len(texts) > limit and type(texts[0]) is not int:
        raise invalid(field, f"{len(texts)} prompts are more than the queue holds ({limit})")
    prompts = _prompts(texts, field)
    if len(prompts) > limit:
        raise invalid(field, f"{len(prompts)} prompts are more than the queue holds ({limit})")
    for _, prompt in prompts:
        if isinstance(prompt, str):
            check_length(tokenizer, prompt, context, field)
    found = [_encoded(tokenizer, param, prompt, special) for param, prompt in prompts]
    for (param, _), (_, ids) in zip(prompts, found, strict=True):
        if not ids:
            raise invalid(param, "must not be empty")
    return found


def truncated(ids: list[int], fields: RequestFields, max_len: int) -> list[int]:
    """The last ``truncate_prompt_tokens`` of a prompt; -1 keeps what leaves room for the answer.
    Raises ``ApiError``."""
    count = fields.truncate_prompt_tokens
    if count is None:
        return ids
    if count == -1:
        answer = fields.max_tokens if isinstance(fields, GenerationFields) else 1
        if isinstance(fields, ChatRequest) and fields.max_completion_tokens is not None:
            answer = fields.max_completion_tokens
        count = max(max_len - max(answer or 1, 1), 1)
    if count < 1:
        raise invalid("truncate_prompt_tokens", "must be at least 1, or -1 for what fits")
    return ids[-count:]


def _is_cut(body: RequestFields | TokenizeRequest) -> bool:
    return isinstance(body, RequestFields) and body.truncate_prompt_tokens is not None


def check_length(tokenizer: Tokenizer, text: str, context: int | None, param: str) -> None:
    """Before a text is tokenized, for seconds if it is long. Raises ``ApiError``."""
    most = None if context is None else tokenizer.max_chars(context)
    if most is not None and len(text) > most:
        raise ApiError(
            400,
            f"{param}: the prompt has {len(text)} characters, and the model's context of {context} "
            f"tokens never holds more than {most}; shorten the prompt",
            param=param,
            code="context_length_exceeded",
        )


def check_fits(num_prompt: int, max_len: int, param: str) -> int:
    """Tokens left for the answer. Raises ``ApiError`` if the prompt alone fills the context."""
    if num_prompt >= max_len:
        raise ApiError(
            400,
            f"{param}: the prompt has {num_prompt} tokens and the model's context is {max_len} "
            "tokens, of which at least one is for the answer; shorten the prompt",
            param=param,
            code="context_length_exceeded",
        )
    return max_len - num_prompt


def _prompts(prompt: str | list[Any], field: str) -> list[tuple[str, Any]]:
    if isinstance(prompt, str) or (prompt and all(type(i) is int for i in prompt)):
        return [(field, prompt)]
    if not prompt:
        raise invalid(field, "must not be empty")
    return [(f"{field}.{n}", one) for n, one in enumerate(prompt)]


def _encoded(
    tokenizer: Tokenizer, param: str, prompt: Any, special: bool
) -> tuple[str | None, list[int]]:
    if isinstance(prompt, str):
        return prompt, tokenizer.encode(prompt, special)
    if isinstance(prompt, list) and all(type(i) is int for i in prompt):
        return None, prompt
    raise invalid(param, "must be a string or a list of token ids", code="invalid_type")


def _message(
    message: Mapping[str, Any], n: int, tokenizer: Tokenizer, budget: "_Budget"
) -> dict[str, Any]:
    """A message as templates expect it: plain text content, tool arguments as objects."""
    where = f"messages.{n}"
    role = message.get("role")
    if not isinstance(role, str):
        raise invalid(f"{where}.role", "must be a string", code="invalid_type")
    if role == "developer" and not tokenizer.template_mentions(role):
        role = "system"
    plain = {**message, "role": role, "content": _text(message.get("content"), where)}
    if message.get("tool_calls"):
        plain["tool_calls"] = _tool_calls(message["tool_calls"], where, budget)
    return plain


def _text(content: Any, where: str) -> str | None:
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise invalid(f"{where}.content", "must be a string or a list of parts", "invalid_type")
    texts = []
    for n, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in ("text", "input_text"):
            raise unsupported(
                f"{where}.content.{n}.type", f"only text parts are supported, not {kind!r}"
            )
        if not isinstance(part.get("text"), str):
            raise invalid(f"{where}.content.{n}.text", "must be a string", "invalid_type")
        texts.append(part["text"])
    return "\n".join(texts)


class _Budget:
    """What the arguments of all calls may have together, texts of JSON that no bound on the body
    looks into."""

    def __init__(self) -> None:
        self._left = MAX_NODES

    def take(self, text: str, where: str) -> None:
        shape = shape_of(text.encode())
        self._left -= shape.num_nodes + shape.num_commas
        if self._left < 0:
            raise invalid(where, f"all calls together have more than {MAX_NODES} values")
        if is_deeper(shape.brackets, MAX_DEPTH):
            raise invalid(where, f"is nested more than {MAX_DEPTH} levels deep")


def _tool_calls(calls: Any, where: str, budget: _Budget) -> Any:
    """Arguments arrive as JSON text and templates write them as objects."""
    if not isinstance(calls, list):
        raise invalid(f"{where}.tool_calls", "must be a list", "invalid_type")
    found = []
    for n, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            raise invalid(f"{where}.tool_calls.{n}.function", "must be an object", "invalid_type")
        arguments = text = function.get("arguments")
        if isinstance(text, str):
            budget.take(text, f"{where}.tool_calls.{n}.function.arguments")
            try:
                arguments = json.loads(text or "{}")
            except (ValueError, RecursionError) as error:
                raise invalid(
                    f"{where}.tool_calls.{n}.function.arguments", f"is not valid JSON: {error}"
                ) from error
        found.append({**call, "function": {**function, "arguments": arguments}})
    return found


_OWN_VARIABLES = frozenset({"messages", "tools", "documents", "add_generation_prompt"})


def _check_variables(variables: Mapping[str, Any]) -> None:
    for name in variables:
        if name in _OWN_VARIABLES:
            raise invalid(f"chat_template_kwargs.{name}", "has its own place in the request")
