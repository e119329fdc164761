"""Known data sets, listed in known_datasets.toml: annotation files, their URLs, folders of images. No torch.

Once fetched, a name can be used wherever data are given: `coco`, `coco@train+val` (splits), `coco:/folder`. The host
has refused downloads at times.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from blip.io import fetch, table_reader
from blip.io.atomic import write_text
from blip.io.paths import expand_name
from blip_lite.errors import BlipError, ConfigError, EnvironmentProblem, UsageError, did_you_mean
from blip_lite.text_files import load_json, read_text

HOST = "https://storage.googleapis.com/sfr-vision-language-research"
URLS = "urls"  # split of the lists that hold URLs instead of images


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """An annotation file. `path` is below HOST; without `split`: used for scoring; `rows` as published, if known."""

    path: str
    schema: str
    split: str = ""
    rows: int | None = None

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]

    @property
    def url(self) -> str:
        return f"{HOST}/{self.path}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Photos:
    """A folder of images (or clips) that users fetch themselves: its content and where to get it."""

    folder: str
    what: str
    where: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSet:
    """A data set. `image_root` is the folder, below the data set's own, that image paths are relative to."""

    name: str
    doc: str
    home: str
    licence: str
    files: tuple[File, ...]
    image_root: str = ""
    photos: tuple[Photos, ...] = ()
    has_texts: bool = True
    has_videos: bool = False

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(file.split for file in self.files if file.split))

    def to_dict(self) -> dict[str, Any]:
        """Return the record of `blip datasets --json`, with the folder that was recorded for the data set."""
        folder = remembered(self.name)
        return {
            "name": self.name,
            "doc": self.doc,
            "splits": list(self.splits),
            "home": self.home,
            "licence": self.licence,
            "folder": str(folder) if folder else None,
            "image_root": self.image_root,
            "files": [
                {"name": f.name, "split": f.split or None, "rows": f.rows, "schema": f.schema, "url": f.url}
                for f in self.files
            ],
            "images": [asdict(photos) for photos in self.photos],
        }


def _load() -> tuple[DataSet, ...]:
    tables = tomllib.loads(read_text(Path(__file__).with_suffix(".toml")))
    entries = []
    for name, table in tables.items():
        files = tuple(File(**file) for file in table.pop("files"))
        photos = tuple(Photos(**folder) for folder in table.pop("photos", ()))
        entries.append(DataSet(name=name, files=files, photos=photos, **table))
    return tuple(entries)


ENTRIES = _load()
BY_NAME = {entry.name: entry for entry in ENTRIES}

_SPEC = re.compile(r"([a-z0-9-]+)(?:@([\w+]+))?(?::(.+))?", re.DOTALL)


def find(name: str) -> DataSet:
    """Return the data set of a name. Raises `UsageError`."""
    if name not in BY_NAME:
        raise UsageError(f"unknown data set '{name}'{did_you_mean(name, BY_NAME)}; 'blip datasets' lists all")
    return BY_NAME[name]


def named(spec: str | os.PathLike[str]) -> DataSet | None:
    """Return the data set that a data argument names (`coco`, `coco@val`, `coco:/folder`), or None for a path."""
    match = _SPEC.fullmatch(os.fspath(spec))
    return BY_NAME.get(match[1]) if match else None


def resolve(spec: str | os.PathLike[str], split: str | None = None) -> tuple[list[str], Path | None]:
    """Return the files of a data argument and the folder of their images; other paths are returned unchanged.

    A split in the argument has precedence over `split`; without either, all splits. Several are joined by `+`. A name
    has precedence over a path: write ./coco for a folder of that name. Raises `UsageError`.
    """
    dataset = named(spec)
    if dataset is None:
        return [os.fspath(spec)], None
    if URLS in dataset.splits:
        raise UsageError(
            f"data set '{dataset.name}' lists URLs; 'blip datasets fetch-images {dataset.name} -o DIR' fetches the "
            "images and prints the data argument to use"
        )
    folder, own_split = _parse(dataset, spec)
    paths = split_files(dataset.name, own_split or split or "+".join(dataset.splits), folder)
    return [str(path) for path in paths], folder / dataset.image_root


def resolve_all(specs: Sequence[str], roots: Sequence[Path] = ()) -> tuple[list[str], tuple[Path, ...], bool]:
    """Return the files of several data arguments, their image folders, and whether their rows should have texts.

    Without `roots`, a table given next to a data set has its images in its own folder. Raises `UsageError`.
    """
    known = [named(spec) for spec in specs]
    if videos := next((dataset for dataset in known if dataset is not None and dataset.has_videos), None):
        raise UsageError(f"data set '{videos.name}' holds videos; 'blip eval video-retrieval' reads them")
    names: list[str] = []
    folders = list(roots)
    for spec in specs:
        paths, root = resolve(spec)
        names += [name for path in paths for name in expand_name(path)]
        if not roots and any(known):
            folders.append(root or Path(spec).parent)
    return names, tuple(dict.fromkeys(folders)), all(dataset is None or dataset.has_texts for dataset in known)


def url_lists(spec: str | os.PathLike[str]) -> list[str]:
    """Return the URL lists of an argument: those of a data set, or the path unchanged. Raises `UsageError`."""
    dataset = named(spec)
    if dataset is None or URLS not in dataset.splits:
        return [os.fspath(spec)]
    return [str(path) for path in split_files(dataset.name, URLS, _parse(dataset, spec)[0])]


