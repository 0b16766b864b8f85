"""The exception tree: every error that a user, or a client of the service, can act on.

    TuneportError
    ├── DataError, CheckpointError, ArtifactError, SignatureError, GateError, EngineError
    └── RequestError                        a request gets an error response
        ├── InputError                      an input, or a parameter, is not of the task's form
        ├── MalformedRequest, UnsupportedEncoding, PayloadTooLarge, SlowRequest
        ├── Unauthenticated, Forbidden, NotFound, MethodNotAllowed, ModelNotLoaded
        ├── Overloaded, DeadlineExceeded, ServiceStopping
        ├── DeviceOutOfMemory, DeviceLost, EngineLost
        └── Unavailable, ServiceFailed      raised by the client alone

The service maps request errors to HTTP and gRPC statuses in one place, `serve/errors.py`; `tuneport/client/errors.py`
maps them back.
"""

from typing import Any

ERROR_CODE_HEADER = "error-code"
"""The header, over gRPC the metadata, with the code of an error whose response has no other place for it."""


class TuneportError(Exception):
    """A problem that the user can fix: what is wrong, then what to do about it, each a phrase.

    The command line prints it as one line and exits with 1.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        """Keep both phrases; `str(error)` is the line that a user reads."""
        super().__init__(f"{problem}; {remedy}")
        self.problem = problem
        self.remedy = remedy

    def rename(self, old: str, new: str) -> None:
        """Name `new` where the error names `old`: what the user gave in place of a temporary folder."""
        self.problem, self.remedy = self.problem.replace(old, new), self.remedy.replace(old, new)
        self.args = (f"{self.problem}; {self.remedy}",)

    def __reduce__(self) -> tuple[Any, ...]:
        """Arrive in another process as it is, whatever arguments its class takes."""
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[TuneportError], args: tuple[Any, ...], state: dict[str, Any]) -> TuneportError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class DataError(TuneportError):
    """The data cannot be used as it is."""


class CheckpointError(TuneportError):
    """The checkpoint lacks something, or does not fit the task."""


class ArtifactError(TuneportError):
    """The artifact is missing, damaged, or of another schema."""


class SignatureError(TuneportError):
    """An artifact is not signed with the key that was given, or a key cannot be used."""


class GateError(TuneportError):
    """A model does not give torch's answers."""


class EngineError(TuneportError):
    """The engine or execution provider that was asked for is not available."""


class RequestError(TuneportError):
    """A request that gets an error response instead of predictions."""

    code = "bad_request"
    request_id: str | None = None
    """Set by the client: the id under which the service logged the request."""
    retry_after_s: float | None = None
    """When to try again, for a request that was refused because of load."""

    def __init__(self, problem: str, remedy: str, code: str | None = None) -> None:
        """`code` is for programs, and by default that of the class; the two phrases are for people."""
        super().__init__(problem, remedy)
        self.code = code or type(self).code


class InputError(RequestError):
    """An input or a parameter of a request is not of the task's form."""

    code = "wrong_input"


class MalformedRequest(RequestError):
    """A request cannot be read at all."""

    code = "malformed"


class UnsupportedEncoding(RequestError):
    """A body is encoded in a way that is not accepted."""

    code = "encoded"


class PayloadTooLarge(RequestError):
    """A request exceeds a limit on its size."""

    code = "too_large"


class SlowRequest(RequestError):
    """A request's body does not arrive in time."""

    code = "slow_body"


class Unauthenticated(RequestError):
    """A request without a valid API key."""

    code = "unauthenticated"


class Forbidden(RequestError):
    """A request whose key does not allow it."""

    code = "forbidden"


class ModelNotLoaded(RequestError):
    """A model's version that could not be loaded or unloaded; what served before goes on."""

    code = "model_not_loaded"


class NotFound(RequestError):
    """A path or a model that does not exist."""

    code = "not_found"


class MethodNotAllowed(RequestError):
    """A path that exists, requested with another method."""

    code = "not_routed"

    def __init__(self, problem: str, allowed: str) -> None:
        """`allowed` lists the path's methods, separated by commas."""
        super().__init__(problem, f"send {allowed}")
        self.allowed = allowed


class Overloaded(RequestError):
    """More work than is accepted now."""

    code = "overloaded"

    def __init__(self, problem: str, remedy: str, retry_after_s: float = 1.0) -> None:
        """`retry_after_s` is how long the queued work will take."""
        super().__init__(problem, remedy)
        self.retry_after_s = retry_after_s


class DeadlineExceeded(RequestError):
    """A request that was not answered in its time."""

    code = "timeout"


class ServiceStopping(RequestError):
    """The service is shutting down."""

    code = "stopping"

    def __init__(self) -> None:
        """Say so."""
        super().__init__("the service is stopping", "send the request again, to another replica if there is one")


class DeviceOutOfMemory(RequestError):
    """The device has too little memory even for a batch of one row."""

    code = "device_out_of_memory"

    def __init__(self, tokens: int) -> None:
        """`tokens` is the length of the row."""
        super().__init__(
            f"the device has too little free memory for one input of {tokens} tokens",
            "try again later or send shorter inputs; for the operator: stop what else uses the device's memory, lower "
            "TUNEPORT_MAX_BATCH_TOKENS or TUNEPORT_WORKERS, or raise TUNEPORT_GPU_MEMORY_GIB where it is set",
        )


class DeviceLost(RequestError):
    """The device failed so that nothing more can run on it in this process."""

    code = "device_lost"

    def __init__(self, reason: str) -> None:
        """`reason` is what the driver said."""
        super().__init__(
            f"the device failed ({reason})",
            "send the request again, to another replica if there is one; a new worker opens the device again",
        )
        self.reason = reason


class EngineLost(RequestError):
    """The engine process that the service's workers share has ended."""

    code = "engine_lost"
    retry_after_s = 1.0

    def __init__(self) -> None:
        """Say so."""
        super().__init__("the engine process ended, and another one is starting", "send the request again in a moment")


class Unavailable(RequestError):
    """The service cannot be reached, or cannot answer now."""

    code = "unavailable"


class ServiceFailed(RequestError):
    """The service failed for a reason that is not the request's."""

    code = "internal"
