"""Triton's calls beside inference: a model's configuration and statistics, and the index of models."""

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.json_format import ParseDict

from ..admission import AdmissionController
from ..models.description import describe_config, describe_index
from ..models.registry import ModelRegistry
from ..models.statistics import describe_statistics
from . import open_inference_pb2 as pb


async def index_response(models: ModelRegistry, *, ready: bool) -> Any:
    """List the versions, with `ready` those that are."""
    return _message(pb.RepositoryIndexResponse, {"models": await describe_index(models, only_ready=ready)})


def config_response(admission: AdmissionController) -> Any:
    """Return the model's configuration; Triton's versions are numbers, so that it has none here."""
    return _message(pb.ModelConfigResponse, {"config": {**describe_config(admission), "version_policy": None}})


async def statistics_response(admissions: Sequence[AdmissionController]) -> Any:
    """Return the counts and times of each version."""
    return _message(pb.ModelStatisticsResponse, {"model_stats": await describe_statistics(admissions)})


def _message(kind: Any, content: Mapping[str, Any]) -> Any:
    """Return a message with the content that HTTP has as JSON; what the message lacks is left out."""
    return ParseDict(content, kind(), ignore_unknown_fields=True)
