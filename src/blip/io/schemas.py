"""JSON Schemas of the records (draft 2020-12). Properties are in the order of a record's keys."""

from __future__ import annotations

from typing import Any

from blip_lite.errors import UsageError, did_you_mean

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_NUMBER: Schema = {"type": "number"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_FLAG: Schema = {"type": "boolean"}
_PROBABILITY: Schema = {"type": "number", "minimum": 0, "maximum": 1}
_COSINE: Schema = {"type": "number", "minimum": -1.001, "maximum": 1.001}
_ID: Schema = {"type": ["string", "integer"]}
_PARAMS: Schema = {"type": "object"}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _object(required: str, /, **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": required.split()}


_SCORED = _list(_object("text score", text=_TEXT, score=_NUMBER))
_JUDGED = _object(
    "kind text",
    kind={"enum": ["web", "synthetic"]},
    text=_TEXT,
    itm=_PROBABILITY,
    itc=_COSINE,
    kept=_FLAG,
    index=_COUNT,
    score=_NUMBER,
)
_THRESHOLDS = _object("web synthetic score", web=_NUMBER, synthetic=_NUMBER, score={"enum": ["itm", "itc", "both"]})

# by name: the properties of a result in order
_RECORDS: dict[str, Schema] = {
    "caption": _object(
        "key text score model",
        key=_TEXT,
        text=_TEXT,
        score=_NUMBER,
        alternatives=_SCORED,
        itm=_PROBABILITY,
        model=_TEXT,
        params=_PARAMS,
        width=_COUNT,
        height=_COUNT,
    ),
    "answer": _object(
        "key question text score mode model",
        key=_TEXT,
        pair=_TEXT,
        question=_TEXT,
        text=_TEXT,
        score=_NUMBER,
        mode={"enum": ["generate", "rank", "statement"]},
        alternatives=_SCORED,
        question_id=_ID,
        model=_TEXT,
    ),
    "match": _object(
        "key text text_index model",
        key=_TEXT,
        text=_TEXT,
        text_index=_COUNT,
        itm=_PROBABILITY,
        itc=_COSINE,
        model=_TEXT,
    ),
    "embedding": _object(
        "key kind projected dim dtype vector model",
        key=_TEXT,
        kind={"enum": ["image", "text", "multimodal"]},
        projected=_FLAG,
        dim=_COUNT,
        dtype=_TEXT,
        vector=_list({"type": ["number", "array"]}),
        model=_TEXT,
    ),
    "explain": _object(
        "key model subject text score method layer tokens",
        key=_TEXT,
        question=_TEXT,
        model=_TEXT,
        subject=_TEXT,
        text=_TEXT,
        score=_NUMBER,
        method=_TEXT,
        layer=_COUNT,
        tokens=_list(_TEXT),
        maps=_list(_list(_list(_NUMBER))),
        files=_list(_TEXT),
        overlays=_list(_object("token png", token=_TEXT, png=_TEXT)),
        width=_COUNT,
        height=_COUNT,
    ),
    "capfilt": _object(
        "key texts",
        key=_TEXT,
        url=_TEXT,
        width=_COUNT,
        height=_COUNT,
        sha256=_TEXT,
        texts=_list(_JUDGED),
        chosen={"type": ["string", "array", "null"]},
        thresholds=_THRESHOLDS,
        seed={"type": "integer"},
        captioner=_TEXT,
        captioner_sha256=_TEXT,
        filter=_TEXT,
        filter_sha256=_TEXT,
        params=_PARAMS,
        version=_TEXT,
    ),
    "hit": _object(
        "rank path score",
        rank=_COUNT,
        path=_TEXT,
        score=_NUMBER,
        itc=_COSINE,
        itm=_PROBABILITY,
        caption=_TEXT,
    ),
    "eval-example": _object(
        "task key",
        task=_TEXT,
        key=_TEXT,
        question=_TEXT,
        kind=_TEXT,
        sentence=_TEXT,
        text=_TEXT,
        direction=_TEXT,
        rank=_COUNT,
        prediction={"type": ["string", "boolean"]},
        references=_list({"type": ["string", "boolean"]}),
        top=_list(_list(_TEXT)),
        scores={"type": "object", "additionalProperties": _NUMBER},
    ),
    "metrics": _object(
        "task n model metrics",
        task=_TEXT,
        data=_TEXT,
        split=_TEXT,
        n=_COUNT,
        model=_TEXT,
        metrics={
            "type": "object",
            "additionalProperties": _object(
                "",
                value=_NUMBER,
                low=_NUMBER,
                high=_NUMBER,
                unit=_TEXT,
                chance=_NUMBER,
                n=_COUNT,
            ),
        },
        skipped={"type": "object", "additionalProperties": _TEXT},
        failed=_COUNT,
        compared={
            "type": "object",
            "additionalProperties": _object(
                "difference n",
                difference=_NUMBER,
                low=_NUMBER,
                high=_NUMBER,
                n=_COUNT,
            ),
        },
        seconds=_NUMBER,
        config_sha256=_TEXT,
        settings=_PARAMS,
    ),
    "train": _object(
        "step epoch loss lr",
        step=_COUNT,
        epoch=_COUNT,
        loss=_NUMBER,
        loss_itc=_NUMBER,
        loss_itm=_NUMBER,
        loss_lm=_NUMBER,
        lr=_NUMBER,
        grad_norm=_NUMBER,
        images_per_s=_NUMBER,
        seconds=_NUMBER,
        mem_mb=_NUMBER,
    ),
}
_ERROR = _object("type reason", type=_TEXT, reason=_TEXT)

NAMES = tuple(_RECORDS)


def schema(name: str) -> Schema:
    """Return the JSON Schema of a record: a result or an error record (metrics and train have no error)."""
    base = name.removesuffix("/1")
    if base not in _RECORDS:
        raise UsageError(f"unknown record '{name}'{did_you_mean(name, NAMES)}; must be one of {', '.join(NAMES)}")
    record = _RECORDS[base]
    tag: Schema = {"const": f"{base}/1"}
    properties, required = {"schema": tag, **record["properties"]}, ["schema", *record["required"]]
    result = {**record, "properties": properties, "required": required}
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"{base}/1"}
    if "key" not in record["properties"]:
        return {**head, **result}
    result["not"] = {"required": ["error"]}
    error = _object("schema key error", schema=tag, key=_TEXT, error=_ERROR)
    return {**head, "oneOf": [result, error]}


def fields(name: str) -> list[str]:
    """Return the keys of a record in order, `schema` first and `error` last."""
    record = _RECORDS.get(name.removesuffix("/1"), {"properties": {}})
    return ["schema", *record["properties"], "error"]
