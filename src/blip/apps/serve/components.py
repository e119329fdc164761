"""Schemas of the OpenAPI description. Every object, list and union has a name, so that generated clients are usable."""

from __future__ import annotations

import json
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core.core_schema import NullableSchema, WithDefaultSchema

from blip.apps.serve.jobs import CODES, ModelInfo
from blip.apps.serve.request_models import BODIES, IMAGES, Body
from blip.apps.serve.settings import Settings
from blip.io import schemas

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
UNSENT = ("files", "itm", "pair", "question_id")  # fields of the command line's records only; match has itm


def reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def response_name(body: type[Body]) -> str:
    """Name of the schema of a response."""
    return f"{_prefix(body)}Response"


def build_schemas(settings: Settings) -> Schema:
    """All components: requests as JSON and as forms, responses, errors."""
    result = dict(SHARED)
    for body in BODIES.values():
        result |= _requests(body, settings) | _responses(body)
    return result


def _object(description: str, properties: Schema, required: tuple[str, ...] | None = None) -> Schema:
    names = list(properties if required is None else required)
    return {"type": "object", "description": description, "properties": properties, "required": names}


def _array(items: Schema, **others: Any) -> Schema:
    return {"type": "array", "items": items, **others}


SHARED: Schema = {
    "Error": _object("Refusal or failure of a request.", {"error": reference("ErrorDetail")}),
    "ErrorDetail": _object(
        "A code for programs, one line for people, and the field at fault if known.",
        {
            "code": {"type": "string", "enum": [code for codes in CODES.values() for code in codes]},
            "message": TEXT,
            "field": TEXT,
        },
        ("code", "message"),
    ),
    "FailedImage": _object(
        "Takes the place of the record of an image that could not be processed, in a list.",
        {"schema": TEXT, "key": TEXT, "error": reference("FailureReason")},
    ),
    "FailureReason": _object("Type and reason of a failure.", {"type": TEXT, "reason": TEXT}),
    "ScoredText": _object("A text and its score.", {"text": TEXT, "score": NUMBER}),
    "DecodingSettings": {"type": "object", "description": "Settings of the search.", "additionalProperties": True},
    "HeatMap": _array(_array(NUMBER), description="Rows of a heat-map."),
    "Overlay": _object("A heat-map over the image, as PNG in base64.", {"token": TEXT, "png": TEXT}),
    "Status": _object("State of the server.", {"status": TEXT}),
    "ModelInfo": TypeAdapter(ModelInfo).json_schema(),
    "ModelList": _array(reference("ModelInfo")),
    "Index": _object(
        "Where to go from here.",
        {"name": TEXT, "version": TEXT, "docs": TEXT, "openapi": TEXT, "endpoints": _array(TEXT)},
    ),
    "Document": {"type": "object", "description": "An OpenAPI document.", "additionalProperties": True},
}
FIELDS: Schema = {  # of records, by name, in place of anonymous schemas
    "alternatives": _array(reference("ScoredText")),
    "maps": _array(reference("HeatMap")),
    "overlays": _array(reference("Overlay")),
    "params": reference("DecodingSettings"),
    "vector": _array(NUMBER, minItems=1),
}


def _prefix(body: type[Body]) -> str:
    return body.__name__.removesuffix("Body")


def _responses(body: type[Body]) -> Schema:
    """The record, an item of a list, the list, and the response: a record or a list."""
    record, prefix = schemas.schema(body.record)["oneOf"][0], _prefix(body)
    unsent = UNSENT if body.record != "match" else ()
    properties = {name: FIELDS.get(name, value) for name, value in record["properties"].items() if name not in unsent}
    names: dict[str, Schema] = {
        f"{prefix}Record": _object((body.__doc__ or "").strip(), _typed(properties), tuple(record["required"])),
        f"{prefix}Item": {"oneOf": [reference(f"{prefix}Record"), reference("FailedImage")]},
        f"{prefix}List": _array(reference(f"{prefix}Item")),
        response_name(body): {"oneOf": [reference(f"{prefix}Record"), reference(f"{prefix}List")]},
    }
    return names


def _typed(properties: Schema) -> Schema:
    """The properties with a type for constants and enumerations, all of which are texts."""
    return {name: TEXT | value if "const" in value or "enum" in value else value for name, value in properties.items()}


class _WithoutNull(GenerateJsonSchema):
    """Schemas without null, as fields without a value are omitted, and with defaults in the descriptions.

    Generators for TypeScript make fields with a `default` required.
    """

    def nullable_schema(self, schema: NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: WithDefaultSchema) -> JsonSchemaValue:
        result, default = self.generate_inner(schema["schema"]), schema["default"]
        if default is None:
            return result
        return result | {"description": f"{result.get('description', '')} Default: {json.dumps(default)}.".strip()}


def _requests(body: type[Body], settings: Settings) -> Schema:
    """The fields as JSON, and as a form, where images are files and lists are repeated fields."""
    schema = body.model_json_schema(schema_generator=_WithoutNull)
    hidden = () if settings.allow_urls else ("url", "urls")
    fields = {name: value for name, value in schema["properties"].items() if name not in hidden}
    description = f"{(body.__doc__ or '').strip()} {_rules(body, [name for name in IMAGES if name in fields])}"
    schema |= {"properties": fields, "description": description}
    file = {"type": "string", "format": "binary", "description": "An image file."}
    files = {"image": file, "images": _array(file, minItems=1)}
    form = schema | {"properties": fields | files, "title": f"{body.__name__}Form"}
    return {body.__name__: schema, f"{body.__name__}Form": form}


def _rules(body: type[Body], images: list[str]) -> str:
    """Sentences on fields that exclude each other, and on responses that are lists."""
    image = f"Exactly one of {', '.join(images[:-1])} and {images[-1]}"
    if body.record == "embedding":
        text = "kind image takes one of the image fields, kind text takes text or texts, kind multimodal takes both"
        image = f"{text}; one of each"
    elif body.text_required:
        image += f", and one of {body.text_field} and {body.text_field}s"
    return f"{image} is required. With a list the response is a list."
