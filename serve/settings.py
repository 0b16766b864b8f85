"""What a deployment may set: `TUNEPORT_…` variables, read when the service starts."""

from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from export.files import TuneportError


class Settings(BaseSettings):
    """Every limit has a safe default; a wrong value stops the start with its name."""

    model_config = SettingsConfigDict(env_prefix="TUNEPORT_", frozen=True, extra="forbid")

    variant: str | None = None
    """Which variant serves; the manifest's default when unset."""
    device: Literal["cpu", "cuda"] | None = None
    """Must agree with the variant's; unset means the variant's own."""
    threads: int | None = Field(default=None, ge=1)
    """Processors for inference; as many as the container's quota grants when unset."""
    max_batch_tokens: int = Field(default=1024, ge=1)
    """Padded tokens of one micro-batch (rows x longest row); one longer row still runs, alone."""
    max_waiting_inputs: int = Field(default=4096, ge=1)
    """Inputs that may wait for the engine before requests are refused with 429."""
    max_inputs: int = Field(default=512, ge=1)
    """Inputs of one request; more is refused with 413."""
    max_body_bytes: int = Field(default=8 * 2**20, ge=1)
    """Size of one request; more is refused with 413."""
    request_timeout_s: float = Field(default=30.0, gt=0)
    """After this the request is dropped wherever it is and answered with 503."""


def read_settings() -> Settings:
    """Read the environment; a TuneportError names every variable that is wrong."""
    try:
        return Settings()
    except ValidationError as error:
        wrong = ", ".join(f"TUNEPORT_{e['loc'][0]!s}".upper() + f": {e['msg']}" for e in error.errors())
        raise TuneportError(f"wrong settings: {wrong}", "correct or unset them") from error
