"""Operations of the HTTP API in OpenAPI's form: a summary, the body, the response and the errors."""

from typing import Any

HEALTH = {
    "live": {"type": "object", "required": ["live"], "properties": {"live": {"type": "boolean"}}},
    "ready": {"type": "object", "required": ["ready"], "properties": {"ready": {"type": "boolean"}}},
}


def operation(
    summary: str, response: dict[str, Any], statuses: tuple[int, ...] = (), *, body: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Describe an operation that answers with JSON, or with one of the error `statuses`."""
    success = {"200": {"description": "Success.", "content": {"application/json": {"schema": response}}}}
    described: dict[str, Any] = {"summary": summary, "responses": success | errors((401, 429, *statuses))}
    if body is not None:
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return described


def event_operation(summary: str, statuses: tuple[int, ...], *, body: dict[str, Any]) -> dict[str, Any]:
    """Describe an operation that answers with server-sent events, each with JSON, or with one of the `statuses`."""
    described = operation(summary, {}, statuses, body=body)
    content = {"text/event-stream": {"schema": {"type": "string"}}}
    described["responses"]["200"] = {"description": "Events.", "content": content}
    return described


def health(state: str, summary: str) -> dict[str, Any]:
    """Describe a health check of the Open Inference Protocol, `live` or `ready`."""
    content = {"content": {"application/json": {"schema": HEALTH[state]}}}
    responses = {"200": {"description": "Yes.", **content}}
    if state == "ready":
        responses["503"] = {"description": "No.", **content}
    return {"summary": summary, "responses": responses, "security": []}


def ping() -> dict[str, Any]:
    """Describe `/ping`."""
    responses = {"200": {"description": "Requests are accepted."}, "503": {"description": "They are not."}}
    return {"summary": "Are requests accepted?", "responses": responses, "security": []}


def errors(statuses: tuple[int, ...]) -> dict[str, Any]:
    """Describe the responses with one of these statuses."""
    error = {"description": "An error.", "content": {"application/json": {"schema": ref("Error")}}}
    return {str(status): error for status in sorted({*statuses})}


def ref(name: str) -> dict[str, str]:
    """Refer to a schema of the components."""
    return {"$ref": f"#/components/schemas/{name}"}
