"""Requests to load and unload models, for both protocols."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from tuneport.errors import InputError, NotFound
from tuneport.schema.base import explain_invalid

from .host import ModelHost
from .state import LoadOptions, UnloadOptions

Options = TypeVar("Options", LoadOptions, UnloadOptions)


def host_for(host: ModelHost | None, headers: Mapping[str, str]) -> ModelHost:
    """Return what loads models; raises Forbidden and Unauthenticated without an administrator's key in the headers."""
    if host is None:
        raise NotFound("this service loads no models", "start it with `tuneport serve`", code="not_routed")
    host.models.worker.check_admin_key(headers.get("authorization"), headers.get("x-api-key"))
    return host


def read_options(parameters: Mapping[str, Any]) -> LoadOptions:
    """Check the parameters of a request to load; raises InputError."""
    return _checked(LoadOptions, parameters)


def read_version(parameters: Mapping[str, Any]) -> str | None:
    """Return the version that a request to unload names, None for the whole model; raises InputError."""
    return _checked(UnloadOptions, parameters).version


def _checked(kind: type[Options], parameters: Mapping[str, Any]) -> Options:
    try:
        return kind.model_validate(parameters)
    except ValidationError as error:
        problem, known = explain_invalid(error, kind)
        raise InputError(f"wrong parameters: {problem}", f"known: {known}") from error
