"""The JSON body of `POST /predict`."""

import itertools
from typing import Any

from tuneport.errors import InputError
from tuneport.runtime.tasks.inputs import MAX_ITEMS

from ..json_text import parse_json


def parse_body(body: bytes, _: str = "") -> tuple[list[Any], Any]:
    """Return inputs and parameters of a JSON body; the task checks what they hold.

    `instances` is another name of `inputs`, which Vertex AI and TensorFlow Serving use.
    """
    content = parse_json(body)
    name = "instances" if isinstance(content, dict) and "instances" in content else "inputs"
    if not isinstance(content, dict) or name not in content:
        raise InputError('the body is not an object with "inputs"', 'send {"inputs": […]}', code="no_inputs")
    if unknown := sorted(itertools.islice(content.keys() - {name, "parameters"}, MAX_ITEMS)):
        raise InputError(f"unknown fields {unknown}"[:200], f'send "{name}" and "parameters"', code="unknown_field")
    inputs = content[name]
    return inputs if isinstance(inputs, list) else [inputs], content.get("parameters")