def split_files(name: str, split: str, folder: str | os.PathLike[str]) -> list[Path]:
    """Return the files of one split, or of several joined by `+`. Raises `UsageError` for unknown or missing ones."""
    dataset = find(name)
    for part in split.split("+"):
        if part not in dataset.splits:
            raise UsageError(f"data set '{name}' has no split '{part}'; must be one of {', '.join(dataset.splits)}")
    parts = split.split("+")
    return [_existing(dataset, file, Path(folder)) for part in parts for file in dataset.files if file.split == part]


def side_file(spec: str | os.PathLike[str], file_name: str) -> Path:
    """Return a file of a data set that is not a split: ground truth, answer list. Raises `UsageError`."""
    dataset = named(spec)
    file = next((f for f in dataset.files if f.name == file_name), None) if dataset else None
    if dataset is None or file is None:
        raise UsageError(f"'{os.fspath(spec)}' has no file {file_name}; 'blip datasets info NAME' lists its files")
    return _existing(dataset, file, _parse(dataset, spec)[0])


def remember(name: str, folder: str | os.PathLike[str]) -> None:
    """Record that the files of the data set `name` are in `folder`."""
    folders = _remembered() | {find(name).name: os.path.abspath(folder)}
    write_text(_registry(), json.dumps(folders, indent=2, ensure_ascii=False) + "\n")


def remembered(name: str) -> Path | None:
    """Return the recorded folder of a data set, if there is one."""
    folder = _remembered().get(name)
    return Path(folder) if folder else None


def chosen_files(dataset: DataSet, only: Sequence[str] = ()) -> list[File]:
    """Return the files of the given splits or names, by default all. Raises `UsageError` for unknown ones."""
    for name in only:
        if all(name not in (file.split, file.name) for file in dataset.files):
            allowed = ", ".join((*dataset.splits, *(file.name for file in dataset.files)))
            raise UsageError(
                f"--only {name}: data set '{dataset.name}' has no such split or file; must be one of {allowed}"
            )
    return [file for file in dataset.files if not only or file.split in only or file.name in only]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """Outcome of one file: `problem` is the reason if it is missing, `note` adds information."""

    file: File
    path: Path
    problem: str = ""
    note: str = ""


def obtain(
    files: Sequence[File],
    folder: Path,
    *,
    offline: bool | None = None,
    progress: Callable[[str], fetch.Progress | None] | None = None,
) -> Iterator[Fetched]:
    """Download files that are missing; a failure does not stop the others.

    progress: returns the progress callback for a file name.
    """
    retries = fetch.RETRIES
    for file in files:
        path = folder / file.name
        existed = path.is_file()
        try:
            callback = progress(file.name) if progress is not None else None
            fetch.fetch(file.url, path, offline=offline, progress=callback, retries=retries)
            yield Fetched(file=file, path=path, note="" if existed else _describe_new(file, path))
        except BlipError as error:
            if isinstance(error.__cause__, OSError):  # of this disk, not of the network
                raise
            if isinstance(error, EnvironmentProblem):  # no connection: the other files are on the same host
                retries = 0
            yield Fetched(file=file, path=path, problem=str(error))


def _describe_new(file: File, path: Path) -> str:
    note = f"SHA-256 {(fetch.recorded_sha256(path) or '')[:12]}… is recorded beside it (none is published)"
    if file.rows is None:
        return note
    rows = sum(1 for _ in table_reader.rows(path, None))
    return note + (f", {rows:,} rows" if rows == file.rows else f"; {rows:,} rows, but {file.rows:,} were published")


def tree(dataset: DataSet, folder: str | os.PathLike[str]) -> list[str]:
    """Return the expected folder layout, one line per file or folder of images."""
    width = max(len(photos.folder) for photos in dataset.photos) + 3 if dataset.photos else 0
    entries = [file.name for file in dataset.files]
    entries += [f"{photos.folder + '/':<{width}}{photos.what}: {photos.where}" for photos in dataset.photos]
    marks = ["├── "] * (len(entries) - 1) + ["└── "]
    return [f"{os.fspath(folder).rstrip('/')}/", *(mark + entry for mark, entry in zip(marks, entries, strict=True))]


def _parse(dataset: DataSet, spec: str | os.PathLike[str]) -> tuple[Path, str | None]:
    """Return the folder of a data set and the splits in the argument. Raises `UsageError` if it is not fetched."""
    match = _SPEC.fullmatch(os.fspath(spec))
    split, folder = match.group(2, 3) if match else (None, None)
    path = Path(folder).expanduser() if folder else remembered(dataset.name)
    if path is None:
        hint = f" (write ./{dataset.name} for your folder of that name)" if os.path.exists(dataset.name) else ""
        raise UsageError(
            f"data set '{dataset.name}' is not fetched; 'blip datasets get {dataset.name} --to DIR' fetches it{hint}"
        )
    return path, split


def _existing(dataset: DataSet, file: File, folder: Path) -> Path:
    path = folder / file.name
    if not path.is_file():
        raise UsageError(f"{path}: no such file; 'blip datasets get {dataset.name} --to {folder}' fetches it")
    return path


def _registry() -> Path:
    return fetch.home_dir() / "datasets.json"


def _remembered() -> dict[str, str]:
    try:
        folders = load_json(_registry())
        return {str(name): str(folder) for name, folder in folders.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"{_registry()}: cannot be read ({error}); remove it") from error
