"""Example images of a report: kept ones, dropped ones, and those nearest to the threshold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from blip.capfilt.database import Database
from blip.capfilt.record import WEB
from blip.capfilt.report.queries import PLACE

Group = Literal["kept", "near", "dropped"]
OTHER_TEXTS = 5  # shown per image
LOCATION = ("key", "shard", "image", "offset", "size", "row", "url", "sha256")
COLUMNS = (*LOCATION, "kind", "index", "text", "itm", "itc", "kept", "truth")


@dataclass(frozen=True)
class Text:
    """A text of an example; human texts have no scores."""

    kind: str
    index: int
    text: str
    itm: float | None
    itc: float | None
    kept: bool
    truth: bool | None  # of web texts, if a column tells it


@dataclass(frozen=True)
class Example:
    """An image shown for one of its texts: columns that locate it, that text, and others of the image."""

    location: Mapping[str, Any]
    chosen: Text
    others: Sequence[Text]


def examples(db: Database, kind: str, group: Group, score: str, threshold: float, limit: int) -> list[Example]:
    """Return up to `limit` images for texts of a kind, those with the highest scores first.

    Kept and dropped texts are drawn by a hash of their names, so that a second report shows the same ones.
    """
    near = f"abs({score} - {threshold!r}), {PLACE}"
    condition, order = {"kept": ("kept", PLACE), "near": ("true", near), "dropped": ("NOT kept", PLACE)}[group]
    names = ", ".join(f'"{name}"' for name in COLUMNS)
    query = f"""SELECT {names} FROM (
            SELECT * FROM texts WHERE kind = $1 AND isfinite({score}) AND {condition} ORDER BY {order} LIMIT {limit}
        ) ORDER BY {score} DESC, {PLACE}"""
    rows = list(_dicts(db.rows(query, [kind])))
    texts = _texts_of(db, {(row["shard"], row["key"]) for row in rows})
    return [
        Example(
            {name: row[name] for name in LOCATION}, _text(row), _others(_text(row), texts[row["shard"], row["key"]])
        )
        for row in rows
    ]


def _others(chosen: Text, texts: Sequence[Text]) -> list[Text]:
    return [text for text in texts if text != chosen][:OTHER_TEXTS]


def _texts_of(db: Database, images: set[tuple[str, str]]) -> dict[tuple[str, str], list[Text]]:
    """Return the texts of images, which are named by shard and key."""
    names = ", ".join(f'"{name}"' for name in COLUMNS)
    query = f"SELECT {names} FROM texts WHERE kind IS NOT NULL AND key IN (SELECT unnest($1)) ORDER BY kind DESC, index"
    texts: dict[tuple[str, str], list[Text]] = {image: [] for image in images}
    for row in _dicts(db.rows(query, [sorted(key for _, key in images)])):
        if (row["shard"], row["key"]) in texts:
            texts[row["shard"], row["key"]].append(_text(row))
    return texts


def _text(row: Mapping[str, Any]) -> Text:
    truth = row["truth"] if row["kind"] == WEB else None
    return Text(row["kind"], row["index"], row["text"], row["itm"], row["itc"], row["kept"], truth)


def _dicts(rows: Iterable[tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    return (dict(zip(COLUMNS, row, strict=True)) for row in rows)
