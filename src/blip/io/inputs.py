"""What the user named, as a list of inputs: files, folders, tar shards, manifests, URLs, a list on stdin, videos.

Listing opens folders, tables and the headers of shards and videos, never an image. Order: arguments as given,
folders in the byte order of relative paths.
"""

from __future__ import annotations

import itertools
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from PIL.Image import Image

from blip.io import manifests
from blip.io.byte_sources import ByteSource, MissingSource, TarMember, Url, tar_members
from blip_lite import image
from blip_lite.errors import OfflineError, UnreadableImage, UsageError

VIDEO_EXTENSIONS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".3gp")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")
_MAX_TEXT = 1 << 20  # bytes of a text beside an image in a shard


@dataclass(frozen=True, kw_only=True, slots=True)
class Input:
    """One image to be read. `fields` are the other columns of its manifest row or shard sample."""

    key: str
    source: Path | ByteSource
    fields: Mapping[str, Any] = field(default_factory=dict)

    def open(self) -> Path | bytes:
        """What `io.image.read` takes; fetches or extracts the bytes where there is no file."""
        if isinstance(self.source, Path):
            return self.source
        try:
            return self.source.read()
        except UnreadableImage as error:
            raise UnreadableImage(self.key, error.reason) from error

    def read(self, *, max_pixels: int = image.MAX_PIXELS) -> Image:
        """The picture; `UnreadableImage` names this input's key."""
        return image.read(self.open(), key=self.key, max_pixels=max_pixels)

    @property
    def path(self) -> Path | None:
        """The image file on disk, if it is one: sidecars go beside it."""
        return self.source if isinstance(self.source, Path) else None


@dataclass(frozen=True, kw_only=True, slots=True)
class ListOptions:
    """How to list; the fields are the flags of the same names."""

    recursive: bool = True
    hidden: bool = False
    globs: Sequence[str] = ()
    exts: Sequence[str] = ()
    root: Path | None = None
    null: bool = False  # lists are NUL separated
    stdin: BinaryIO | None = None
    url_timeout: float = 20.0
    offline: bool = False
    video: Callable[..., Iterable[Input]] | None = None  # frames of a video file: (path, key=key)

    @property
    def suffixes(self) -> tuple[str, ...]:
        return tuple("." + ext.lower().lstrip(".") for ext in self.exts) or image.EXTENSIONS

    def wants(self, relative: str) -> bool:
        """Extension and globs, for files that were found and not named."""
        return relative.lower().endswith(self.suffixes) and glob_allows(relative, self.globs)


def find_inputs(
    args: Sequence[str | os.PathLike[str]],
    *,
    from_file: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    shard: tuple[int, int] | None = None,
    **how: Any,
) -> list[Input]:
    """Every input that the arguments name; `how` are the fields of `ListOptions`.

    Duplicate keys get ` (2)` and a warning. `limit` cuts the list first, then `shard` (i, n) takes the inputs
    i, i+n, …, so the shards together are the whole list. A named file that is missing fails when it is read.
    Raises `UsageError` when nothing is found.
    """
    listing = ListOptions(**how)
    _check_slices(limit, shard)
    named = [os.fspath(arg) for arg in args]
    found = _from_args(named, listing)
    if from_file is not None:
        found = itertools.chain(found, _from_list(_list_bytes(from_file, listing), listing))
    inputs = list(itertools.islice(_unique(found), limit))
    if not inputs:
        raise UsageError(_nothing(named, from_file, listing))
    return inputs if shard is None else inputs[shard[0] :: shard[1]]


def expand_braces(text: str) -> list[str]:
    """`a-{08..10}.tar` to a-08.tar, a-09.tar, a-10.tar; `{x,y}` to both; several braces to all combinations."""
    match = _RANGE.search(text)
    if match is None:
        return [text]
    first, last, names = match.groups()
    if names is not None:
        middles = names.split(",")
    else:
        width = max(len(first), len(last)) if first[0] == "0" or last[0] == "0" else 0
        step = 1 if int(first) <= int(last) else -1
        middles = [str(i).zfill(width) for i in range(int(first), int(last) + step, step)]
    before, after = text[: match.start()], expand_braces(text[match.end() :])
    return [before + middle + rest for middle in middles for rest in after]


