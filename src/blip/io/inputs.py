"""The inputs of a run: files, folders, tar shards, tables, URLs, videos, and lists of them, as samples of one image.

Listing opens folders, tables and the headers of shards and videos, never an image. Order: arguments as given,
folders in the byte order of relative paths.
"""

from __future__ import annotations

import codecs
import itertools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from blip.io import folder_reader, readers, shard_reader
from blip.io.byte_sources import MissingSource, TarMember, Url
from blip.io.columns import Columns, ReadResult
from blip.io.fetch import offline_reason
from blip.io.paths import VIDEO_EXTENSIONS, ListOptions, expand_name, is_url, key_of, walk
from blip.io.samples import ImageRef, Sample
from blip.io.saved_datasets import is_saved
from blip_lite.errors import BadRecord, OfflineError, UsageError
from blip_lite.sniff import image_format
from blip_lite.text_files import encoding_of

FIELDS = ("question", "question_id", "answers", "url")  # the columns that verbs use besides texts


@dataclass(frozen=True, kw_only=True, slots=True)
class InputOptions(ListOptions):
    """Options for finding inputs. `video` lists the frames of a video file: (path, key=key)."""

    columns: Columns = field(default_factory=Columns)
    null: bool = False  # lists are NUL separated
    stdin: BinaryIO | None = None
    url_timeout: float = 20.0
    offline: bool = False
    video: Callable[..., Iterable[Sample]] | None = None


def find_inputs(
    args: Sequence[str | os.PathLike[str]],
    *,
    from_file: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    shard: tuple[int, int] | None = None,
    **options: Any,  # Any: fields of ListOptions
) -> list[Sample]:
    """Return a sample for every image that the arguments name; `options` are the fields of `InputOptions`.

    Repeated keys get ` (2)` and a warning. `limit` cuts the list first, then `shard` (i, n) takes the inputs
    i, i+n, …, so the shards together are the whole list. A named file that is missing fails when it is read.
    Raises `UsageError` if there is no input.
    """
    _check_slices(limit, shard)
    names = [os.fspath(arg) for arg in args]
    finder = _Finder(InputOptions(**options))
    samples = finder.from_args(names)
    if from_file is not None:
        samples = itertools.chain(samples, finder.from_list(finder.read_list(from_file), os.fspath(from_file)))
    inputs = list(itertools.islice(with_unique_keys(samples), limit))
    if not inputs:
        raise UsageError(_explain_nothing(names, from_file, finder.options))
    inputs += [_failing(key_of(name), f"no inputs found{readers.explain_empty(name)}") for name in finder.empty]
    return inputs if shard is None else inputs[shard[0] :: shard[1]]


def _check_slices(limit: int | None, shard: tuple[int, int] | None) -> None:
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit}; must be at least 1")
    if shard is not None and not 0 <= shard[0] < shard[1]:
        raise UsageError(f"--shard {shard[0]}/{shard[1]}; must be I/N with 0 <= I < N")


def _video_ending(names: list[str]) -> str | None:
    """Return the ending of the first video in folders, without its dot."""
    endings = tuple(ending.removeprefix(".") for ending in VIDEO_EXTENSIONS)
    videos = (video for name in names if os.path.isdir(name) for video in walk(name, ListOptions(exts=endings)))
    return next((video.rpartition(".")[2].lower() for video in videos), None)


def _explain_nothing(names: list[str], from_file: object, options: InputOptions) -> str:
    if not names and from_file is None:
        return "no inputs given; name files, folders, shards, tables, URLs or '-'"
    filters = f" and {' '.join(options.globs)}" if options.globs else ""
    where = ", ".join(names[:3]) + (", …" if len(names) > 3 else "") if names else str(from_file)
    hint = next((hint for name in names if os.path.isdir(name) and (hint := readers.explain_empty(name))), "")
    if not hint and options.video is not None and (ending := _video_ending(names)):
        hint = f"; for its videos give --ext {ending}"
    return f"no inputs found in {where}; looked for {' '.join(options.suffixes)}{filters}{hint}"


def with_unique_keys(samples: Iterable[Sample]) -> Iterator[Sample]:
    """Yield samples; keys that repeat get " (2)" and so on, with a warning."""
    taken: set[str] = set()
    copies: dict[str, int] = {}
    for sample in samples:
        key = sample.key
        if key in taken:
            number = copies.get(key, 1) + 1
            while f"{key} ({number})" in taken:
                number += 1
            copies[key] = number
            if len(copies) == 1 and number == 2:
                warnings.warn(f"{key}: listed more than once; later ones get ' (2)' and so on", stacklevel=3)
            sample = replace(sample, key=f"{key} ({number})")
        taken.add(sample.key)
        yield sample


