"""Recordings as clients like to send them: a file as the body, or files in a form."""

import email.policy
from email.parser import BytesParser
from typing import Any

import orjson

from serve.errors import Refused

FORM = "multipart/form-data"
REMEDY = "send a WAV or FLAC file as audio/wav, or a form with the file in `file`"


def is_upload(content_type: str) -> bool:
    """Tell a recording, or a form, from JSON."""
    return content_type.startswith(("audio/", "application/octet-stream", FORM))


def read_upload(content_type: str, body: bytes) -> tuple[list[Any], Any]:
    """Return the inputs and the parameters of an upload.

    A form has a file in each part named `file` or `audio`, and may have `parameters` as JSON.
    """
    if not content_type.startswith(FORM):
        return [{"audio": body}], None
    # A form's body is a MIME message without its head.
    head = f"Content-Type: {content_type}\r\n\r\n".encode("latin-1", "replace")
    message = BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
    if not message.is_multipart():
        raise Refused(400, "not_a_form", "the body is not a form", REMEDY)
    inputs: list[Any] = []
    parameters: Any = None
    for part in message.iter_parts():
        name, content = part.get_param("name", header="content-disposition"), part.get_payload(decode=True)
        if not isinstance(content, bytes):  # a message of its own
            raise Refused(400, "not_a_form", "a part of the form is a form itself", REMEDY)
        if name in ("file", "audio"):
            inputs.append({"audio": content})
        elif name == "parameters":
            try:
                parameters = orjson.loads(content)
            except orjson.JSONDecodeError as error:
                raise Refused(400, "not_json", f"parameters are not JSON: {error}", 'send {"num_beams": 2}') from error
        else:
            raise Refused(422, "unknown_field", f"unknown part {str(name)[:80]!r}", REMEDY)
    return inputs, parameters
