"""Requests to load and unload models, for both protocols."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from tuneport.errors import InputError, NotFound

from .host import ModelHost
from .state import LoadOptions


def host_for(host: ModelHost | None, headers: Mapping[str, str]) -> ModelHost:
    """Return what loads models; raises Forbidden and Unauthenticated without an administrator's key in the headers."""
    if host is None:
        raise NotFound("this service loads no models", "start it with `tuneport serve`", code="not_routed")
    host.models.worker.check_admin_key(headers.get("authorization"), headers.get("x-api-key"))
    return host


def read_options(parameters: Mapping[str, Any]) -> LoadOptions:
    """Check the parameters of a request to load; raises InputError."""
    try:
        return LoadOptions.model_validate(parameters)
    except ValidationError as error:
        wrong = ", ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
        raise InputError(f"wrong parameters: {wrong[:300]}", f"known: {', '.join(LoadOptions.model_fields)}") from error


def read_version(parameters: Mapping[str, Any]) -> str | None:
    """Return the version that a request to unload names, None for the whole model; raises InputError."""
    version = parameters.get("version")
    if not isinstance(version, str | None):
        raise InputError("the version is no text", 'give the parameter "version": "…"')
    return version
