"""The server's own description (OpenAPI 3.1), made from the bodies and the records' schemas."""

from __future__ import annotations

from typing import Any

from blip.apps.serve.problems import CODES
from blip.apps.serve.request_models import IMAGES, Body
from blip.apps.serve.service import BODIES, SCHEMAS
from blip.apps.serve.settings import MEGABYTE, Settings
from blip.io import schemas

Schema = dict[str, Any]

DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4//8/AAX+Av4N70a4AAAAAElFTkSuQmCC"  # a PNG
REASONS = {
    400: "Not JSON, or not a form.",
    401: "No API key, or a wrong one.",
    404: "No such model, or none that can.",
    413: "Body too large, or too many images.",
    415: "Neither JSON nor a form.",
    422: "A field is wrong, or the image is no image.",
    429: "Too much is waiting; see Retry-After.",
    503: "The models are not there, or were lost at work.",
    504: "No answer in time.",
}
EXAMPLES = {
    "caption": {"image": DOT},
    "answer": {"image": DOT, "question": "what colour is it?"},
    "match": {"image": DOT, "texts": ["a cat", "a dog"]},
    "embed": {"kind": "text", "text": "a cat"},
    "explain": {"image": DOT, "text": "a cat"},
}


def description(settings: Settings) -> Schema:
    """The whole document, with this server's limits."""
    from blip import __version__

    secured: list[Schema] = [{"bearer": []}, {"key": []}] if settings.key_digests else []
    paths = {f"/v1/{verb}": {"post": _post(verb, kind, secured)} for verb, kind in BODIES.items()}
    about = (
        f"Bodies of at most {settings.max_upload / MEGABYTE:g} MB, images of at most {settings.max_pixels / 1e6:g} "
        f"megapixels, {settings.max_images} in a request; an answer within {settings.timeout:g} s."
    )
    document: Schema = {
        "openapi": "3.1.0",
        "info": {"title": "blip", "version": __version__, "description": about},
        "paths": paths | _told(secured),
        "components": {"schemas": _components()},
    }
    if secured:
        document["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
    return document


def _post(verb: str, kind: type[Body], secured: list[Schema]) -> Schema:
    record = {"$ref": f"#/components/schemas/{SCHEMAS[verb]}"}
    found = {"oneOf": [record, {"type": "array", "items": record}]}
    asked = {
        "application/json": {"schema": {"$ref": f"#/components/schemas/{kind.__name__}"}, "example": EXAMPLES[verb]}
    }
    form = {"multipart/form-data": {"schema": {"$ref": f"#/components/schemas/{kind.__name__}Form"}}}
    statuses = [status for status in REASONS if status != 401 or secured]
    return {
        "operationId": verb,
        "summary": (kind.__doc__ or "").strip(),
        "security": secured,
        "requestBody": {"required": True, "content": asked | form},
        "responses": {"200": _content("A record; a list of them where a list was given.", found)} | _errors(*statuses),
    }


def _told(secured: list[Schema]) -> Schema:
    """The routes that only tell something."""
    card = {
        "type": "object",
        "required": ["name", "kind", "capabilities", "image_size", "device", "dtype"],
        "properties": {
            "name": {"type": "string"},
            "kind": {"type": "string"},
            "device": {"type": "string"},
            "capabilities": {"type": "array", "items": {"type": "string"}},
            "dtype": {"type": "string"},
            "image_size": {"type": "integer"},
        },
    }
    status = {"type": "object", "properties": {"status": {"type": "string"}}, "required": ["status"]}
    closed = (401,) if secured else ()
    text = {"description": "Prometheus metrics.", "content": {"text/plain": {"schema": {"type": "string"}}}}
    cards = _content("The models served.", {"type": "array", "items": card})
    return {
        "/v1/models": _get("models", cards, secured, *closed),
        "/metrics": _get("metrics", text, secured, *closed),
        "/healthz": _get("healthz", _content("The process is alive.", status), []),
        "/readyz": _get("readyz", _content("Models are loaded and work.", status), [], 503),
        "/openapi.json": _get("openapi", _content("This document.", {"type": "object"}), []),
    }


def _get(name: str, found: Schema, secured: list[Schema], *errors: int) -> Schema:
    responses = {"200": found, **_errors(*errors)}
    return {"get": {"operationId": name, "summary": found["description"], "security": secured, "responses": responses}}


def _errors(*statuses: int) -> Schema:
    found = {str(status): _content(REASONS[status], {"$ref": "#/components/schemas/Error"}) for status in statuses}
    wait = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds.", "required": True}}
    return {status: answer | ({"headers": wait} if status == "429" else {}) for status, answer in found.items()}


def _content(text: str, schema: Schema) -> Schema:
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _components() -> Schema:
    found: Schema = {"Error": _error()}
    for verb, kind in BODIES.items():
        body = _not_null(kind.model_json_schema())
        body["allOf"] = _choices(verb)
        found[kind.__name__], found[f"{kind.__name__}Form"] = body, _form(body)
        found[SCHEMAS[verb]] = _record(SCHEMAS[verb])
    return found


def _record(name: str) -> Schema:
    return {key: value for key, value in schemas.schema(name).items() if key != "$schema"}


def _error() -> Schema:
    codes = [code for status in CODES.values() for code in status]
    error = {
        "type": "object",
        "required": ["code", "message"],
        "properties": {"code": {"enum": codes}, "message": {"type": "string"}, "field": {"type": "string"}},
    }
    return {"type": "object", "required": ["error"], "properties": {"error": error}}


def _not_null(schema: Any) -> Any:
    """Without null, which is no value of any field: a field that is not given is left out."""
    if isinstance(schema, list):
        return [_not_null(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: _not_null(value) for key, value in schema.items() if not (key == "default" and value is None)}
    options = [option for option in kept.get("anyOf", []) if option != {"type": "null"}]
    if len(options) == 1:
        del kept["anyOf"]
        kept |= options[0]
    return kept


def _choices(verb: str) -> list[Schema]:
    """Which fields exclude each other."""
    image, text = _one_of(*IMAGES), _one_of("text", "texts")
    if verb == "answer":
        return [image, _one_of("question", "questions")]
    if verb == "match":
        return [image, text]
    if verb == "embed":
        no_text, no_image = _none_of("text", "texts"), _none_of(*IMAGES, "keys")
        kinds = {"image": [image, no_text], "text": [text, no_image], "multimodal": [image, text]}
        is_kind = {name: {"properties": {"kind": {"const": name}}} for name in kinds}
        named = {name: is_kind[name] | ({} if name == "image" else _has("kind")) for name in kinds}
        return [{"oneOf": [{"allOf": [named[name], *rules]} for name, rules in kinds.items()]}]
    return [image]


def _one_of(*names: str) -> Schema:
    return {"oneOf": [_has(name) for name in names]}


def _none_of(*names: str) -> Schema:
    return {"not": {"anyOf": [_has(name) for name in names]}}


def _has(name: str) -> Schema:
    return {"required": [name]}


def _form(body: Schema) -> Schema:
    """The same as a form: images are files, given again for several; the rest are texts."""
    file = {"type": "string", "format": "binary"}
    files = {"image": {"oneOf": [file, {"type": "array", "items": file, "minItems": 1}]}}
    rest = {name: value for name, value in body["properties"].items() if name not in ("image", "images")}
    return body | {"properties": files | rest, "title": f"{body['title']}Form"}
