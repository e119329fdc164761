"""Results as records, and their files: text, jsonl, csv, tsv, parquet, coco.

A record is a dict with the keys of `io.schemas`, in that order. jsonl is appended and flushed batch by batch, so
that a run can be resumed; every other file appears complete at the end.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import tempfile
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self, get_args

from blip.io import table_writer
from blip.io.atomic import atomic_path
from blip.io.disk import disk_full, writing
from blip.io.resume import kept_lines, sort_lines
from blip_lite.errors import UsageError

Record = Mapping[str, Any]
Format = Literal["text", "jsonl", "csv", "tsv", "parquet", "coco"]
Existing = Literal["error", "skip", "overwrite"]

_BY_SUFFIX: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".txt": "text",
}
_TEXT_COLUMNS = {
    "caption": ("key", "text"),
    "answer": ("key", "question", "text"),
    "match": ("key", "text", "itm", "itc"),
    "hit": ("score", "path"),
    "embedding": ("key", "kind", "dim"),
    "capfilt": ("key", "chosen"),
}


def clean(value: Any) -> Any:  # Any: JSON values
    """Return a record's value as JSON can hold it: floats with 6 significant digits, without None and NaN entries."""
    if isinstance(value, Mapping):
        return {str(k): c for k, v in value.items() if (c := clean(v)) is not None}
    if hasattr(value, "tolist"):  # numpy and torch numbers and arrays
        return clean(value.tolist())
    if isinstance(value, list | tuple):
        return [clean(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value


def to_json(record: Record) -> str:
    """Return a record as one line of JSON, keys in its order."""
    text = json.dumps(clean(record), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")  # some readers treat these as line ends


def error_record(schema: str, key: str, error: BaseException) -> dict[str, Any]:
    """Return the record that replaces a failed result."""
    reason = getattr(error, "reason", None) or " ".join(str(error).split())
    return {"schema": schema, "key": key, "error": {"type": type(error).__name__, "reason": reason}}


def format_of(path: Path | None, format: str | None = None) -> Format:
    """Return the given format, else that of the file's extension, else text."""
    if format is not None:
        if format not in get_args(Format):
            raise UsageError(f"--format {format}; must be one of {', '.join(get_args(Format))}")
        return format  # type: ignore[return-value]
    return _BY_SUFFIX.get(path.suffix.lower(), "text") if path is not None else "text"


def must_write(path: Path | None, *, existing: Existing = "error", resume: bool = False) -> bool:
    """Whether `-o path` is to be written; False if it exists and is to be skipped. May raise `UsageError`."""
    if path is None or resume or not path.exists() or existing == "overwrite":
        return True
    if existing == "skip":
        return False
    raise UsageError(f"{path} exists; use --overwrite or --skip-existing, or --resume to continue a .jsonl file")


class RecordWriter(ABC):
    """Writes records in batches. Leaving the `with` block completes the file; exceptions except Ctrl-C discard it."""

    done: frozenset[str] = frozenset()  # keys that a resumed file already holds

    @abstractmethod
    def write(self, records: Iterable[Record]) -> None:
        """Write a batch, in order."""

    @abstractmethod
    def close(self, *, discard: bool = False) -> None:
        """Complete the file, or keep the earlier one."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close(discard=error is not None and not isinstance(error, KeyboardInterrupt | SystemExit))


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
) -> RecordWriter:
    """Return a writer to `path`, by default to `stream` (standard output).

    schema: "caption/1" and so on. resume: keep the good records of a jsonl file (see `.done`); keys with an error or
    fewer than `per_key` records are dropped and redone; at the end records are sorted by `order` of keys.
    columns: those of the text format. single: there is one input, and the text format is its last column only.
    Call `must_write` first: a file that is to be skipped raises `UsageError` here.
    """
    file_format = format_of(path, format)
    if resume and (file_format != "jsonl" or path is None):
        raise UsageError("--resume; must be used with -o FILE.jsonl, other formats are written at the end")
    if not must_write(path, existing=existing, resume=resume):
        raise UsageError(f"{path} exists and is to be skipped")
    name = schema.removesuffix("/1")
    if file_format == "coco" and name != "caption":
        raise UsageError(f"--format coco; must be used with captions, not with {name} records")
    if file_format == "jsonl":
        done = kept_lines(path, schema, per_key) if resume and path is not None and path.exists() else frozenset()
        writer = _Jsonl(path, stream, (order or ()) if resume else None)
        writer.done = done
        return writer
    if file_format == "text":
        text_columns = columns or _TEXT_COLUMNS.get(name, ("key", "text"))
        return _Text(path, stream, tuple(text_columns), single=single)
    if file_format == "parquet":
        table_writer.require_pyarrow()
    return _Spooled(path, stream, name, file_format)


class _Jsonl(RecordWriter):
    def __init__(self, path: Path | None, stream: IO[Any], order: Sequence[str] | None) -> None:
        """`order` is given to resume a file."""
        self._path, self._stream, self._order = path, stream, order
        self._file: IO[bytes] | None = None
        if path is None:
            return
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "wb" if order is None else "ab")  # noqa: SIM115 - closed by close()

    def write(self, records: Iterable[Record]) -> None:
        text = "".join(to_json(record) + "\n" for record in records)
        if self._file is None:
            _emit(self._stream, text)
            return
        with writing(self._path or "output"):
            self._file.write(_bytes(text))
            self._file.flush()

    def close(self, *, discard: bool = False) -> None:
        if self._file is None or self._path is None:
            return
        self._file.close()
        if self._order and not discard:
            sort_lines(self._path, self._order)


class _Text(RecordWriter):
    """Tab-separated lines, or aligned columns on a terminal. Failed inputs are left out."""

    def __init__(self, path: Path | None, stream: IO[Any], columns: tuple[str, ...], *, single: bool) -> None:
        self._columns = columns[-1:] if single else columns
        self._stack = contextlib.ExitStack()
        self._stream = stream
        self._aligned = path is None and not single and bool(getattr(stream, "isatty", bool)())
        self._widths: list[int] | None = None
        if path is not None:
            temporary = self._stack.enter_context(atomic_path(path))
            self._stream = open(temporary, "wb")  # noqa: SIM115 - closed by the stack
            self._stack.callback(self._stream.close)

    def write(self, records: Iterable[Record]) -> None:
        rows = [[_cell(record.get(name)) for name in self._columns] for record in records if "error" not in record]
        if rows:
            lines = self._align(rows) if self._aligned else ["\t".join(row) for row in rows]
            _emit(self._stream, "".join(line + "\n" for line in lines))

    def _align(self, rows: list[list[str]]) -> list[str]:
        """Align columns to the widest cell so far, with a header before the first batch."""
        if self._widths is None:
            self._widths = [0] * len(self._columns)
            rows = [list(self._columns), *rows] if len(self._columns) > 1 else rows
        for i, width in enumerate(self._widths):
            self._widths[i] = max(width, *(_width(row[i]) for row in rows))
        padded = ([c + " " * (w - _width(c)) for c, w in zip(row, self._widths, strict=True)] for row in rows)
        return ["  ".join(row).rstrip() for row in padded]

    def close(self, *, discard: bool = False) -> None:
        error = _Discarded() if discard else None
        with contextlib.suppress(_Discarded):
            self._stack.__exit__(type(error) if error else None, error, None)


class _Discarded(Exception):
    """Makes `atomic_path` remove its file."""


class _Spooled(RecordWriter):
    """Formats that need all records first: csv, tsv, parquet, coco. Records are stored on disk as jsonl until then."""

    def __init__(self, path: Path | None, stream: IO[Any], name: str, file_format: Format) -> None:
        self._path, self._stream, self._name, self._format = path, stream, name, file_format
        self._spool: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()

    def write(self, records: Iterable[Record]) -> None:
        with disk_full(tempfile.gettempdir()):
            self._spool.write(_bytes("".join(to_json(record) + "\n" for record in records)))

    def close(self, *, discard: bool = False) -> None:
        with self._spool:
            if discard:
                return
            if self._path is not None:
                with atomic_path(self._path) as temporary:
                    self._convert(temporary)
                return
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder, "records")
                self._convert(file)
                _emit(self._stream, file.read_bytes())

    def _convert(self, path: Path) -> None:
        rows = _Rows(self._spool)
        if self._format == "parquet":
            table_writer.write_parquet(path, rows, self._name)
        elif self._format == "coco":
            captions = [{"image_id": image_id(r["key"]), "caption": r["text"]} for r in rows if "error" not in r]
            path.write_bytes(_bytes(json.dumps(captions, ensure_ascii=False) + "\n"))
        else:
            table_writer.write_table(path, rows, self._name, "\t" if self._format == "tsv" else ",")


class _Rows(Iterable[dict[str, Any]]):
    """The spooled records; may be iterated repeatedly."""

    def __init__(self, spool: IO[bytes]) -> None:
        self._spool = spool

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self._spool.seek(0)
        return map(json.loads, iter(self._spool.readline, b""))


def image_id(key: str) -> int | str:
    """Return COCO's number of an image: the digits that end its file name, else the key itself."""
    match = re.search(r"(?:^|[_/])0*(\d+)(?:\.[A-Za-z0-9]+)?$", key)
    return int(match[1]) if match else key


def _cell(value: Any) -> str:
    value = clean(value)
    text = "" if value is None else f"{value:.6g}" if isinstance(value, float) else value
    if not isinstance(text, str):
        text = json.dumps(text, ensure_ascii=False)
    return re.sub(r"[\t\r\n\v\f\x85\u2028\u2029]", " ", text)


def _width(text: str) -> int:
    """Width on a terminal: East Asian wide characters take two columns, combining ones none."""
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _emit(stream: IO[Any], text: str | bytes) -> None:
    """Write UTF-8 to a binary or text stream whatever the locale, and flush it."""
    data = text if isinstance(text, bytes) else _bytes(text)
    target = getattr(stream, "buffer", stream)
    if target is not stream:
        stream.flush()
    try:
        target.write(data)
    except TypeError:  # a text stream without a binary buffer, such as io.StringIO
        target.write(data.decode("utf-8"))
    target.flush()
