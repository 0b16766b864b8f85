"""The settings of a deployment: `TUNEPORT_…` variables, read when the service starts."""

import difflib
import os
import re
import ssl
from pathlib import Path
from typing import TypeVar

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from tuneport.errors import TuneportError
from tuneport.host import usable_cores
from tuneport.runtime.device_options import ArenaStrategy, DeviceOptions
from tuneport.schema.artifact import Device
from tuneport.signing import read_public_key

from .supervision import COMMAND_PID, RUN_FOLDER, SUPERVISOR_PID
from .tracing import USERS_SDK_DISABLED

PREFIX = "TUNEPORT_"
START_REPORT = "TUNEPORT_START_REPORT"
"""Variable with the path of the file for the reason why a worker cannot start; set by what starts the service."""
METRICS_FOLDER = "TUNEPORT_METRICS_FOLDER"
"""Variable with the folder in which the workers of one supervisor share their metrics; the supervisor sets it."""
OWN_VARIABLES = (START_REPORT, METRICS_FOLDER, COMMAND_PID, SUPERVISOR_PID, RUN_FOLDER, USERS_SDK_DISABLED)
"""Variables with which the service's processes talk to each other."""
KUBERNETES_LINK = re.compile(r"TUNEPORT(_[A-Z0-9_]+)?_(SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)|PORT(_\d+_.+)?)")
"""What Kubernetes sets in every container beside a Service whose name begins with tuneport."""
MAX_THREADS = 512
"""More threads than any one processor has; an engine with thousands fails while it starts."""
API_KEY = re.compile(r"[!-~]+")
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s]+")


