"""Where a service is: its address, and what every call to it carries."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tuneport.errors import TuneportError

SCHEMES = ("http", "https", "grpc", "grpcs")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A service's address and credentials."""

    url: str
    """Without a slash at its end."""
    scheme: str
    target: str
    """Host and port, as gRPC takes them."""
    api_key: str | None
    ca_file: Path | None
    """Certificates (PEM) that sign the service's; None: those of the system."""
    model: str | None
    """The model's name, which gRPC needs."""

    @property
    def is_grpc(self) -> bool:
        """Whether calls go over gRPC."""
        return self.scheme.startswith("grpc")

    def headers(self, request_id: str) -> dict[str, str]:
        """Return the headers (HTTP) or metadata (gRPC) of a call."""
        key = {"authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        return {"x-request-id": request_id, **key}


def parse_endpoint(url: str, api_key: str | None, ca_file: Path | None, model: str | None) -> Endpoint:
    """Check an address; raises TuneportError for one that cannot be a service's."""
    try:
        parts = urlsplit(url)
        has_port = parts.port is not None or not parts.scheme.startswith("grpc")
    except ValueError:  # a port that is no number
        has_port = False
    if not has_port or parts.scheme not in SCHEMES or not parts.hostname:
        raise TuneportError(
            f"{url!r} is no address of a service", "give http://, https://, grpc:// or grpcs://HOST:PORT"
        )
    if parts.scheme.startswith("grpc") and not model:
        raise TuneportError(f"{url} without a model's name", 'gRPC needs it: Client("grpc://…", model="NAME")')
    return Endpoint(url.rstrip("/"), parts.scheme, parts.netloc, api_key, ca_file, model)
