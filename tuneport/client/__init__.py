"""Clients of a tuneport service: `Client` and `AsyncClient`, over HTTP and gRPC.

    with Client("http://127.0.0.1:3000") as client:
        client.predict(["The best film of the year."])[0]["label"]

`client.py` and `async_client.py` hold the two classes, `calls.py` what they have in common. A call is a value
(`http_calls.py`, `grpc_calls.py`); a transport sends it (`http_transport.py`, `grpc_transport.py`), and `retries.py`
decides whether it is sent again.
"""

from tuneport.client.async_client import AsyncClient
from tuneport.client.client import Client
from tuneport.client.results import ModelMetadata, ModelName, ModelVersion, Predictions, TensorMetadata

__all__ = ["AsyncClient", "Client", "ModelMetadata", "ModelName", "ModelVersion", "Predictions", "TensorMetadata"]
