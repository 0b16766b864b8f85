"""Every way a request can be refused, with what HTTP says to it; gRPC derives its codes from these."""

from dataclasses import dataclass

from export.files import TuneportError
from serve.batcher import Overloaded
from serve.tasks.inputs import InputError


class Refused(TuneportError):
    """A request that gets an error answer instead of predictions."""

    def __init__(self, status: int, code: str, problem: str, remedy: str) -> None:
        """`status` is HTTP's; `code` is for programs, the two phrases for people."""
        super().__init__(problem, remedy)
        self.status = status
        self.code = code


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error answer."""

    status: int
    code: str
    message: str
    remedy: str
    retry_after_s: float | None = None

    def as_json(self) -> dict[str, dict[str, str]]:
        """Give it the shape of every error."""
        return {"error": {"code": self.code, "message": self.message, "remedy": self.remedy}}


MOST_CHARS = 1000
"""Of a message: what a request names wrongly is quoted in it, and gRPC sends it as a header."""


def refusal_of(error: Exception) -> Refusal:
    """Say what to answer to an error; what is nobody's request's fault is 500 and names no details."""
    match error:
        case Refused():
            return Refusal(error.status, error.code, error.problem[:MOST_CHARS], error.remedy[:MOST_CHARS])
        case InputError():
            return Refusal(422, "wrong_input", error.problem[:MOST_CHARS], error.remedy[:MOST_CHARS])
        case Overloaded():
            return Refusal(429, "overloaded", error.problem, error.remedy, error.retry_after_s)
        case _:
            problem = f"the model failed ({type(error).__name__})"
            return Refusal(500, "internal", problem, "see the service's log; report it")
