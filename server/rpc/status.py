"""Errors in gRPC's words: a code, and google.rpc's details of field, reason and retry."""

from typing import NoReturn

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from prelude.server.errors import ApiError

DOMAIN = "prelude"

# Trailers are headers, of which peers take 8 KiB. A message is in them once percent-encoded, three
# bytes for one, and twice in base64, four for three.
_MAX_MESSAGE_BYTES = 1000
_MAX_NAME_BYTES = 128

_CODES = {
    400: Code.INVALID_ARGUMENT,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    409: Code.ALREADY_EXISTS,
    413: Code.RESOURCE_EXHAUSTED,
    429: Code.RESOURCE_EXHAUSTED,
    503: Code.UNAVAILABLE,
}


async def abort(context: grpc.aio.ServicerContext, error: ApiError) -> NoReturn:
    """End the call with ``error``; never returns."""
    status = rpc_status.to_status(status_of(error))
    await context.abort_with_status(status)
    raise AssertionError("unreachable")


def status_of(error: ApiError) -> Status:
    """RetryInfo says when it is worth trying again, where it is; BadRequest names the field;
    ErrorInfo has the code that HTTP's error bodies have."""
    code, message = _CODES.get(error.status, Code.INTERNAL), cut(error.message, _MAX_MESSAGE_BYTES)
    if error.code == "deadline_expired":
        code = Code.DEADLINE_EXCEEDED
    details = []
    if error.code is not None:
        details.append(_packed(ErrorInfo(reason=cut(error.code, _MAX_NAME_BYTES), domain=DOMAIN)))
    if error.param is not None:
        field = cut(error.param, _MAX_NAME_BYTES)
        violation = BadRequest.FieldViolation(field=field, description=message)
        details.append(_packed(BadRequest(field_violations=[violation])))
    if (retry_ms := _retry_ms(error)) is not None:
        delay = Duration()
        delay.FromMilliseconds(retry_ms)
        details.append(_packed(RetryInfo(retry_delay=delay)))
    return Status(code=code, message=message, details=details)


def cut(text: str, max_bytes: int) -> str:
    """``text``, or as much of it as fits so many bytes of UTF-8."""
    data = text.encode(errors="replace")
    if len(data) <= max_bytes:
        return data.decode()
    return data[: max_bytes - 3].decode(errors="ignore") + "..."


def _retry_ms(error: ApiError) -> int | None:
    for name, scale in (("retry-after-ms", 1), ("retry-after", 1000)):
        if (value := error.headers.get(name)) is not None:
            return int(float(value) * scale)
    return None


def _packed(message: ErrorInfo | BadRequest | RetryInfo) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed
