"""Chat templates, rendered as the checkpoint's authors saw them rendered.

A template is Jinja source that ships with a checkpoint. The environment repeats Hugging Face's
to the letter (sandbox, whitespace control, loop controls, a ``tojson`` that does not escape HTML,
``raise_exception``, ``strftime_now``, ``{% generation %}``), because one differing space changes
the prompt. It is written here so that a server process never imports transformers.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

Message = Mapping[str, Any]

_REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")
_CONTINUE_TAG = "CONTINUE_FINAL_MESSAGE_TAG "


class ChatTemplate:
    """One compiled template; ``special_tokens`` are variables it may use, as ``bos_token``.

    Raises ``ValueError`` if the source does not compile.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        self.source = source
        self._special_tokens = dict(special_tokens)
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateError as error:
            raise ValueError(f"the chat template does not compile: {error}") from error

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt for ``messages``. Raises ``ValueError`` with the template's own words when it
        refuses them (role order, missing fields)."""
        if not messages:
            raise ValueError("messages: must contain at least one message")
        if continue_final_message and add_generation_prompt:
            raise ValueError(
                "continue_final_message: cannot be combined with add_generation_prompt; "
                "set add_generation_prompt to false"
            )
        chat = [_normalized(message) for message in messages]
        final = _mark_final(chat, self.source) if continue_final_message else ""
        scope = {**self._special_tokens, **(variables or {})}
        scope |= {
            "messages": chat,
            "tools": list(tools) if tools is not None else None,
            "documents": scope.get("documents"),
            "add_generation_prompt": add_generation_prompt,
        }
        text = self._render(scope)
        return _cut_at_mark(text, final) if continue_final_message else text

    def _render(self, scope: dict[str, Any]) -> str:
        try:
            return self._template.render(scope)
        except jinja2.TemplateError as error:
            raise ValueError(f"the chat template refuses these messages: {error}") from error
        except (TypeError, KeyError, AttributeError, IndexError, ValueError) as error:
            raise ValueError(f"the chat template cannot render these messages: {error}") from error


def _normalized(message: Message) -> dict[str, Any]:
    """A private copy without null fields, with reasoning under every name templates read."""
    chat = {key: copy.deepcopy(value) for key, value in message.items() if value is not None}
    reasoning = next((chat[name] for name in _REASONING_FIELDS if name in chat), None)
    if reasoning is not None:
        chat = {"thinking": reasoning, **chat, "reasoning_content": reasoning}
    return chat


def _mark_final(chat: list[dict[str, Any]], source: str) -> str:
    """Tag the end of the last message's content; return that content."""
    content = chat[-1].get("content")
    if content is None:
        raise ValueError("continue_final_message: the last message has no content to continue")
    if "content" not in source:
        raise ValueError("continue_final_message: the chat template does not read message content")
    if isinstance(content, str):
        chat[-1]["content"] = content + _CONTINUE_TAG
        return content
    for part in reversed(content):
        if "text" in part:
            final: str = part["text"]
            part["text"] = final + _CONTINUE_TAG
            return final
    raise ValueError("continue_final_message: the last message has no text to continue")


def _cut_at_mark(text: str, final: str) -> str:
    tag = _CONTINUE_TAG.strip()
    if final.strip() not in text or tag not in text:
        raise ValueError(
            "continue_final_message: the chat template drops or changes the last message, "
            "so it cannot be continued"
        )
    at = text.rindex(tag)
    if text.startswith(_CONTINUE_TAG, at):
        return text[:at]
    return text[:at].rstrip()  # the template trimmed the message, so trim what led to it


class _Generation(jinja2.ext.Extension):
    """``{% generation %}`` marks the assistant's words for training; here it only renders them."""

    tags = {"generation"}  # noqa: RUF012 (the name and type are Jinja's)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Any) -> str:
        return str(caller())


class _Dict:
    """``dict`` for templates, without the attributes of the real one."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    environment.globals["dict"] = _Dict()
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)
