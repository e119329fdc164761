"""Data sources: files and folders as a sequence of samples that can be read in any order.

Opening a source reads tables and shard headers once, never an image. Samples are small values, so a source can be
sent to worker processes.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from blip.data.row_reader import RowReader, SampleCheck
from blip.io.columns import Columns
from blip.io.paths import expand_name
from blip.io.samples import Sample
from blip_lite.errors import BadRecord, UsageError

logger = logging.getLogger(__name__)

Spec = str | os.PathLike[str]


class Source(Protocol):
    """A sequence of samples."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


class SampleList:
    """A source held in memory: image locations and texts. `skipped` are the rows that were left out.

    parts: numbers of consecutive rows, one for each spec that was opened.
    """

    def __init__(
        self, samples: Sequence[Sample], skipped: Sequence[BadRecord] = (), parts: Sequence[int] | None = None
    ) -> None:
        self.samples, self.skipped = tuple(samples), tuple(skipped)
        self.parts = (len(self.samples),) if parts is None else tuple(parts)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int, /) -> Sample:
        return self.samples[index]


def open_source(
    spec: Spec | Sequence[Spec],
    *,
    root: Spec | Sequence[Spec] | None = None,
    image_column: str | None = None,
    text_column: str | None = None,
    key_column: str | None = None,
    require_text: bool = False,
    skip_bad: bool = False,
) -> SampleList:
    """Return the samples of one or several sources, in the given order.

    A spec is a folder of images with `.txt` files beside them (one text per line), WebDataset shards
    (`a-{00..05}.tar`; images with a `.json` or `.txt` of the same key), or a table: .json (the original's lists),
    .jsonl, .csv, .tsv, .parquet. Image paths in a table are relative to `root` (of several roots, to the first that
    has the file), else to the table. Without `text_column` the texts are in the first of `caption`, `captions`,
    `text`, `texts` that a row has; a row without text is bad only if `require_text`. Texts are returned as stored.
    In shards `image_column` and `text_column` may also be the endings of the members to use, such as `input.jpg`.

    A bad row raises `BadRecord` with file and row; with `skip_bad` it is listed in `skipped`. Raises `UsageError` for
    files that cannot be read, and for sources without a sample.
    """
    columns = Columns(
        roots=tuple(Path(path) for path in ([root] if isinstance(root, str | os.PathLike) else root or ())),
        image=image_column,
        text=text_column,
        key=key_column,
        need_text=require_text,
    )
    return _read(expand(spec), RowReader(columns=columns, names={}), skip_bad)


class TooManyRows(Exception):
    """A source has more rows than may be held in memory."""