def glob_allows(relative: str, globs: Sequence[str]) -> bool:
    """As in ripgrep: the last pattern that matches the path or a folder above it decides; `!` excludes."""
    parts = PurePosixPath(relative).parts
    prefixes = ["/".join(parts[: i + 1]) for i in range(len(parts))]
    for pattern in reversed(globs):
        wanted = not pattern.startswith("!")
        rule = _glob_pattern(pattern.removeprefix("!"))
        if any(rule.fullmatch(prefix) for prefix in prefixes):
            return wanted
    return not any(not pattern.startswith("!") for pattern in globs)


def _glob_pattern(pattern: str) -> re.Pattern[str]:
    pattern = pattern if "/" in pattern else "**/" + pattern
    tokens = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", pattern.strip("/"))
    rule = "".join(
        tokens.get(p) or (p.replace("[!", "[^", 1) if re.fullmatch(r"\[.+\]", p) else re.escape(p)) for p in parts
    )
    try:
        return re.compile(rule, re.DOTALL)
    except re.error as error:
        raise UsageError(f"--glob '{pattern}': not a pattern ({error})") from error


def _check_slices(limit: int | None, shard: tuple[int, int] | None) -> None:
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit}; must be at least 1")
    if shard is not None and not 0 <= shard[0] < shard[1]:
        raise UsageError(f"--shard {shard[0]}/{shard[1]}; must be I/N with 0 <= I < N")


def _nothing(named: list[str], from_file: object, listing: ListOptions) -> str:
    if not named and from_file is None:
        return "no inputs given; name files, folders, shards, manifests, URLs or '-'"
    filters = f" and {' '.join(listing.globs)}" if listing.globs else ""
    where = ", ".join(named[:3]) + (", …" if len(named) > 3 else "") if named else str(from_file)
    tars = [a for a in named if os.path.isdir(a) and any(n.endswith(".tar") for n in os.listdir(a))]
    hint = f"; name the shards themselves: {tars[0].rstrip('/')}/*.tar" if tars else ""
    return f"no inputs found in {where}; looked for {' '.join(listing.suffixes)}{filters}{hint}"


def _unique(found: Iterable[Input]) -> Iterator[Input]:
    taken: set[str] = set()
    copies: dict[str, int] = {}
    for one in found:
        key = one.key
        if key in taken:
            number = copies.get(key, 1) + 1
            while f"{key} ({number})" in taken:
                number += 1
            copies[key] = number
            if len(copies) == 1 and number == 2:
                warnings.warn(f"{key}: listed more than once; later ones get ' (2)' and so on", stacklevel=3)
            one = replace(one, key=f"{key} ({number})")
        taken.add(one.key)
        yield one


def _from_args(named: Iterable[str], listing: ListOptions) -> Iterator[Input]:
    for arg in named:
        if arg == "-":
            if listing.stdin is None:
                raise UsageError("'-': there is no standard input to read the list from")
            yield from _from_list(listing.stdin.read(), listing)
        elif os.path.lexists(arg) or is_url(arg):
            yield from _from_name(arg, listing)
        else:
            for name in expand_braces(arg):
                yield from _from_name(name, listing)


def _list_bytes(path: str | os.PathLike[str], listing: ListOptions) -> bytes:
    if os.fspath(path) == "-" and listing.stdin is not None:
        return listing.stdin.read()
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"--from-file {os.fspath(path)}: cannot be read ({error.strerror or error})") from error


def _from_list(data: bytes, listing: ListOptions) -> Iterator[Input]:
    lines = data.split(b"\0") if listing.null else [line.removesuffix(b"\r") for line in data.split(b"\n")]
    for line in lines:
        if line:
            yield from _from_name(os.fsdecode(line), listing)


def is_url(name: str) -> bool:
    return name.lower().startswith(("http://", "https://"))


