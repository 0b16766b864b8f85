"""Recordings sent as a file: as the body itself, or in a form."""

import email.policy
from email.parser import BytesParser
from typing import Any

import orjson

from tuneport.errors import InputError, MalformedRequest

FORM = "multipart/form-data"
REMEDY = "send a WAV or FLAC file as audio/wav, or a form with the file in `file`"


def is_upload(content_type: str) -> bool:
    """Tell a recording, or a form, from JSON."""
    return content_type.startswith(("audio/", "application/octet-stream", FORM))


def read_upload(body: bytes, content_type: str) -> tuple[list[Any], Any]:
    """Return the inputs and the parameters of an upload.

    A form has a file in each part named `file` or `audio`, and may have `parameters` as JSON.
    """
    if not content_type.startswith(FORM):
        return [{"audio": body}], None
    # A form's body is a MIME message without its header.
    header = f"Content-Type: {content_type}\r\n\r\n".encode("latin-1", "replace")
    message = BytesParser(policy=email.policy.HTTP).parsebytes(header + body)
    if not message.is_multipart():
        raise MalformedRequest("the body is not a form", REMEDY, code="not_a_form")
    inputs: list[Any] = []
    parameters: Any = None
    for part in message.iter_parts():
        name, content = part.get_param("name", header="content-disposition"), part.get_payload(decode=True)
        if not isinstance(content, bytes):  # a multipart message
            raise MalformedRequest("a part of the form is a form itself", REMEDY, code="not_a_form")
        if name in ("file", "audio"):
            inputs.append({"audio": content})
        elif name == "parameters":
            parameters = _parse_parameters(content)
        else:
            raise InputError(f"unknown part {str(name)[:80]!r}", REMEDY, code="unknown_field")
    return inputs, parameters


def _parse_parameters(content: bytes) -> Any:
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError as error:
        problem = f"parameters are not JSON: {error}"
        raise MalformedRequest(problem, 'send {"num_beams": 2}', code="not_json") from error
