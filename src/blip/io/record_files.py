"""Writers of records to files and standard output.

A .jsonl file grows batch by batch. Every other file is made at the end from such a file, `NAME.part.jsonl`, which
remains if the run ends early; `resume` continues either of them.
"""

from __future__ import annotations

import contextlib
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

from blip.io import convert_records, table_writer
from blip.io.atomic import atomic_path
from blip.io.disk import is_device, writing
from blip.io.formats import Format, record_format
from blip.io.record_text import COLUMNS, TextLines
from blip.io.records import Record, to_json
from blip.io.resume import kept_lines, sort_lines
from blip_lite.errors import EnvironmentProblem, UsageError

Existing = Literal["error", "skip", "overwrite"]


def unfinished_file(path: Path, format: Format) -> Path:
    """Return the file that holds the records of an unfinished run."""
    return path if format == "jsonl" else path.with_name(f"{path.name}.part.jsonl")


def must_write(path: Path | None, format: Format, *, existing: Existing = "error", resume: bool = False) -> bool:
    """Whether `-o path` is to be written; False if it exists and is to be skipped. May raise `UsageError`."""
    if path is None or is_device(path):
        if resume:
            raise UsageError("--resume; must be used with -o FILE")
        return True
    unfinished = unfinished_file(path, format)
    if existing == "overwrite" or (resume and (unfinished.exists() or not path.exists())):
        return True
    if path.exists():
        if existing == "skip":
            return False
        choices = "use --overwrite or --skip-existing" + (", or --resume to continue it" if path == unfinished else "")
        raise UsageError(f"{path} exists; {choices}")
    if unfinished.exists():
        raise UsageError(f"{unfinished} holds the results of an unfinished run; use --resume or --overwrite")
    return True


