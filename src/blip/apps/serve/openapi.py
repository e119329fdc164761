"""OpenAPI 3.1 description of the server, generated from the request models and the schemas of records."""

from __future__ import annotations

from blip.apps.serve.components import TEXT, Schema, build_schemas, reference, response_name
from blip.apps.serve.examples import as_json
from blip.apps.serve.request_models import BODIES, Body
from blip.apps.serve.settings import MEGABYTE, Settings

REASONS = {
    400: "Invalid JSON or form.",
    401: "API key missing or wrong.",
    404: "Model unknown, or without the capability.",
    408: "The body arrives too slowly.",
    413: "Body too large, or too many images.",
    415: "Neither JSON nor a form.",
    422: "Invalid field or image.",
    429: "Too many images in flight; see Retry-After.",
    503: "Models are still loading, or a worker crashed.",
    504: "No answer in time.",
}
REQUEST_ID: Schema = {
    "name": "X-Request-ID",
    "in": "header",
    "required": False,
    "schema": TEXT,
    "description": "Name of the request, returned with the response.",
}


def build_openapi(settings: Settings) -> Schema:
    """The whole document, with the limits of this server."""
    from blip import __version__

    security: list[Schema] = [{"bearer": []}, {"key": []}] if settings.key_digests else []
    limits = (
        f"Bodies of at most {settings.max_upload / MEGABYTE:g} MB, images of at most {settings.max_pixels / 1e6:g} "
        f"megapixels, {settings.max_images} per request; an answer within {settings.timeout:g} s."
    )
    components: Schema = {"schemas": build_schemas(settings)}
    if security:
        components["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
    posts = {f"/v1/{endpoint}": {"post": _post(endpoint, body, security)} for endpoint, body in BODIES.items()}
    return {
        "openapi": "3.1.0",
        "info": {"title": "blip", "version": __version__, "description": limits},
        "paths": posts | _get_paths(security),
        "components": components,
    }


def _post(endpoint: str, body: type[Body], security: list[Schema]) -> Schema:
    content = {
        "application/json": {"schema": reference(body.__name__), "example": as_json(endpoint)},
        "multipart/form-data": {"schema": reference(f"{body.__name__}Form")},
    }
    success = _json("A record; a list of records for lists.", reference(response_name(body)))
    return {
        "operationId": endpoint,
        "summary": (body.__doc__ or "").strip(),
        "security": security,
        "parameters": [REQUEST_ID],
        "requestBody": {"required": True, "content": content},
        "responses": {"200": success} | _errors(*(status for status in REASONS if status != 401 or security)),
    }


def _get_paths(security: list[Schema]) -> Schema:
    unauthorized = (401,) if security else ()
    metrics = {"description": "Prometheus metrics.", "content": {"text/plain": {"schema": TEXT}}}
    page = {"text/html": {"schema": TEXT}}
    index = _json("Where to go from here.", reference("Index"))
    index["content"] |= page
    status = reference("Status")
    return {
        "/": _get("index", index, []),
        "/docs": _get("docs", {"description": "This API as a page.", "content": page}, []),
        "/v1/models": _get("models", _json("The models served.", reference("ModelList")), security, *unauthorized),
        "/metrics": _get("metrics", metrics, security, *unauthorized),
        "/healthz": _get("healthz", _json("The server is running.", status), []),
        "/readyz": _get("readyz", _json("Models are loaded and a worker is alive.", status), [], 503),
        "/openapi.json": _get("openapi", _json("This document.", reference("Document")), []),
    }


def _get(name: str, success: Schema, security: list[Schema], *errors: int) -> Schema:
    summary, responses = success["description"], {"200": success, **_errors(*errors)}
    return {"get": {"operationId": name, "summary": summary, "security": security, "responses": responses}}


def _errors(*statuses: int) -> Schema:
    errors = {str(status): _json(REASONS[status], reference("Error")) for status in statuses}
    if "429" in errors:
        retry = {"schema": {"type": "integer"}, "description": "Seconds.", "required": True}
        errors["429"]["headers"] = {"Retry-After": retry}
    return errors


def _json(description: str, schema: Schema) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": schema}}}
