"""Rows of the official annotation files of VQA and COCO, whose lists are inside a JSON object.

VQA: `*_questions.json` with its `*_annotations.json` beside it. COCO: `images` and `annotations` with captions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from blip.io.row import Row
from blip_lite.errors import UsageError
from blip_lite.text_files import load_json

_FORMS = "a JSON list of objects with images, the questions of VQA, or the images and annotations of COCO"


def rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file in file order. Raises `UsageError`."""
    values = _load(path)
    if _is_list(values, "questions"):
        yield from _questions(path, values)
    elif _is_list(values, "images") and _is_list(values, "annotations"):
        yield from _captions(path, values)
    elif _is_list(values, "annotations"):
        raise UsageError(f"{path}: annotations without questions or images; name the questions file beside it")
    else:
        raise UsageError(f"{path}: must be {_FORMS}; its keys are {', '.join(list(values)[:5]) or 'none'}")


def _load(path: Path) -> dict[str, Any]:
    try:
        values = load_json(path)
    except UnicodeDecodeError:
        raise
    except ValueError as error:
        raise UsageError(f"{path}: not JSON ({error})") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path}: must be {_FORMS}")
    return values


def _is_list(values: Mapping[str, Any], name: str) -> bool:
    return isinstance(values.get(name), list)


def _questions(path: Path, values: Mapping[str, Any]) -> Iterator[Row]:
    """Yield image, question, its id and the ten answers; the file of a test split has none."""
    annotations = _annotations(path)
    answers = {} if annotations is None else _answers(annotations)
    subset = str(values.get("data_subtype", "")).replace("test-dev", "test")
    for number, item in enumerate(values["questions"], 1):
        where = f"{path}:{number}"
        if not isinstance(item, dict) or "question_id" not in item or "image_id" not in item:
            yield Row(where, {}, "must be an object with question_id, image_id and question")
            continue
        row = {"image": _image(item, subset), **item}
        if annotations is not None:
            if item["question_id"] not in answers:
                yield Row(where, row, f"question {item['question_id']} is not in {annotations.name}")
                continue
            row["answer"] = answers[item["question_id"]]
        yield Row(where, row)


def _annotations(questions: Path) -> Path | None:
    """Return the annotations beside a questions file: v2_OpenEnded_mscoco_val2014_questions.json and so on."""
    name = questions.name.replace("questions", "annotations")
    names = (name, name.replace("OpenEnded_", "").replace("MultipleChoice_", ""))
    return next((p for p in map(questions.with_name, names) if p != questions and p.is_file()), None)


def _answers(path: Path) -> dict[Any, list[str]]:
    values = _load(path)
    if not _is_list(values, "annotations"):
        raise UsageError(f"{path}: must be an object with a list 'annotations'")
    try:
        return {item["question_id"]: [a["answer"] for a in item["answers"]] for item in values["annotations"]}
    except (KeyError, TypeError) as error:
        raise UsageError(f"{path}: an annotation without question_id or answers ({error})") from error


def _image(item: Mapping[str, Any], subset: str) -> str:
    """Return the path of a COCO image below the folder of all images."""
    if isinstance(item.get("image"), str):
        return str(item["image"])
    number = item["image_id"]
    return f"{subset}/COCO_{subset}_{number:012d}.jpg" if subset and isinstance(number, int) else str(number)


def _captions(path: Path, values: Mapping[str, Any]) -> Iterator[Row]:
    """Yield image, its id and its captions."""
    captions: dict[Any, list[Any]] = defaultdict(list)
    for item in values["annotations"]:
        if isinstance(item, dict) and "caption" in item:
            captions[item.get("image_id")].append(item["caption"])
    for number, item in enumerate(values["images"], 1):
        where = f"{path}:{number}"
        if not isinstance(item, dict) or not isinstance(item.get("file_name"), str):
            yield Row(where, {}, "must be an object with file_name and id")
            continue
        yield Row(where, {"image": item["file_name"], "image_id": item.get("id"), "captions": captions[item.get("id")]})
