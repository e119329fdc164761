"""Samples of WebDataset shards. The key is everything before the first dot of the base name, the rest is the field."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from blip.io.byte_sources import TarMember
from blip.io.columns import TEXT_COLUMNS, Columns, Located, ReadResult
from blip.io.row import Position
from blip.io.samples import ImageRef
from blip.io.tar_files import TarEntry, tar_entries, tar_span
from blip_lite.errors import BadRecord, UsageError
from blip_lite.image import EXTENSIONS as IMAGE_EXTENSIONS
from blip_lite.text_files import decode_text, parse_json

MAX_TEXT_BYTES = 1 << 20  # of a text member of a shard
EXTENSIONS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")  # compressed ones are refused with a reason
_TEXT_ENDINGS = (".txt", ".json")


def _has_image_extension(name: str) -> bool:
    return name.lower().endswith(IMAGE_EXTENSIONS)


def shard(path: Path, columns: Columns, is_image: Callable[[str], bool] = _has_image_extension) -> Iterator[ReadResult]:
    """Yield the samples of a WebDataset tar: consecutive members of one key, images with `.json` or `.txt`.

    The key is everything before the first dot of the base name, the rest is the field. The fields `jpg` and `txt` are
    used rather than `seg.png` or `alt.txt`, those only if there is no other. `is_image` decides by a member's name.
    """
    for _, result in located(path, columns, is_image):
        yield result


def located(path: Path, columns: Columns, is_image: Callable[[str], bool] = _has_image_extension) -> Iterator[Located]:
    """Yield the samples of `shard` with their positions."""
    reader = _ShardReader(path, columns, is_image)
    key, entries = "", dict[str, TarEntry]()
    any_read = False
    try:
        for entry in tar_entries(path):
            any_read = True
            split = reader.split(entry.member.name)
            if split is None:
                continue
            if entries and (split[0] != key or split[1] in entries):
                yield from reader.located(key, entries)
                entries = {}
            key = split[0]
            entries[split[1]] = entry
    except UsageError as error:
        if not any_read:
            raise
        if not columns.strict:
            yield from reader.located(key, entries)
        reason = str(error).removeprefix(f"{path}: ")
        yield None, BadRecord(str(path), f"{reason}; its last sample '{key}' may be incomplete" if entries else reason)
        return
    yield from reader.located(key, entries)


def sample_at(path: Path, position: Position, columns: Columns) -> ReadResult:
    """Return the sample at a position that `located` has yielded. Raises `UsageError` if the tar has changed."""
    reader = _ShardReader(path, columns, _has_image_extension)
    splits = [(reader.split(member.name), member) for member in tar_span(path, position.offset, position.size)]
    members = {split[1]: member for split, member in splits if split is not None}
    keys = {split[0] for split, _ in splits if split is not None}
    for result in reader.samples("".join(keys), members) if len(keys) == 1 else ():
        return result
    raise UsageError(f"{path}: has changed while it was in use (no sample at byte {position.offset:,})")


class _ShardReader:
    """Splits member names into key and field, and makes a sample of the members of one key."""

    def __init__(self, path: Path, columns: Columns, is_image: Callable[[str], bool]) -> None:
        self.path, self.is_image = path, is_image
        image = f".{(columns.image or '').lower()}"
        text = f".{(columns.text or '').lower()}"
        self.image_ending = image if image.endswith(IMAGE_EXTENSIONS) else None
        self.text_ending = text if text.endswith(_TEXT_ENDINGS) else None
        self.columns = columns if self.text_ending is None else replace(columns, text=None, need_text=True)

    def split(self, name: str) -> tuple[str, str] | None:
        """Return key and field of a member, or None if it belongs to no sample (hidden, `._` files of macOS)."""
        name = name.removeprefix("./")
        base = name.rpartition("/")[2]
        chosen = [ending for ending in (self.image_ending, self.text_ending) if ending is not None]
        for ending in chosen:
            if base.lower().endswith(ending) and not base.startswith("."):
                return name[: -len(ending)], ending[1:]
        stem, dot, field = base.partition(".")
        if not (stem and dot and field) or len(chosen) == 2:
            return None
        return name[: len(name) - len(base) + len(stem)], field.lower()

    def located(self, key: str, entries: Mapping[str, TarEntry]) -> Iterator[Located]:
        """Yield the sample of the members of one key with its position."""
        for result in self.samples(key, {field: entry.member for field, entry in entries.items()}):
            start = next(iter(entries.values())).start
            yield Position(start, max(entry.end for entry in entries.values()) - start), result

    def samples(self, key: str, members: Mapping[str, TarMember]) -> Iterator[ReadResult]:
        where = f"{self.path}/{key}"
        images = self._choose(members, self.image_ending, lambda member: self.is_image(member.name))
        texts = self._choose(members, self.text_ending, lambda member: member.name.lower().endswith(_TEXT_ENDINGS))
        try:
            if images:
                values = self._values(images, texts, where)
                refs = tuple(ImageRef(member) for member in images.values())
                yield self.columns.sample(values, refs, f"{self.path.name}/{key}", where, column="image")
            elif texts and self.columns.strict:
                raise BadRecord(where, f"no image beside {next(iter(texts.values())).name}")
        except BadRecord as error:
            yield error

    def _choose(
        self, members: Mapping[str, TarMember], ending: str | None, test: Callable[[TarMember], bool]
    ) -> dict[str, TarMember]:
        """Return the members of the chosen ending, else those of one-part fields, else those of longer ones."""
        if ending is not None:
            return {field: member for field, member in members.items() if f".{field}" == ending}
        fitting = {field: member for field, member in members.items() if test(member)}
        return {field: member for field, member in fitting.items() if "." not in field} or fitting

    def _values(self, images: Mapping[str, TarMember], texts: Mapping[str, TarMember], where: str) -> dict[str, Any]:
        """Return the columns that the text members hold. Raises `BadRecord`."""
        named = {field: member for field, member in texts.items() if field.split(".")[0] in TEXT_COLUMNS}
        lists = {field: member for field, member in (named or texts).items() if field.endswith("txt")}
        objects = {field: member for field, member in texts.items() if field.endswith("json")}
        values: dict[str, Any] = {}
        try:
            if len(images) > 1 and max(len(lists), len(objects)) > 1:
                raise BadRecord(
                    where,
                    f"several images ({', '.join(images)}) and texts ({', '.join(texts)}) have this key; "
                    "name their endings with --image-column and --text-column, such as jpg and txt",
                )
            for field, member in texts.items():
                if field in lists or field in objects:
                    values |= _sidecar(member, where)
        except BadRecord:
            if self.columns.strict:
                raise
        return values


def _sidecar(member: TarMember, where: str) -> dict[str, Any]:
    """Return the columns that a `.txt` or `.json` member holds. Raises `BadRecord`."""
    if member.size > MAX_TEXT_BYTES:
        raise BadRecord(where, f"{member.name}: text of {member.size:,} bytes; at most {MAX_TEXT_BYTES:,} are read")
    try:
        text = decode_text(member.read())
        values = parse_json(text) if member.name.lower().endswith(".json") else {"texts": _lines(text)}
    except ValueError as error:  # UnicodeDecodeError, JSONDecodeError, UnreadableImage
        raise BadRecord(where, f"{member.name}: {error}") from error
    if not isinstance(values, dict):
        raise BadRecord(where, f"{member.name}: not a JSON object but {type(values).__name__}")
    return values


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]
