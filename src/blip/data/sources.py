"""Data sources: whatever the user names, as a sequence of records that can be read in any order.

Opening a source reads tables and shard headers once, never an image. Samples are small values, so a source can be
sent to worker processes.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from blip.io import readers
from blip.io.paths import expand_name
from blip.io.readers import Columns
from blip.io.samples import ImageRef, Sample
from blip_lite.errors import BadRecord, UsageError

__all__ = ["ImageRef", "Reading", "Sample", "SampleList", "Source", "concatenate", "open_source", "warn_bad_rows"]

logger = logging.getLogger(__name__)

Spec = str | os.PathLike[str]


class Source(Protocol):
    """A sequence of records."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


class SampleList:
    """A source held in memory: locations and texts, no images. `skipped` are the rows that were left out."""

    def __init__(self, samples: Sequence[Sample], skipped: Sequence[BadRecord] = ()) -> None:
        self.samples, self.skipped = tuple(samples), tuple(skipped)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int, /) -> Sample:
        return self.samples[index]


def open_source(
    spec: Spec | Sequence[Spec],
    *,
    root: Spec | Sequence[Spec] | None = None,
    image_column: str = "image",
    text_column: str | None = None,
    key_column: str | None = None,
    require_text: bool = False,
    skip_bad: bool = False,
) -> SampleList:
    """The records of one or several sources, one after the other.

    A spec is a folder of images with `.txt` beside them (one text a line), WebDataset shards (`a-{00..05}.tar`; an
    image with a `.json` or `.txt` of the same name), or a table: .json (the original's lists), .jsonl, .csv, .tsv,
    .parquet. Image paths in a table are relative to `root` (of several roots, to the first that has the file), else
    to the table. Without `text_column` the texts are in the first of `caption`, `captions`, `text`, `texts` that a
    row has, and a row may have none unless `require_text`. Texts stay as they are in the file. A bad row raises
    `BadRecord` with file and row; with `skip_bad` it is listed in `skipped`. Raises `UsageError` for files that cannot
    be read and when nothing is found.
    """
    columns = Columns(
        roots=tuple(Path(one) for one in ([root] if isinstance(root, str | os.PathLike) else root or ())),
        image=image_column,
        text=text_column,
        key=key_column,
        need_text=require_text,
    )
    samples: list[Sample] = []
    skipped: list[BadRecord] = []
    for name in _names(spec):
        for found in readers.read(name, columns):
            if isinstance(found, Sample):
                samples.append(found)
            elif skip_bad:
                skipped.append(found)
            else:
                raise found
    if not samples:
        first = f"; first of {len(skipped)} bad rows: {skipped[0]}" if skipped else ""
        raise UsageError(f"{spec}: holds no records{first}")
    return SampleList(samples, skipped)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a user's data are read: the names of their columns, where images lie, what happens to broken rows.

    question, answer, sentence, label: columns that VQA and NLVR2 take under the names of the original where nothing
    is given. skip_bad: broken rows, and rows whose image file is missing, are listed in a warning and left out.
    """

    root: str | Sequence[str] | None = None
    image: str = "image"
    text: str | None = None
    key: str | None = None
    question: str | None = None
    answer: str | None = None
    sentence: str | None = None
    label: str | None = None
    skip_bad: bool = False

    def open(
        self,
        spec: Spec | Sequence[Spec],
        *,
        need_text: bool = False,
        check: Callable[[Sample], object] | None = None,
    ) -> SampleList:
        """The records of `spec`; `check` raises `BadRecord` for a row that the task cannot use."""
        found = open_source(
            spec,
            root=self.root,
            image_column=self.image,
            text_column=self.text,
            key_column=self.key,
            require_text=need_text,
            skip_bad=self.skip_bad,
        )
        renamed = [self._renamed(record) for record in found.samples]
        bad = list(found.skipped)
        good = [record for record in renamed if self._is_good(record, check, bad)]
        if not good:
            raise UsageError(f"{spec}: holds no usable rows; first of {len(bad)} bad ones: {bad[0]}")
        warn_bad_rows(bad)
        return SampleList(good, bad)

    def _renamed(self, record: Sample) -> Sample:
        columns = {"question": self.question, "answer": self.answer, "sentence": self.sentence, "label": self.label}
        new = {name: record.fields.get(column) for name, column in columns.items() if column is not None}
        return replace(record, fields={**record.fields, **new}) if new else record

    def _is_good(self, record: Sample, check: Callable[[Sample], object] | None, bad: list[BadRecord]) -> bool:
        try:
            if check is not None:
                check(record)
            if self.skip_bad:
                missing = next((r.path for r in record.images if r.path is not None and not r.path.exists()), None)
                if missing is not None:
                    raise BadRecord(record.where, f"image {missing}: no such file")
        except BadRecord as error:
            if not self.skip_bad:
                raise
            bad.append(error)
            return False
        return True


def warn_bad_rows(bad: Sequence[BadRecord]) -> None:
    """Lists rows that are left out, in a warning."""
    if bad:
        logger.warning("%d bad rows are left out:\n%s", len(bad), "\n".join(map(str, bad)))


def concatenate(sources: Sequence[Source]) -> SampleList:
    """Several sources as one, in the given order."""
    samples = [source[i] for source in sources for i in range(len(source))]
    return SampleList(samples, [bad for source in sources for bad in getattr(source, "skipped", ())])


def _names(spec: Spec | Sequence[Spec]) -> list[str]:
    names: list[str] = []
    for given in [spec] if isinstance(spec, str | os.PathLike) else spec:
        names += expand_name(os.fspath(given))
    return names
