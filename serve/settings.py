"""What a deployment may set: `TUNEPORT_…` variables, read when the service starts."""

import difflib
import os
import re
import ssl
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from export.files import TuneportError
from export.machine import usable_cores
from export.manifest import Device

PREFIX = "TUNEPORT_"
START_REPORT = "TUNEPORT_START_REPORT"
"""Variable with the file in which a worker that cannot start says why; `serve.process` and `tuneport serve` set it."""
METRICS_FOLDER = "TUNEPORT_METRICS_FOLDER"
"""Variable with the folder in which the workers of one supervisor add up their figures; the supervisor sets it."""
KEY = re.compile(r"[!-~]+")
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s]+")


class Settings(BaseSettings):
    """Every limit has a safe default; a wrong value stops the start with its name."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    variant: str | None = None
    """Which variant serves; when unset the manifest's default, or the fastest here on an unlike machine."""
    device: Device | None = None
    """Must agree with the variant's; unset means the variant's own."""
    threads: int | None = Field(default=None, ge=1)
    """Processors for a worker's inference; its share of the container's quota when unset."""
    workers: int = Field(default=1, ge=1)
    """Processes that serve, each with an engine of its own."""
    batcher: Literal["tuneport", "bentoml"] = "tuneport"
    """What gathers concurrent requests: tuneport's own batcher, or BentoML's adaptive batching."""
    max_batch_tokens: int | None = Field(default=None, ge=1)
    """Padded tokens of one micro-batch (rows x longest row); what was measured to be best when unset."""

    max_waiting_inputs: int = Field(default=4096, ge=1)
    """Inputs that may wait for the engine before requests are refused with 429."""
    max_queue_ms: float = Field(default=350.0, gt=0, allow_inf_nan=False)
    """Estimated wait for the engine above which new requests are refused with 429."""
    max_requests: int = Field(default=1024, ge=1)
    """Requests that a worker handles at a time, both doors together; more are refused with 429."""
    max_inputs: int = Field(default=512, ge=1)
    """Inputs of one request; more is refused with 413."""
    max_chars: int = Field(default=2**20, ge=1)
    """Characters of one request, its inputs together; more is refused with 413 before they are tokenized."""
    max_tokens: int = Field(default=2**18, ge=1)
    """Tokens of one request, those that overlapping windows share counted twice; more is refused with 413."""
    max_body_bytes: int = Field(default=8 * 2**20, ge=1)
    """Size of one request; more is refused with 413."""

    request_timeout_s: float = Field(default=30.0, gt=0, allow_inf_nan=False)
    """After this the request is dropped wherever it is and answered with 503."""
    header_timeout_s: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    """Time for a request's headers before the connection is closed."""
    body_timeout_s: float = Field(default=20.0, gt=0, allow_inf_nan=False)
    """Time for a request's body before it is refused with 408."""
    idle_timeout_s: int = Field(default=30, ge=1)
    """After this a connection without a request is closed."""
    drain_s: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """When told to stop, how long to go on while readiness already says no."""
    grace_s: int = Field(default=30, ge=0)
    """After that, how long requests that are under way may take to finish."""

    grpc_port: int = Field(default=3001, ge=0, le=65535)
    """Port of the gRPC door; 0 leaves it out."""
    grpc_host: str = "0.0.0.0"
    """Address that the gRPC door listens on."""
    metrics_port: int | None = Field(default=None, ge=1, le=65535)
    """A port of its own for /metrics, which then is not at the HTTP door."""
    api_keys: SecretStr | None = None
    """Keys that requests must bring one of, separated by commas."""
    api_keys_file: Path | None = None
    """A file with further keys, one a line."""
    tls_certfile: Path | None = None
    """Certificate chain (PEM) for both doors."""
    tls_keyfile: Path | None = None
    """Private key (PEM) for both doors."""
    cors_origins: str | None = None
    """Origins whose pages may call the service, separated by commas; none when unset."""

    log_requests: bool = True
    """Log a line of JSON for each request."""
    log_inputs: bool = False
    """Log the inputs of requests, too: texts may be confidential."""

    def threads_each(self) -> int:
        """Return the processors of one worker."""
        return self.threads or max(1, usable_cores() // self.workers)

    def keys(self) -> tuple[bytes, ...]:
        """Read the API keys; a TuneportError for a file that cannot be read, that has none, or one no header holds."""
        found = self.api_keys.get_secret_value().split(",") if self.api_keys else []
        if self.api_keys_file:
            try:
                found += self.api_keys_file.read_text(encoding="utf-8-sig").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise TuneportError(f"TUNEPORT_API_KEYS_FILE cannot be read ({error})", "mend its path") from error
        keys = [key.strip() for key in found if key.strip()]
        if (self.api_keys or self.api_keys_file) and not keys:
            raise TuneportError("there is no key in TUNEPORT_API_KEYS or its file", "set one, or unset both")
        for number, key in enumerate(keys, 1):
            if not KEY.fullmatch(key):
                problem = f"API key {number} has white space or characters beyond ASCII, which no header holds"
                raise TuneportError(problem, "write one key a line, and nothing else")
        return tuple(key.encode() for key in keys)

    def paths(self) -> dict[str, str]:
        """Return the variables that name files, for a process with another working directory."""
        named = {name: getattr(self, name) for name in ("api_keys_file", "tls_certfile", "tls_keyfile")}
        return {f"{PREFIX}{name}".upper(): str(path.absolute()) for name, path in named.items() if path}

    def origins(self) -> list[str]:
        """List the origins for CORS; a TuneportError for what is none."""
        given = [origin.strip() for origin in (self.cors_origins or "").split(",") if origin.strip()]
        for origin in given:
            if origin != "*" and not ORIGIN.fullmatch(origin):
                raise TuneportError(
                    f"TUNEPORT_CORS_ORIGINS: {origin!r} is no origin", "write https://example.org, without a path"
                )
        return given

    def tls(self) -> tuple[bytes, bytes] | None:
        """Read certificate chain and key; None without TLS."""
        if not self.tls_certfile and not self.tls_keyfile:
            return None
        if not self.tls_certfile or not self.tls_keyfile:
            raise TuneportError("TLS needs a certificate and its key", "set TUNEPORT_TLS_CERTFILE and …_KEYFILE")
        try:
            # An encrypted key would be asked for on a terminal that a service has not got.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.tls_certfile, self.tls_keyfile, lambda: "")
            return self.tls_certfile.read_bytes(), self.tls_keyfile.read_bytes()
        except OSError as error:  # ssl's errors are some, too
            problem = f"TLS: {self.tls_certfile} and {self.tls_keyfile} are no certificate and its key ({error})"
            raise TuneportError(problem, "mend TUNEPORT_TLS_CERTFILE or TUNEPORT_TLS_KEYFILE") from error


def read_settings() -> Settings:
    """Read the environment; a TuneportError names every variable that is wrong."""
    try:
        settings = Settings()
    except ValidationError as error:
        wrong = ", ".join(f"TUNEPORT_{e['loc'][0]!s}".upper() + f": {e['msg']}" for e in error.errors())
        raise TuneportError(f"wrong settings: {wrong}", "correct or unset them") from error
    _check_names()
    settings.keys()
    settings.tls()
    settings.origins()
    return settings


def _check_names() -> None:
    """Raise a TuneportError for a variable whose name is nearly a setting's; others may be somebody else's."""
    known = [f"{PREFIX}{name}".upper() for name in Settings.model_fields]
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in (*known, START_REPORT, METRICS_FOLDER):
            meant = difflib.get_close_matches(name, known, 1, cutoff=0.9)
            if meant:
                raise TuneportError(f"there is no setting {name}", f"did you mean {meant[0]}?")