def _read(specs: Sequence[Sequence[str]], reader: RowReader, skip_bad: bool, most: int | None = None) -> SampleList:
    """Return the rows of the files of several specs. Raises `TooManyRows` for more than `most`, good and bad ones."""
    samples: list[Sample] = []
    skipped: list[BadRecord] = []
    parts: list[int] = []
    for names in specs:
        before = len(samples)
        for name in names:
            for _, result in reader.rows(name):
                if isinstance(result, Sample):
                    samples.append(result)
                elif skip_bad:
                    skipped.append(result)
                else:
                    raise result
                if most is not None and len(samples) + len(skipped) > most:
                    raise TooManyRows
        parts.append(len(samples) - before)
    if not samples:
        first = f"; first of {len(skipped)} bad rows: {skipped[0]}" if skipped else ""
        names = [name for names in specs for name in names]
        raise UsageError(f"{', '.join(names[:3])}: holds no samples{first}")
    return SampleList(samples, skipped, parts)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Options for reading a user's data: column names, folders of the images, handling of bad rows.

    root, image, text, key: as for `open_source`. question, answer, sentence, label: columns of VQA and NLVR2 that
    replace the original's names. skip_bad: bad rows, and rows whose image file is missing, are listed in a warning and
    left out. memory_rows: training data of more rows are read through indexes (`blip.data.indexed_source`).
    """

    root: str | Sequence[str] | None = None
    image: str | None = None
    text: str | None = None
    key: str | None = None
    question: str | None = None
    answer: str | None = None
    sentence: str | None = None
    label: str | None = None
    skip_bad: bool = False
    memory_rows: int = 1_000_000  # about 1 kB each, in every process

    @cached_property
    def _opened(self) -> dict[Any, SampleList]:
        """The sources read so far: training, its reward and its validation samples may share one."""
        return {}

    def __getstate__(self) -> dict[str, Any]:
        """The fields alone: another process reads its sources itself."""
        return {name: value for name, value in self.__dict__.items() if name != "_opened"}

    def open(
        self,
        spec: Spec | Sequence[Spec],
        *,
        need_text: bool = False,
        check: SampleCheck | None = None,
        most: int | None = None,
    ) -> SampleList:
        """Return the samples of `spec`, read once per run; `check` raises `BadRecord` for rows the task cannot use.

        Raises `TooManyRows` for more than `most` rows.
        """
        specs = expand(spec)
        key = (specs, need_text, check)
        if key not in self._opened:
            if (specs, need_text) not in self._opened:
                reader = self.reader(need_text)
                self._opened[specs, need_text] = _read(specs, reader, self.skip_bad, most)
            self._opened[key] = self._filter(self._opened[specs, need_text], check, specs)
        return self._opened[key]

    def reader(self, need_text: bool = False, check: SampleCheck | None = None) -> RowReader:
        """Return the reader of single rows."""
        roots = [self.root] if isinstance(self.root, str) else self.root or ()
        columns = Columns(
            roots=tuple(map(Path, roots)), image=self.image, text=self.text, key=self.key, need_text=need_text
        )
        names = {"question": self.question, "answer": self.answer, "sentence": self.sentence, "label": self.label}
        new = {name: column for name, column in names.items() if column is not None}
        return RowReader(columns=columns, names=new, check=check)

    def _filter(self, source: SampleList, check: SampleCheck | None, specs: Sequence[Sequence[str]]) -> SampleList:
        bad = list(source.skipped)
        good: list[Sample] = []
        parts: list[int] = []
        rows = iter(source.samples)
        for size in source.parts:
            part = [sample for sample in islice(rows, size) if self._is_good(sample, check, bad)]
            good += part
            parts.append(len(part))
        if not good:
            names = ", ".join(name for names in specs for name in names)
            raise UsageError(f"{names}: holds no usable rows; first of {len(bad)} bad ones: {bad[0]}")
        warn_bad_rows(bad)
        return SampleList(good, bad, parts)

    def _is_good(self, sample: Sample, check: SampleCheck | None, bad: list[BadRecord]) -> bool:
        try:
            if check is not None:
                check(sample)
            if self.skip_bad:
                missing = next((r.path for r in sample.images if r.path is not None and not r.path.exists()), None)
                if missing is not None:
                    raise BadRecord(sample.where, f"image {missing}: no such file")
        except BadRecord as error:
            if not self.skip_bad:
                raise
            bad.append(error)
            return False
        return True


def warn_bad_rows(bad: Sequence[BadRecord]) -> None:
    """List the rows that are left out in a warning."""
    if bad:
        logger.warning("%d bad row%s left out:\n%s", len(bad), "s" * (len(bad) > 1), "\n".join(map(str, bad)))


def concatenate(sources: Sequence[Source]) -> SampleList:
    """Join several sources in the given order."""
    samples = [source[i] for source in sources for i in range(len(source))]
    return SampleList(samples, [bad for source in sources for bad in getattr(source, "skipped", ())])


def expand(spec: Spec | Sequence[Spec]) -> tuple[tuple[str, ...], ...]:
    """Return the files of each spec."""
    specs = [spec] if isinstance(spec, str | os.PathLike) else spec
    return tuple(tuple(expand_name(os.fspath(spec))) for spec in specs)
