"""From the protocol's messages to what the engine is asked.

In proto3 a number that was not sent is 0: of fields where 0 would mean nothing, 0 is the default.
"""

import json
from dataclasses import dataclass
from typing import Any

import msgspec
from smg_grpc_proto.generated import vllm_engine_pb2 as pb

from prelude.server.errors import invalid, unsupported
from prelude.server.principal import Principal
from prelude.server.prompts import check_fits, check_length, off_loop, truncated
from prelude.server.protocol import CompletionRequest
from prelude.server.sampling import sampling_params
from prelude.server.services import Services
from prelude.types.constraint import Constraint, ConstraintKind
from prelude.types.request import SamplingParams

_UNSET_AT_0 = ("top_p", "top_k", "min_p", "repetition_penalty", "n")
_PASSED = ("frequency_penalty", "presence_penalty", "min_tokens", "ignore_eos")
_FLAGS = ("skip_special_tokens", "include_stop_str_in_output")
_OPTIONAL = (
    *("temperature", "max_tokens", "logprobs", "prompt_logprobs", "seed"),
    "truncate_prompt_tokens",
)
_NOT_TAKEN = (
    *("mm_inputs", "media_refs", "kv_transfer_params", "kv_transfer_params_json"),
    "data_parallel_rank",
)
_CONSTRAINTS: dict[str, ConstraintKind] = {
    "json_schema": "json_schema",
    "regex": "regex",
    "grammar": "lark",
    "json_object": "json",
    "choice": "choice",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """One prompt and what is to become of it."""

    prompt_ids: list[int]
    params: SamplingParams
    fields: CompletionRequest


async def generation_of(
    request: pb.GenerateRequest, services: Services, principal: Principal
) -> Asked:
    """Raises ``ApiError`` naming the field."""
    for name in _NOT_TAKEN:
        if request.HasField(name):
            raise unsupported(name, "not supported; leave it out")
    if request.extra_mm_inputs:
        raise unsupported("extra_mm_inputs", "not supported; leave it out")
    _check_counts(request.sampling_params, services.engine().vocab_size)
    fields = _fields(request)
    context = principal.context(services.engine().max_len)
    if fields.truncate_prompt_tokens is None:  # before a list is made of them
        check_fits(len(request.tokenized.input_ids), context, "input")
        check_length(services.tokenizer, request.text, context, "input")
    ids = truncated(await _prompt(request, services), fields, context)
    if not ids:
        raise invalid("input", "must not be empty")
    params = sampling_params(fields, services.defaults, check_fits(len(ids), context, "input"))
    constraint = _constraint(request.sampling_params, services)
    if constraint is not None:
        params = msgspec.structs.replace(params, constraint=constraint)
    return Asked(ids, params, fields)


def embedding_of(request: pb.EmbedRequest, services: Services, principal: Principal) -> list[int]:
    """Token ids to embed. Raises ``ApiError``."""
    found = request.tokenized.input_ids
    if not found:
        raise invalid("tokenized.input_ids", "must not be empty")
    check_fits(len(found), principal.context(services.engine().max_len), "tokenized.input_ids")
    return list(found)


async def _prompt(request: pb.GenerateRequest, services: Services) -> list[int]:
    if request.WhichOneof("input") != "text":
        return list(request.tokenized.input_ids)
    text = request.text
    return await off_loop(len(text), lambda: services.tokenizer.encode(text, True))


def _check_counts(said: pb.SamplingParams, vocab_size: int) -> None:
    """Before anything is made of them: looking at millions would hold up everybody else."""
    for name, most in (("stop_token_ids", vocab_size), ("logit_bias", vocab_size), ("stop", 32)):
        if (count := len(getattr(said, name))) > most:
            raise invalid(name, f"has {count} items, and may have {most}", code="array_too_long")


def _fields(request: pb.GenerateRequest) -> CompletionRequest:
    """The same as an HTTP body would say it, so that the same rules hold."""
    said = request.sampling_params
    values: dict[str, Any] = {name: getattr(said, name) for name in (*_PASSED, *_FLAGS)}
    values |= {name: getattr(said, name) for name in _OPTIONAL if said.HasField(name)}
    values |= {name: getattr(said, name) for name in _UNSET_AT_0 if getattr(said, name)}
    return CompletionRequest(
        prompt="",
        stop=list(said.stop),
        stop_token_ids=list(said.stop_token_ids),
        logit_bias=dict(said.logit_bias),
        request_id=request.request_id or None,
        **values,
    )


def _constraint(said: pb.SamplingParams, services: Services) -> Constraint | None:
    name = said.WhichOneof("constraint")
    if name is None or (name == "json_object" and not said.json_object):
        return None
    if name not in _CONSTRAINTS:
        raise unsupported(name, "not supported; leave it out")
    text = "" if name == "json_object" else getattr(said, name)
    limit_kib = services.config.server.limits.max_schema_kib
    size = said.choice.ByteSize() if name == "choice" else len(text.encode())
    if size > limit_kib * 1024:
        raise invalid(name, f"is larger than {limit_kib:g} KiB")
    if name == "choice":
        text = json.dumps(list(said.choice.choices))
    return Constraint(_CONSTRAINTS[name], text, field=name)
