"""Map error responses back to the exceptions of `tuneport/errors.py`, and tell which of them another try may cure."""

import datetime
import email.utils

from tuneport import errors
from tuneport.errors import RequestError

BY_STATUS: dict[int | str, type[RequestError]] = {
    401: errors.Unauthenticated,
    403: errors.Forbidden,
    404: errors.NotFound,
    405: errors.NotFound,
    408: errors.SlowRequest,
    409: errors.ModelNotLoaded,
    413: errors.PayloadTooLarge,
    415: errors.UnsupportedEncoding,
    422: errors.InputError,
    429: errors.Overloaded,
    "INVALID_ARGUMENT": errors.InputError,
    "UNAUTHENTICATED": errors.Unauthenticated,
    "PERMISSION_DENIED": errors.Forbidden,
    "NOT_FOUND": errors.NotFound,
    "FAILED_PRECONDITION": errors.ModelNotLoaded,
    "UNIMPLEMENTED": errors.NotFound,
    "RESOURCE_EXHAUSTED": errors.Overloaded,
    "DEADLINE_EXCEEDED": errors.DeadlineExceeded,
    "UNAVAILABLE": errors.Unavailable,
}
"""HTTP's status or the name of gRPC's code → exception, for codes that no class has as its own."""
BY_CODE = {
    kind.code: kind
    for kind in (
        errors.InputError,
        errors.MalformedRequest,
        errors.UnsupportedEncoding,
        errors.PayloadTooLarge,
        errors.SlowRequest,
        errors.Unauthenticated,
        errors.Forbidden,
        errors.ModelNotLoaded,
        errors.NotFound,
        errors.Overloaded,
        errors.DeadlineExceeded,
    )
}
RETRIED = (errors.Overloaded, errors.Unavailable)
"""Errors after which the same request may succeed. A request that ran out of its time, or that the service failed on,
would only cost the same again."""


def to_exception(
    status: int | str, code: str | None, problem: str, remedy: str, *, retry_after_s: float | None = None
) -> RequestError:
    """Return the exception for an error response; `status` is HTTP's number or the name of gRPC's code."""
    kind = BY_CODE.get(code or "") or BY_STATUS.get(status) or _by_class(status)
    error = kind(problem, remedy, code) if kind is not errors.Overloaded else errors.Overloaded(problem, remedy)
    error.code = code or kind.code
    error.retry_after_s = retry_after_s
    return error


def _by_class(status: int | str) -> type[RequestError]:
    """Return the exception for a status that the table lacks, such as a proxy's."""
    if status in (502, 503, 504):
        return errors.Unavailable
    is_failure = isinstance(status, str) or status >= 500
    return errors.ServiceFailed if is_failure else errors.MalformedRequest


def unreachable(url: str, reason: object) -> RequestError:
    """Return the exception for a connection that fails."""
    text = " ".join(str(reason).split())[:200] or type(reason).__name__
    return errors.Unavailable(f"{url} cannot be reached ({text})", "start the service, or correct the address")


def out_of_time(timeout_s: float) -> RequestError:
    """Return the exception for a call whose deadline passed on this side."""
    return errors.DeadlineExceeded(f"no answer within {timeout_s:g} s", "raise timeout_s, or send fewer inputs")


def read_retry_after(value: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks for, as a number or as a date; None if it cannot be read."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        at = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=datetime.UTC)
    return max(0.0, (at - datetime.datetime.now(datetime.UTC)).total_seconds())
