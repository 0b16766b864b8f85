"""Triton's calls beside inference: a model's configuration and statistics, and the index of models."""

from collections.abc import Mapping
from typing import Any

from google.protobuf.json_format import ParseDict

from ..admission import AdmissionController
from ..http.model_management import describe_config, describe_index, describe_statistics
from ..open_inference import check_model
from . import open_inference_pb2 as pb


def index_response(admission: AdmissionController, *, ready: bool) -> Any:
    """List the models, with `ready` those that are."""
    models = [model for model in describe_index(admission) if model["state"] == "READY" or not ready]
    return _message(pb.RepositoryIndexResponse, {"models": models})


def config_response(admission: AdmissionController, name: str, version: str) -> Any:
    """Return the model's configuration; Triton's versions are numbers, so that it has none here."""
    check_model(admission.manifest, name, version)
    return _message(pb.ModelConfigResponse, {"config": {**describe_config(admission), "version_policy": None}})


async def statistics_response(admission: AdmissionController, name: str, version: str) -> Any:
    """Return the counts and times of a model, or of all without a name."""
    if name:
        check_model(admission.manifest, name, version)
    return _message(pb.ModelStatisticsResponse, {"model_stats": await describe_statistics(admission)})


def _message(kind: Any, content: Mapping[str, Any]) -> Any:
    """Return a message with the content that HTTP has as JSON; what the message lacks is left out."""
    return ParseDict(content, kind(), ignore_unknown_fields=True)