def _from_name(name: str, listing: ListOptions) -> Iterator[Input]:
    """Inputs of one existing or missing path, or of one URL."""
    suffix = os.path.splitext(name)[1].lower()
    if is_url(name):
        if listing.offline:
            raise OfflineError(f"{name}: a download is needed but --offline is set")
        yield Input(key=name, source=Url(name, timeout=listing.url_timeout))
    elif os.path.isdir(name):
        prefix = key_of(name).rstrip("/")
        for relative in walk(name, listing):
            yield from _from_file(f"{prefix}/{key_of(relative)}", Path(name, relative), listing)
    elif suffix == ".tar" or name.lower().endswith((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")):
        yield from _from_shard(name, listing)
    elif suffix in manifests.EXTENSIONS:
        yield from _from_manifest(name, listing)
    else:
        yield from _from_file(key_of(name), Path(name), listing)


def key_of(path: str) -> str:
    """A path as a key: `/` separators, valid Unicode."""
    text = os.fsencode(path).decode("utf-8", "replace")
    return text if os.sep == "/" else text.replace(os.sep, "/")


def walk(folder: str, listing: ListOptions) -> Iterator[str]:
    """Relative paths of the wanted files below a folder, in byte order. Links are followed, loops are not."""
    yield from _walk(folder, "", listing, frozenset())


def _walk(top: str, relative: str, listing: ListOptions, above: frozenset[str]) -> Iterator[str]:
    here = os.path.join(top, relative)
    try:
        with os.scandir(here) as scan:
            entries = [
                (entry.name, _holds(entry.is_dir), entry.is_symlink())
                for entry in scan
                if _holds(entry.is_dir) or _holds(entry.is_file) or entry.is_symlink()  # no pipe, which is waited for
            ]
    except OSError as error:
        warnings.warn(f"{key_of(here)}: folder skipped ({error.strerror or error})", stacklevel=4)
        return
    above |= {os.path.realpath(here)}
    for name, is_folder, is_link in sorted(entries, key=lambda e: os.fsencode(e[0]) + (b"/" if e[1] else b"")):
        path = os.path.join(relative, name)
        if name.startswith(".") and not listing.hidden:
            continue
        if not is_folder:
            if listing.wants(path.replace(os.sep, "/")):
                yield path
        elif listing.recursive and not (is_link and os.path.realpath(os.path.join(top, path)) in above):
            yield from _walk(top, path, listing, above)


def _holds(test: Callable[[], bool]) -> bool:
    """Links in a circle are neither file nor folder, and no reason to lose what lies beside them."""
    try:
        return test()
    except OSError:
        return False


def _from_shard(name: str, listing: ListOptions) -> Iterator[Input]:
    """Samples of a tar: images with the texts of the same name. Neighbours belong together, as in webdataset."""
    prefix = key_of(name)
    sample: list[TarMember] = []
    try:
        for member in tar_members(Path(name)):
            if sample and _stem(member.name) != _stem(sample[0].name):
                yield from _sample(prefix, sample, listing)
                sample = []
            sample.append(member)
    except UsageError as error:
        if not sample:
            raise
        yield from _sample(prefix, sample, listing)
        yield Input(key=prefix, source=MissingSource(prefix, str(error).removeprefix(f"{name}: ")))
        return
    yield from _sample(prefix, sample, listing)


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]


def _sample(prefix: str, members: list[TarMember], listing: ListOptions) -> Iterator[Input]:
    pictures = [m for m in members if listing.wants(m.name) and (listing.hidden or not _is_hidden(m.name))]
    fields: dict[str, Any] = {}
    for member in members if pictures else ():
        if member.size <= _MAX_TEXT and member.name.lower().endswith((".txt", ".json")):
            fields |= manifests.sample_fields(member.name, member.read())
    for member in pictures:
        yield Input(key=f"{prefix}/{_stem(member.name).removeprefix('./')}", source=member, fields=fields)


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") and part not in (".", "..") for part in name.split("/"))


def _from_manifest(name: str, listing: ListOptions) -> Iterator[Input]:
    path = Path(name)
    base = listing.root or path.parent
    for row in manifests.rows(path):
        where = key_of(row.where)
        fields = {k: v for k, v in row.values.items() if k not in ("image", "key")}
        value = row.values.get("image")
        if isinstance(value, manifests.ParquetCell):
            yield Input(key=str(row.values.get("key", where)), source=value, fields=fields)
        elif row.problem is None and isinstance(value, str) and value:
            key = str(row.values.get("key", value))
            problem = "a URL in a manifest is not fetched; give it as an argument or download it first"
            if is_url(value):
                yield Input(key=key, source=MissingSource(key, problem), fields=fields)
            else:
                yield from _from_file(key, base / value, listing, fields)
        else:
            key = str(row.values.get("key", where))
            yield Input(key=key, source=MissingSource(key, row.problem or "row has no 'image'"), fields=fields)


def _from_file(key: str, path: Path, listing: ListOptions, fields: Mapping[str, Any] | None = None) -> Iterator[Input]:
    """An image, or the frames of a video: one that was named, or looked for by its extension."""
    if path.suffix.lower() not in VIDEO_EXTENSIONS:
        yield Input(key=key, source=path, fields=fields or {})
    elif listing.video is None:
        raise UsageError(f"{key} is a video; only images are taken here")
    else:
        for frame in listing.video(path, key=key):
            yield replace(frame, fields=fields or {})