class EngineSettings(BaseSettings):
    """The settings that `tuneport predict` reads as well."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", use_attribute_docstrings=True)

    variant: str | None = None
    """The variant to serve; by default the manifest's, or the fastest here on a host unlike the export's."""
    threads: int | None = Field(default=None, ge=1, le=MAX_THREADS)
    """CPU threads of an engine's inference; by default its share of the container's quota."""
    max_batch_tokens: int | None = Field(default=None, ge=1)
    """Padded tokens of one batch (rows x longest row); by default what the export measured to be best."""


Read = TypeVar("Read", bound=EngineSettings)


class Settings(EngineSettings):
    """The settings of a deployment. Every limit has a safe default; an invalid value stops the start."""

    model_repository: Path | None = None
    """Folder of the artifacts that may be loaded while the service runs; by default there is none."""
    load_timeout_s: float = Field(default=300.0, gt=0, allow_inf_nan=False)
    """Time for a version to open and pass its golden cases in all workers, after which it is not loaded."""
    device: Device | None = None
    """The device that the variant must be for; by default any."""
    workers: int | None = Field(default=None, ge=1, le=MAX_THREADS)
    """Processes that serve, each with its own engine unless `engines` is set; by default one, on GPUs one for each."""
    engines: int | None = Field(default=None, ge=0, le=MAX_THREADS)
    """Engine processes that the workers share; 0: none, and by default with more workers than GPUs one for each GPU."""

    gpu_memory_gib: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Limit of the memory arena of a worker's engine on its GPU; by default the GPU's memory."""
    gpu_arena_strategy: ArenaStrategy | None = None
    """How that arena grows; by default as the variant says, else as ONNX Runtime does (kNextPowerOfTwo)."""

    max_queue_inputs: int = Field(default=32768, ge=1)
    """Inputs that may wait in the queue, which bounds its memory; further requests are refused with 429."""
    max_queue_ms: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Estimated wait in the queue above which requests are refused with 429; by default the request's own timeout."""
    max_concurrent_requests: int = Field(default=4096, ge=1)
    """Requests that a worker handles at a time, over both protocols; further ones are refused with 429."""
    max_client_batch_size: int = Field(default=512, ge=1)
    """Inputs of one request; more are refused with 413."""
    max_chars: int = Field(default=2**20, ge=1)
    """Characters of all inputs of one request; more are refused with 413 before they are tokenized."""
    max_tokens: int = Field(default=2**18, ge=1)
    """Tokens of one request, those that overlapping windows share counted twice; more are refused with 413."""
    max_body_bytes: int = Field(default=8 * 2**20, ge=1)
    """Size of a request's body, as sent and decompressed; a larger one is refused with 413."""

    response_cache_mib: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Memory of a worker's cache of predictions; by default there is none. Not for generative models."""
    playground_variants: bool = False
    """Let the playground answer with the artifact's other variants, too; each stays in memory once it was used."""

    request_timeout_s: float = Field(default=30.0, gt=0, allow_inf_nan=False)
    """Time for a request, after which it is dropped and answered with 503; for a stream, time for each token."""
    header_timeout_s: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    """Time for a request's headers to arrive, after which the connection is closed."""
    body_timeout_s: float = Field(default=20.0, gt=0, allow_inf_nan=False)
    """Time for a request's body to arrive, after which it is refused with 408; and for a client to read."""
    keep_alive_s: int = Field(default=30, ge=1)
    """Time after which a connection without a request is closed."""
    drain_s: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Time to continue serving after the signal to stop, while readiness is already false."""
    shutdown_grace_s: int = Field(default=30, ge=0)
    """Time after that for active requests to finish."""

    grpc_port: int = Field(default=3001, ge=0, le=65535)
    """Port of the gRPC server; 0 for none."""
    grpc_host: str = "0.0.0.0"
    """Address that the gRPC server and the metrics' own port listen on."""
    grpc_min_ping_s: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    """Time between a gRPC client's keep-alive pings; one that sends them more often is disconnected."""
    metrics_port: int | None = Field(default=None, ge=1, le=65535)
    """A separate port for /metrics, which is then not served beside /predict."""
    api_keys: SecretStr | None = None
    """API keys, separated by commas; a request must send one of them."""
    api_keys_file: Path | None = None
    """A file with further API keys, one a line."""
    admin_keys: SecretStr | None = None
    """API keys, separated by commas, that may load and unload models; by default nobody may."""
    tls_certfile: Path | None = None
    """Certificate chain (PEM) for HTTP and gRPC."""
    tls_keyfile: Path | None = None
    """Private key (PEM) for HTTP and gRPC."""
    public_key: str | None = None
    """Public key of minisign's (RW…) with which the artifact's signature is checked at the start."""
    require_signature: bool = False
    """Refuse to serve an artifact without a signature of that key."""
    cors_origins: str | None = None
    """Origins whose pages may call the service, separated by commas; by default none."""

    log_requests: bool = True
    """Log a line of JSON for each request."""
    log_inputs: bool = False
    """Log the inputs of requests as well: they may be confidential."""

    @property
    def worker_count(self) -> int:
        """The number of workers; `serve/devices.py` has the default for GPUs, and the supervisor sets it."""
        return self.workers or 1

    @property
    def engine_count(self) -> int:
        """The number of engine processes that the workers share; 0 where each worker has an engine of its own."""
        return self.engines or 0

    @property
    def process_count(self) -> int:
        """The number of processes that have metrics."""
        return self.worker_count + self.engine_count

    def worker_threads(self) -> int:
        """Return the CPU threads of one engine's inference."""
        return self.threads or max(1, usable_cores() // (self.engine_count or self.worker_count))

    def device_options(self) -> DeviceOptions:
        """Return what is set for the engine's device."""
        gib = self.gpu_memory_gib
        return DeviceOptions(None if gib is None else int(gib * 2**30), self.gpu_arena_strategy)

    def keys(self, name: str = "api_keys") -> tuple[bytes, ...]:
        """Read the keys of the setting `api_keys` or `admin_keys`, and of the former's file.

        Raises TuneportError for an unreadable or empty file and for a key no header can hold.
        """
        variable = f"{PREFIX}{name}".upper()
        value: SecretStr | None = getattr(self, name)
        file = self.api_keys_file if name == "api_keys" else None
        keys = value.get_secret_value().split(",") if value else []
        if file:
            try:
                keys += file.read_text(encoding="utf-8-sig").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise TuneportError(f"TUNEPORT_API_KEYS_FILE cannot be read ({error})", "correct its path") from error
        keys = [key.strip() for key in keys if key.strip()]
        if (value or file) and not keys:
            raise TuneportError(f"there is no key in {variable} or its file", "set one, or unset both")
        for number, key in enumerate(keys, 1):
            if not API_KEY.fullmatch(key):
                problem = f"{variable}: key {number} has white space or characters beyond ASCII, which no header holds"
                raise TuneportError(problem, "write one key a line, and nothing else")
        return tuple(key.encode() for key in keys)

    def paths(self) -> dict[str, str]:
        """Return the variables that name files as absolute paths, for a process with another working directory."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        files = {name: value for name, value in values.items() if isinstance(value, Path)}
        return {f"{PREFIX}{name}".upper(): str(path.absolute()) for name, path in files.items()}

    def check_key(self) -> None:
        """Raise TuneportError for a public key that is none, and for a required signature without a key."""
        if self.public_key is not None:
            read_public_key(self.public_key, "TUNEPORT_PUBLIC_KEY")
        elif self.require_signature:
            problem = "TUNEPORT_REQUIRE_SIGNATURE is set without a key"
            raise TuneportError(problem, "set TUNEPORT_PUBLIC_KEY to the last line of minisign's .pub file")

    def origins(self) -> list[str]:
        """List the origins for CORS; raises TuneportError for one that is malformed."""
        origins = [origin.strip() for origin in (self.cors_origins or "").split(",") if origin.strip()]
        for origin in origins:
            if origin != "*" and not ORIGIN.fullmatch(origin):
                problem = f"TUNEPORT_CORS_ORIGINS: {origin!r} is no origin"
                raise TuneportError(problem, "write https://example.org, without a path")
        return origins

    def tls(self) -> tuple[bytes, bytes] | None:
        """Read certificate chain and private key; None without TLS. Raises TuneportError if they cannot be used."""
        if not self.tls_certfile and not self.tls_keyfile:
            return None
        if not self.tls_certfile or not self.tls_keyfile:
            raise TuneportError("TLS needs a certificate and its key", "set TUNEPORT_TLS_CERTFILE and …_KEYFILE")
        try:
            # The empty password makes an encrypted key an error, where openssl would prompt on the terminal.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.tls_certfile, self.tls_keyfile, lambda: "")
            return self.tls_certfile.read_bytes(), self.tls_keyfile.read_bytes()
        except OSError as error:  # the base of ssl's errors, too
            problem = f"TLS: {self.tls_certfile} and {self.tls_keyfile} are no certificate and its key ({error})"
            raise TuneportError(problem, "correct TUNEPORT_TLS_CERTFILE or TUNEPORT_TLS_KEYFILE") from error


def read_engine_settings() -> EngineSettings:
    """Read the variables of an engine, and no others; a TuneportError names every one that is invalid."""
    return _read(EngineSettings)


def read_settings() -> Settings:
    """Read and check the environment; a TuneportError names every variable that is invalid."""
    settings = _read(Settings)
    settings.keys()
    settings.keys("admin_keys")
    settings.tls()
    settings.origins()
    settings.check_key()
    return settings


def _read(kind: type[Read]) -> Read:
    try:
        settings = kind()
    except ValidationError as error:
        wrong = ", ".join(f"TUNEPORT_{e['loc'][0]!s}".upper() + f": {e['msg']}" for e in error.errors())
        raise TuneportError(f"wrong settings: {wrong}", "correct or unset them") from error
    _check_names(kind)
    return settings


def unknown_variables() -> list[str]:
    """Return the names of variables that begin as settings do and are none; the service ignores them."""
    return [name for name in _other_variables() if not KUBERNETES_LINK.fullmatch(name)]


def _check_names(kind: type[EngineSettings]) -> None:
    """Raise TuneportError for a variable whose name is nearly a setting's; other names may belong to other software."""
    for name in _other_variables():
        if similar := difflib.get_close_matches(name, _variables(kind), 1, cutoff=0.9):
            raise TuneportError(f"there is no setting {name}", f"did you mean {similar[0]}?")


def _other_variables() -> list[str]:
    """Return the names of variables that begin with the prefix, and are neither settings nor the service's own."""
    known = (*_variables(Settings), *OWN_VARIABLES)
    return sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known)


def _variables(kind: type[EngineSettings]) -> list[str]:
    return [f"{PREFIX}{name}".upper() for name in kind.model_fields]
