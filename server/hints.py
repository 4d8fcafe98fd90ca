"""What a request says of itself beside its prompt and its limits: from fields and headers to
``Hints``. Nothing here is believed further than it does the teller no good; see
``prelude.batcher.classes``.
"""

from collections.abc import Mapping
from hashlib import blake2b

import msgspec

from prelude.conf.schema import Policy
from prelude.server.errors import from_value_error, invalid, unsupported
from prelude.server.protocol import ChatRequest, RequestFields
from prelude.types.service import SERVICE_CLASSES, Hints, Reasoning, ServiceClass

_BATCH_TIERS = ("batch", "flex")
_EFFORTS: Mapping[str, Reasoning] = {
    "none": "none",
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
}
_THINKING = ("enable_thinking", "thinking")  # the templates' words for it
_CLASS_HEADER = "x-prelude-class"
_DEADLINE_HEADER = "x-request-deadline-ms"


def hints_of(fields: RequestFields, headers: Mapping[str, str], policy: Policy) -> Hints:
    """``headers`` have names in lower case; fields come before them. Raises ``ApiError`` naming
    the field or header."""
    try:
        return Hints(
            service_class=_service_class(fields, headers),
            priority=_priority(fields, policy),
            client=_client(fields, headers),
            template=_template(fields),
            reasoning=_reasoning(fields),
            ttft_deadline_ms=fields.ttft_deadline_ms,
            deadline_ms=_deadline_ms(fields, headers),
        )
    except ValueError as error:
        raise from_value_error(error) from error


def tier_of(fields: RequestFields, policy: Policy) -> str:
    """OpenAI's word for how a request was served: what it asked for, where that is possible."""
    if fields.service_tier in _BATCH_TIERS:
        return "flex"
    is_ahead = fields.service_tier == "priority" and policy == Policy.priority
    return "priority" if is_ahead else "default"


def _service_class(fields: RequestFields, headers: Mapping[str, str]) -> ServiceClass | None:
    wish = headers.get(_CLASS_HEADER)
    found = next((name for name in SERVICE_CLASSES if wish == name), None)
    if wish is not None and found is None:
        raise invalid(_CLASS_HEADER, f"must be one of {', '.join(SERVICE_CLASSES)}")
    if (named := fields.service_class or found) is not None:
        return named
    return "batch" if fields.service_tier in _BATCH_TIERS else None


def _priority(fields: RequestFields, policy: Policy) -> int:
    """As in vLLM, smaller first; OpenAI's priority tier is one step ahead of everybody."""
    if fields.priority and policy != Policy.priority:
        raise unsupported("priority", "counts with batcher.policy=priority only; leave it out")
    return fields.priority or (-1 if fields.service_tier == "priority" else 0)


def _client(fields: RequestFields, headers: Mapping[str, str]) -> str:
    """A digest of key and user, so that neither can be read where it is passed on."""
    key = headers.get("authorization", "")
    user = fields.safety_identifier or fields.user or ""
    return _digest(key, user) if key or user else ""


def _template(fields: RequestFields) -> str:
    """A digest of what the requests of an application have in common."""
    if not isinstance(fields, ChatRequest):
        return ""
    common = [
        msgspec.json.encode(message.get("content")).decode()
        for message in fields.messages
        if message.get("role") in ("system", "developer")
    ]
    if fields.tools:
        common.append(msgspec.json.encode(fields.tools).decode())
    return _digest(*common) if common else ""


def _reasoning(fields: RequestFields) -> Reasoning:
    if not isinstance(fields, ChatRequest):
        return ""
    variables = fields.chat_template_kwargs or {}
    flags = [variables[name] for name in _THINKING if isinstance(variables.get(name), bool)]
    if flags and not flags[0]:
        return "none"
    return _EFFORTS.get(fields.effort or "", "medium" if flags else "")


def _deadline_ms(fields: RequestFields, headers: Mapping[str, str]) -> float | None:
    value = headers.get(_DEADLINE_HEADER)
    if value is None:
        return fields.deadline_ms
    try:
        found = float(value)
    except ValueError:
        raise invalid(_DEADLINE_HEADER, "must be a number of milliseconds") from None
    if not found > 0.0:
        raise invalid(_DEADLINE_HEADER, "must be more than 0")
    return found if fields.deadline_ms is None else fields.deadline_ms


def _digest(*parts: str) -> str:
    data = "\0".join(parts).encode(errors="surrogatepass")
    return blake2b(data, digest_size=8).hexdigest()