class _Finder:
    """Turns names into samples of one image each."""

    def __init__(self, options: InputOptions) -> None:
        self.options = options
        self.columns = replace(options.columns, strict=False, keep=FIELDS)
        self.empty: list[str] = []  # names without an input, although nothing is filtered

    def from_args(self, names: Iterable[str]) -> Iterator[Sample]:
        for arg in names:
            if arg == "-":
                if self.options.stdin is None:
                    raise UsageError("'-': there is no standard input to read the list from")
                yield from self.from_list(self.options.stdin.read(), "standard input")
            else:
                for name in expand_name(arg):
                    yield from self.from_name(name)

    def read_list(self, path: str | os.PathLike[str]) -> bytes:
        if os.fspath(path) == "-" and self.options.stdin is not None:
            return self.options.stdin.read()
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise UsageError(f"--from-file {os.fspath(path)}: cannot be read ({error.strerror or error})") from error

    def from_list(self, data: bytes, where: str) -> Iterator[Sample]:
        """Yield the inputs of a list of names in the encoding of the file system, or of its byte order mark."""
        encoding = encoding_of(data)
        data = data.removeprefix(codecs.BOM_UTF8)
        if encoding != "utf-8-sig":
            data = os.fsencode(data.decode(encoding, "replace"))
        if kind := image_format(data):
            raise UsageError(f"{where}: not a list of names but an image ({kind}); name its file as an input")
        if b"\0" in data and not self.options.null:
            raise UsageError(f"{where}: not a list of names but binary data; names separated by NUL need -0")
        lines = data.split(b"\0") if self.options.null else [line.removesuffix(b"\r") for line in data.split(b"\n")]
        for line in lines:
            if line:
                yield from self.from_name(os.fsdecode(line))

    def from_name(self, name: str) -> Iterator[Sample]:
        """Yield the inputs of one existing or missing path, or of one URL."""
        number = 0
        for number, sample in enumerate(self._from_name(name), 1):  # noqa: B007 (used after the loop)
            yield sample
        if not number and not self.options.globs and not self.options.exts:
            self.empty.append(name)

    def _from_name(self, name: str) -> Iterator[Sample]:
        if is_url(name):
            if self.options.offline:
                raise OfflineError(f"{name}: a download is needed but {offline_reason()}")
            yield Sample(key=name, images=(ImageRef(Url(name, timeout=self.options.url_timeout)),))
        elif os.path.isdir(name) or readers.is_shard(name) or readers.is_table(name):
            for sample in samples_of(name, self._read(Path(name))):
                yield from self._frames(sample)
        else:
            yield from self._frames(Sample(key=key_of(name), images=(ImageRef(Path(name)),)))

    def _read(self, path: Path) -> Iterator[ReadResult]:
        if path.is_dir():
            if is_saved(path):
                return readers.saved_dataset(path, self.columns)
            return folder_reader.folder(path, self.columns, self.options, sidecars=False)
        if readers.is_shard(path.name):
            return shard_reader.shard(path, self.columns, self.options.accepts)
        return readers.table(path, self.columns)

    def _frames(self, sample: Sample) -> Iterator[Sample]:
        """Yield the sample of an image, or one sample for each frame of a video."""
        path = sample.path
        if path is None or path.suffix.lower() not in VIDEO_EXTENSIONS:
            yield sample
        elif self.options.video is None:
            raise UsageError(f"{sample.key} is a video; only images are supported here")
        else:
            for frame in self.options.video(path, key=sample.key):
                yield replace(sample, key=frame.key, images=frame.images)


def samples_of(name: str, results: Iterable[ReadResult]) -> Iterator[Sample]:
    """Yield a sample for each image of a shard, table or folder `name`, of which a reader has returned the rows.

    Keys start with the name of a shard or folder; those of tables are unchanged.
    """
    prefix, is_folder = key_of(name).rstrip("/"), os.path.isdir(name)
    for result in results:
        for sample in _one_image_each(result):
            if is_folder and sample.path is not None and sample.key != sample.where:
                sample = replace(sample, key=f"{prefix}/{key_of(sample.key)}")
            elif not is_folder and readers.is_shard(name) and isinstance(result, Sample):
                sample = replace(sample, key=key_of(name + sample.key.removeprefix(os.path.basename(name))))
            yield sample


def _failing(key: str, reason: str) -> Sample:
    """Return an input that fails with this reason when it is read."""
    return Sample(key=key, images=(ImageRef(MissingSource(key, reason)),))


def _one_image_each(result: ReadResult) -> Iterator[Sample]:
    """Yield a sample for each image of a row; a bad row is a sample that fails when it is read."""
    if isinstance(result, BadRecord):
        key = result.key or key_of(result.where)
        yield replace(_failing(key, result.reason), where=result.where)
        return
    for ref in result.images:
        key = result.key
        if len(result.images) > 1 and isinstance(ref.source, TarMember):  # `s0.left.jpg` and `s0.right.jpg`
            name = os.path.splitext(ref.source.name)[0].removeprefix("./")
            key = f"{key.partition('/')[0]}/{name}"
        yield replace(result, key=key, images=(ref,))
