"""What the load generator is told and what it returns; both cross the process boundary as JSON."""

from typing import Literal

from pydantic import ConfigDict, Field

from tuneport.schema.base import Frozen

OK = 200
FAILED = 500
"""Status of a gRPC call that returned no message."""
LOST = 0
"""Status of a request whose connection could not be opened, or closed before the response."""
REFUSED = 429
"""Status of a request that was refused because of load."""
UNSENT = -1
"""Status of a request that was due in an open loop while all connections were busy."""
BASE64 = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")


class LoadPlan(Frozen):
    """Which requests to send, and how."""

    protocol: Literal["http", "grpc"] = "http"
    host: str = "127.0.0.1"
    port: int
    path: str
    bodies: tuple[bytes, ...]
    """Request bodies, sent in turn and from the first again after the last."""
    connections: int = 1
    """Concurrent connections; in an open loop the most that may be open."""
    once: bool = False
    """Send each body once, one after the other, and time nothing."""
    seconds: float
    """Duration of the timed load, which follows the warm-up."""
    warm_up_s: float = 0.0
    requests_per_s: float | None = None
    """Arrival rate of an open loop; None for a closed loop."""
    backs_off: bool = False
    """Whether a connection of a closed loop pauses after status 429, longer after each further one in a row."""

    model_config = BASE64


class LoadResult(Frozen):
    """What a server did under a load."""

    seconds: float
    """Duration of the timed load."""
    answered: int
    """Responses with status 200 that arrived during the timed load."""
    answered_by_slice: tuple[int, ...]
    """The same, by tenths of the timed load, whose spread tells how certain their rate is."""
    latencies_ms: tuple[float, ...]
    """Latencies of those responses, sorted; in an open loop of the requests that arrived during the timed load and
    were answered with 200, however late, since to drop the last ones would be to drop the slowest."""
    statuses: dict[int, int]
    """Status → number of requests, those of the warm-up included; `LOST` and `UNSENT` count as statuses."""
    sent: int
    """Requests of any status, those of the warm-up included."""
    client_cpu_s: float
    """CPU time of the load generator during the timed load."""
    last_bodies: dict[int, bytes] = Field(default_factory=dict)
    """Index in `LoadPlan.bodies` → body of the last response to it with status 200."""

    model_config = BASE64
