"""Human ratings of captions: Flickr8k's expert file, or any table with image, text and ratings."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from blip.data.sources import open_source
from blip.io import table_reader
from blip.io.samples import ImageRef, Sample
from blip_lite.errors import BadRecord, UsageError
from blip_lite.text_files import read_text

RATING_COLUMNS = ("ratings", "rating", "judgements", "score")


@dataclass(frozen=True, slots=True)
class RatedCaption:
    """A caption of a photo with its human ratings; `same_photo`: the caption was written for it."""

    key: str
    image: ImageRef
    text: str
    ratings: tuple[float, ...]
    where: str
    same_photo: bool = False


def read_judgements(path: Path, texts: Path | None = None, root: Path | None = None) -> list[RatedCaption]:
    """Read the rated captions of a file.

    A table (.jsonl, .csv, .tsv, .parquet, .json) has one row per rated caption: `image`, `text` (or `caption`), and
    `ratings` (a list) or `rating` (a number). Other files are read as the expert file of Flickr8k, tab-separated
    without a header: image, caption id `IMAGE#N`, ratings; its captions are in `texts` (`IMAGE#N`, tab, caption;
    default Flickr8k.token.txt beside it). Images are relative to `root`, else to the file. Raises `BadRecord`.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    if path.suffix.lower() in table_reader.EXTENSIONS:
        source = open_source(path, root=root, require_text=True)
        return [_from_sample(sample) for sample in source.samples]
    tokens = path.parent / "Flickr8k.token.txt" if texts is None else texts
    captions = dict(_tokens(tokens))
    rated = [_from_line(where, fields, captions, root or path.parent) for where, fields in _lines(path)]
    if not rated:
        raise UsageError(f"{path}: holds no rated captions")
    return rated


def _from_sample(sample: Sample) -> RatedCaption:
    value = next((sample.fields[name] for name in RATING_COLUMNS if sample.fields.get(name) is not None), None)
    if isinstance(value, str):
        value = value.strip("[]").replace(",", " ").split()
    try:
        ratings = tuple(float(x) for x in (value if isinstance(value, list | tuple) else [value]))  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise BadRecord(sample.where, "no number in column 'ratings' or 'rating'") from error
    _require_ratings(sample.where, ratings)
    return RatedCaption(sample.key, sample.image, sample.texts[0], ratings, sample.where)


def _from_line(where: str, fields: list[str], captions: Mapping[str, str], root: Path) -> RatedCaption:
    if len(fields) < 3:
        raise BadRecord(where, f"{len(fields)} columns; must be image, caption id and ratings, separated by tabs")
    image, caption, *values = fields
    if caption not in captions:
        raise BadRecord(where, f"caption '{caption}' is not in the file of captions")
    try:
        ratings = tuple(float(x) for x in values)
    except ValueError as error:
        raise BadRecord(where, f"rating {values}: must be numbers") from error
    _require_ratings(where, ratings)
    same_photo = caption.partition("#")[0] == image
    return RatedCaption(f"{image} {caption}", ImageRef(root / image), captions[caption], ratings, where, same_photo)


def _require_ratings(where: str, ratings: tuple[float, ...]) -> None:
    if not ratings or not all(map(math.isfinite, ratings)):
        raise BadRecord(where, f"ratings {ratings}: must be at least one, all finite numbers")


def _tokens(path: Path) -> Iterator[tuple[str, str]]:
    for where, fields in _lines(path):
        if len(fields) != 2:
            raise BadRecord(where, "must be IMAGE#N, a tab, the caption")
        yield fields[0], fields[1]


def _lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    try:
        lines = read_text(path).splitlines()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; the captions' file is named with --texts") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield f"{path}:{number}", line.split("\t")