class RecordWriter(ABC):
    """Writes records in batches. Leaving the `with` block completes the output, unless `finished` is False by then."""

    done: frozenset[str] = frozenset()  # keys that a resumed file already holds
    unfinished: Path | None = None  # the file that holds the records if the run ends early
    finished = True

    @abstractmethod
    def write(self, records: Iterable[Record]) -> None:
        """Write a batch, in order."""

    @abstractmethod
    def close(self) -> None:
        """Complete the output if `finished`, else keep the earlier one."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.finished = self.finished and error is None
        self.close()


def open_records(
    path: Path | None,
    *,
    schema: str,
    stream: IO[Any],
    format: str | None = None,
    existing: Existing = "error",
    resume: bool = False,
    order: Sequence[str] | None = None,
    per_key: int = 1,
    columns: Sequence[str] | None = None,
    single: bool = False,
    all_columns: bool = False,
) -> RecordWriter:
    """Return a writer to `path`, by default to `stream` (standard output).

    schema: "caption/1" and so on. resume: keep the good records of an unfinished file (see `.done`); keys with an error
    or fewer than `per_key` records are dropped and redone; at the end records are sorted by `order` of keys.
    columns: those of the text format. single: there is one input, and the text format is its last column only.
    all_columns: Parquet files have the columns that no record uses as well, so that several have the same ones.
    Call `must_write` first: a file that is to be skipped raises `UsageError` here.
    """
    name = schema.removesuffix("/1")
    file_format = record_format(path, format, schema)
    if not must_write(path, file_format, existing=existing, resume=resume):
        raise UsageError(f"{path} exists and is to be skipped")
    if file_format == "parquet":
        table_writer.require_pyarrow()
    text_columns = tuple(columns or COLUMNS.get(name, ("key", "text")))
    layout = convert_records.Layout(file_format, name, text_columns, single, all_columns)
    if path is None or is_device(path):
        if file_format in ("text", "jsonl"):
            return _Streamed(path, stream, layout)
        return _Spooled(path, stream, layout)
    return _Journaled(path, layout, schema, (order or ()) if resume else None, per_key)


class _Streamed(RecordWriter):
    """Text or jsonl on standard output or a device, batch by batch."""

    def __init__(self, path: Path | None, stream: IO[Any], layout: convert_records.Layout) -> None:
        self._file: IO[bytes] | None = None
        if path is not None:
            with writing(path):
                self._file = open(path, "wb")  # noqa: SIM115 - closed by close()
        self._stream, self._where = self._file or stream, str(path or "standard output")
        terminal = self._file is None and bool(getattr(stream, "isatty", bool)())
        self._lines = TextLines(layout.columns, single=layout.single, terminal=terminal)
        self._json = layout.format == "jsonl"

    def write(self, records: Iterable[Record]) -> None:
        lines = "".join(to_json(r) + "\n" for r in records) if self._json else self._lines.format(records)
        _emit(self._stream, lines.encode("utf-8", "replace"), self._where)

    def close(self) -> None:
        if self._file is not None:
            with writing(self._where):
                self._file.close()


class _Spooled(RecordWriter):
    """A format that needs all records first, on standard output or a device."""

    def __init__(self, path: Path | None, stream: IO[Any], layout: convert_records.Layout) -> None:
        self._path, self._stream, self._layout = path, stream, layout
        with writing("the folder of temporary files"):
            self._folder = tempfile.TemporaryDirectory()
        self._records = open(Path(self._folder.name, "records"), "w+b")  # noqa: SIM115 - closed by close()

    def write(self, records: Iterable[Record]) -> None:
        with writing(self._folder.name):
            self._records.write(self._layout.lines(records))
            self._records.flush()

    def close(self) -> None:
        try:
            if self.finished:
                file = Path(self._folder.name, f"output.{self._layout.format}")
                with writing(self._folder.name):
                    convert_records.convert(self._records, file, self._layout)
                if self._path is None:
                    _emit(self._stream, file.read_bytes(), "standard output")
                else:
                    with writing(self._path):
                        self._path.write_bytes(file.read_bytes())
        finally:
            self._records.close()
            self._folder.cleanup()


class _Journaled(RecordWriter):
    """A file; its records are stored in `unfinished` until the end."""

    def __init__(
        self, path: Path, layout: convert_records.Layout, schema: str, order: Sequence[str] | None, per_key: int
    ) -> None:
        """`order` is given to resume a file."""
        self._path, self._layout, self._order = path, layout, order
        self.unfinished = self._store = unfinished_file(path, layout.format)
        with writing(self._store):
            path.parent.mkdir(parents=True, exist_ok=True)
            if order is not None and self._store.exists():
                self.done = kept_lines(self._store, schema, per_key)
            self._file = open(self._store, "wb" if order is None else "ab")  # noqa: SIM115 - closed by close()

    def write(self, records: Iterable[Record]) -> None:
        with _keeping(self._store):
            self._file.write(self._layout.lines(records))
            self._file.flush()

    def close(self) -> None:
        if not self.finished:
            with contextlib.suppress(OSError):  # of data that could not be written before
                self._file.close()
            if self._store != self._path and self._store.stat().st_size == 0:
                self._store.unlink()
            return
        with _keeping(self._store):
            self._file.close()
            if self._order:
                sort_lines(self._store, self._order)
        if self._store != self._path:
            with _keeping(self._path), atomic_path(self._path) as temporary, open(self._store, "rb") as records:
                convert_records.convert(records, temporary, self._layout)
            self._store.unlink()


@contextlib.contextmanager
def _keeping(path: Path) -> Iterator[None]:
    """Like `writing`; the message adds that a later run can use what has been written."""
    try:
        with writing(path):
            yield
    except EnvironmentProblem as error:
        raise EnvironmentProblem(f"{error}; --resume continues with the results so far") from error


def _emit(stream: IO[Any], data: bytes, where: str) -> None:
    """Write UTF-8 to a binary or text stream whatever the locale, and flush it."""
    target = getattr(stream, "buffer", stream)
    with writing(where):
        if target is not stream:
            stream.flush()
        try:
            target.write(data)
        except TypeError:  # a text stream without a binary buffer, such as io.StringIO
            target.write(data.decode("utf-8"))
        target.flush()
