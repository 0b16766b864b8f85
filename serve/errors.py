"""Map each request error to its response, over HTTP and gRPC."""

import math
from dataclasses import dataclass
from functools import lru_cache

import grpc

from tuneport.errors import (
    DeadlineExceeded,
    DeviceLost,
    DeviceOutOfMemory,
    EngineLost,
    Forbidden,
    InputError,
    MalformedRequest,
    MethodNotAllowed,
    ModelNotLoaded,
    NotFound,
    Overloaded,
    PayloadTooLarge,
    RequestError,
    ServiceStopping,
    SlowRequest,
    Unauthenticated,
    UnsupportedEncoding,
)

MAX_MESSAGE_CHARS = 1000
"""Messages quote parts of the request, of any length, and gRPC sends them in a header."""
NO_THREAD = "can't start new thread"
"""What Python says, in a RuntimeError, where the memory or the number of threads is at its limit."""
STATUSES: dict[type[Exception], tuple[int, grpc.StatusCode]] = {
    MalformedRequest: (400, grpc.StatusCode.INVALID_ARGUMENT),
    Unauthenticated: (401, grpc.StatusCode.UNAUTHENTICATED),
    Forbidden: (403, grpc.StatusCode.PERMISSION_DENIED),
    NotFound: (404, grpc.StatusCode.NOT_FOUND),
    MethodNotAllowed: (405, grpc.StatusCode.UNIMPLEMENTED),
    SlowRequest: (408, grpc.StatusCode.DEADLINE_EXCEEDED),
    ModelNotLoaded: (409, grpc.StatusCode.FAILED_PRECONDITION),
    PayloadTooLarge: (413, grpc.StatusCode.INVALID_ARGUMENT),
    UnsupportedEncoding: (415, grpc.StatusCode.INVALID_ARGUMENT),
    InputError: (422, grpc.StatusCode.INVALID_ARGUMENT),
    Overloaded: (429, grpc.StatusCode.RESOURCE_EXHAUSTED),
    DeadlineExceeded: (503, grpc.StatusCode.DEADLINE_EXCEEDED),
    ServiceStopping: (503, grpc.StatusCode.UNAVAILABLE),
    DeviceOutOfMemory: (503, grpc.StatusCode.UNAVAILABLE),
    DeviceLost: (503, grpc.StatusCode.UNAVAILABLE),
    EngineLost: (503, grpc.StatusCode.UNAVAILABLE),
    RequestError: (400, grpc.StatusCode.INVALID_ARGUMENT),
}
"""Request error → HTTP status and gRPC code; subclasses before their bases."""


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    """The response to an error, for both protocols."""

    status: int
    """HTTP's status."""
    grpc_code: grpc.StatusCode
    code: str
    """For programs; see the classes in `tuneport/errors.py`."""
    message: str
    remedy: str
    retry_after_s: int | None = None
    """For a request that was refused because of load, or whose engine is restarted: when to try again, in seconds."""
    allowed: str | None = None
    """For a method that is not allowed: those that are."""

    @property
    def closes_connection(self) -> bool:
        """Whether a part of the body was not read, so that nothing else can follow on its connection."""
        return self.status == 408 or self.code == "body_too_large"

    @property
    def text(self) -> str:
        """Message and remedy on one line, for protocols that have one field for both."""
        return f"{self.message}; {self.remedy}"

    def as_json(self) -> dict[str, dict[str, str]]:
        """Return the body of an error response of `/predict`."""
        return {"error": {"code": self.code, "message": self.message, "remedy": self.remedy}}


def to_error_response(error: Exception) -> ErrorResponse:
    """Map an error to its response; an error that is not the request's fault is 500 and names no details."""
    if _lacks_memory(error):
        problem, remedy = (
            "there is too little memory for the request",
            "send fewer inputs at a time",
        )
        return ErrorResponse(503, grpc.StatusCode.UNAVAILABLE, "out_of_memory", problem, remedy)
    if not isinstance(error, RequestError):
        problem = f"the model failed ({type(error).__name__})"
        return ErrorResponse(500, grpc.StatusCode.INTERNAL, "internal", problem, "see the service's log; report it")
    status, grpc_code = _codes_of(type(error))  # type: ignore[arg-type]  # takes the class for an instance of itself
    return ErrorResponse(
        status,
        grpc_code,
        error.code,
        error.problem[:MAX_MESSAGE_CHARS],
        error.remedy[:MAX_MESSAGE_CHARS],
        retry_after_s=max(1, math.ceil(error.retry_after_s)) if error.retry_after_s is not None else None,
        allowed=error.allowed if isinstance(error, MethodNotAllowed) else None,
    )


@lru_cache
def _codes_of(kind: type[Exception]) -> tuple[int, grpc.StatusCode]:
    """Search for the codes of a class of request errors, once."""
    return next(codes for known, codes in STATUSES.items() if issubclass(kind, known))


def _lacks_memory(error: Exception) -> bool:
    """Tell whether Python had too little memory for a request, or for a thread; the engine has DeviceOutOfMemory."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and NO_THREAD in str(error))
