"""OpenAPI 3.1 description of the server, generated from the request models and the schemas of records."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core.core_schema import NullableSchema, WithDefaultSchema

from blip.apps.serve.jobs import CODES, ModelInfo
from blip.apps.serve.request_models import BODIES, IMAGES, Body, EmbedBody
from blip.apps.serve.settings import MEGABYTE, Settings
from blip.io import schemas

Schema = dict[str, Any]

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4//8/AAX+Av4N70a4AAAAAElFTkSuQmCC"  # a PNG
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
EXAMPLES: dict[str, Schema] = {
    "caption": {"image": PIXEL},
    "answer": {"image": PIXEL, "question": "what colour is it?"},
    "match": {"image": PIXEL, "texts": ["a cat", "a dog"]},
    "embed": {"kind": "text", "text": "a cat"},
    "explain": {"image": PIXEL, "text": "a cat"},
}
STATUS: Schema = {"type": "object", "properties": {"status": {"type": "string"}}, "required": ["status"]}


def build_openapi(settings: Settings) -> Schema:
    """The whole document, with the limits of this server."""
    from blip import __version__

    security: list[Schema] = [{"bearer": []}, {"key": []}] if settings.key_digests else []
    limits = (
        f"Bodies of at most {settings.max_upload / MEGABYTE:g} MB, images of at most {settings.max_pixels / 1e6:g} "
        f"megapixels, {settings.max_images} per request; an answer within {settings.timeout:g} s."
    )
    components: Schema = {"schemas": _schemas()}
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
    record = _reference(body.record)
    content = {
        "application/json": {"schema": _reference(body.__name__), "example": EXAMPLES[endpoint]},
        "multipart/form-data": {"schema": _reference(f"{body.__name__}Form")},
    }
    success = _json("A record; a list of records for lists.", {"oneOf": [record, {"type": "array", "items": record}]})
    return {
        "operationId": endpoint,
        "summary": (body.__doc__ or "").strip(),
        "security": security,
        "requestBody": {"required": True, "content": content},
        "responses": {"200": success} | _errors(*(status for status in REASONS if status != 401 or security)),
    }


def _get_paths(security: list[Schema]) -> Schema:
    unauthorized = (401,) if security else ()
    models = {"type": "array", "items": TypeAdapter(ModelInfo).json_schema()}
    metrics = {"description": "Prometheus metrics.", "content": {"text/plain": {"schema": {"type": "string"}}}}
    return {
        "/v1/models": _get("models", _json("The models served.", models), security, *unauthorized),
        "/metrics": _get("metrics", metrics, security, *unauthorized),
        "/healthz": _get("healthz", _json("The server is running.", STATUS), []),
        "/readyz": _get("readyz", _json("Models are loaded and a worker is alive.", STATUS), [], 503),
        "/openapi.json": _get("openapi", _json("This document.", {"type": "object"}), []),
    }


def _get(name: str, success: Schema, security: list[Schema], *errors: int) -> Schema:
    summary, responses = success["description"], {"200": success, **_errors(*errors)}
    return {"get": {"operationId": name, "summary": summary, "security": security, "responses": responses}}


def _errors(*statuses: int) -> Schema:
    errors = {str(status): _json(REASONS[status], _reference("Error")) for status in statuses}
    if "429" in errors:
        retry = {"schema": {"type": "integer"}, "description": "Seconds.", "required": True}
        errors["429"]["headers"] = {"Retry-After": retry}
    return errors


def _json(description: str, schema: Schema) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _schemas() -> Schema:
    codes = [code for group in CODES.values() for code in group]
    error = {
        "type": "object",
        "required": ["code", "message"],
        "properties": {"code": {"enum": codes}, "message": {"type": "string"}, "field": {"type": "string"}},
    }
    result: Schema = {"Error": {"type": "object", "required": ["error"], "properties": {"error": error}}}
    for body in BODIES.values():
        schema = body.model_json_schema(schema_generator=_WithoutNull) | {"allOf": _exclusions(body)}
        result[body.__name__], result[f"{body.__name__}Form"] = schema, _form(schema)
        record = schemas.schema(body.record)
        result[body.record] = {key: value for key, value in record.items() if key != "$schema"}
    return result


class _WithoutNull(GenerateJsonSchema):
    """Schemas without null: fields without a value are omitted."""

    def nullable_schema(self, schema: NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: WithDefaultSchema) -> JsonSchemaValue:
        result = super().default_schema(schema)
        return {key: value for key, value in result.items() if key != "default" or value is not None}


def _exclusions(body: type[Body]) -> list[Schema]:
    """Rules for fields that exclude each other."""
    image, text = _one_of(*IMAGES), _one_of(body.text_field, f"{body.text_field}s")
    if body is EmbedBody:
        rules = {
            "image": [image, _none_of("text", "texts")],
            "text": [_has("kind"), text, _none_of(*IMAGES, "keys")],
            "multimodal": [_has("kind"), image, text],
        }
        return [{"oneOf": [{"properties": {"kind": {"const": kind}}, "allOf": rule} for kind, rule in rules.items()]}]
    return [image, text] if body.text_required else [image]


def _one_of(*names: str) -> Schema:
    return {"oneOf": [_has(name) for name in names]}


def _none_of(*names: str) -> Schema:
    return {"not": {"anyOf": [_has(name) for name in names]}}


def _has(name: str) -> Schema:
    return {"required": [name]}


def _form(body: Schema) -> Schema:
    """The same fields as a form: `image` is a file and may be repeated; the others are texts."""
    file = {"type": "string", "format": "binary"}
    files = {"image": {"oneOf": [file, {"type": "array", "items": file, "minItems": 1}]}}
    others = {name: value for name, value in body["properties"].items() if name not in ("image", "images")}
    return body | {"properties": files | others, "title": f"{body['title']}Form"}
