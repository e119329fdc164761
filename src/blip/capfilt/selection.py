"""Select pairs of images and texts by their scores, without a model."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

from blip.capfilt.database import Database
from blip.capfilt.decide import Counts, Decision
from blip.capfilt.kept import kept_images
from blip.capfilt.outputs import NAME, Destination, Format, open_output
from blip.capfilt.record import KINDS, score_files
from blip.capfilt.rules import Duplicate, Keep, Rules, Score, Threshold, parse_threshold
from blip.capfilt.run import output_folder
from blip.capfilt.sources import ImageLocator, Row, columns_of_shards
from blip.io.atomic import temporary_folder, write_text
from blip.io.disk import writing
from blip.io.formats import require_folder
from blip.io.lock import exclusive
from blip_lite.errors import UnreadableImage, UsageError

SELECTION = "selection.json"
_FILES = rf"{NAME}(-\d{{5,}}\.tar|\.(json|jsonl|parquet))|{re.escape(SELECTION)}"  # names of all that is written
SHARD_SIZE, MEMORY = 10_000, "2GB"
Spec = str | os.PathLike[str]


@dataclass(frozen=True, kw_only=True)
class Selected:
    """Result: the files, and the counts as in `selection.json`; `failed` images could not be read.

    `record["missing_shards"]` is the number of shards that `run` has not scored yet.
    """

    files: tuple[Path, ...]
    record: dict[str, Any]
    failed: int


def select(
    scores: Spec | Sequence[Spec],
    output: Spec | None = None,
    *,
    threshold: float | str = 0.5,
    threshold_web: float | str | None = None,
    threshold_synthetic: float | str | None = None,
    score: Score = "itm",
    keep: Keep = "all",
    where: str | None = None,
    drop_duplicates: Sequence[Duplicate] = (),
    max_repeats: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    format: Format = "tar",
    shard_size: int = SHARD_SIZE,
    memory: str = MEMORY,
    threads: int | None = None,
    overwrite: bool = False,
    on_failure: Callable[[UnreadableImage], None] | None = None,
) -> Selected:
    """Write the images and texts of score files that pass the rules, and `selection.json` with all counts.

    scores: folders that `run` has written. output: folder, by default the first of `scores`. threshold: lowest score of
    a text that is kept, or the share of the best ones such as "30%". format: tar (`selected-00000.tar` and so on, with
    the images), or json, jsonl or parquet (`selected.json`, with paths of the images). memory: limit of the database;
    what exceeds it is stored in the output folder. threads: of the database, by default the cores. See `Rules` for the
    others. An image that cannot be read is left out and passed to `on_failure`.
    """
    options = dict(locals())
    rules = Rules(
        score=score,
        where=where,
        web=_threshold(threshold, threshold_web, score, "threshold_web"),
        synthetic=_threshold(threshold, threshold_synthetic, score, "threshold_synthetic"),
        keep=keep,
        drop_duplicates=tuple(drop_duplicates),
        max_repeats=max_repeats,
        limit=limit,
        seed=seed,
    )
    if format not in get_args(Format):
        raise UsageError(f"format {format}; must be one of {', '.join(get_args(Format))}")
    folders = [output_folder(Path(f)) for f in ([scores] if isinstance(scores, str | os.PathLike) else scores)]
    files = [file for folder in folders for file in score_files(folder.path)]
    if len(set(map(os.path.realpath, files))) < len(files):
        raise UsageError(f"{', '.join(str(folder.path) for folder in folders)}: name each folder of scores once")
    target = folders[0].path if output is None else Path(output)
    require_folder(target)
    with _replaced(target, overwrite) as part:
        work, results = part / "work", part / "files"
        with writing(target):
            work.mkdir()
            results.mkdir()
        with Database(work, files, memory=memory, threads=threads) as database:
            if where is not None:
                database.require_condition(where)
            decision = Decision(database, rules)
            failures = _Failures(on_failure)
            destination = Destination(results, target, ImageLocator(columns_of_shards(folders)), failures)
            with open_output(format, destination, shard_size) as writer:
                for images in kept_images(database, score):
                    writer.write(images)
        failures.subtract_from(decision.counts)
        if not decision.counts.kept_images:
            number = failures.images
            raise UsageError(f"none of the {number:,} selected images can be read; first: {failures.first}")
        names = sorted(path.name for path in results.iterdir())
        record = {
            "schema": "selection/1",
            "command": _command([folder.path for folder in folders], target, options),
            "version": version("blip-vlm"),
            "missing_shards": sum(not folder.is_done(unit) for folder in folders for unit in folder.units()),
            "thresholds": decision.thresholds,
            **_counts(decision.counts),
            "files": names,
        }
        write_text(results / SELECTION, json.dumps(record, ensure_ascii=False, indent=1) + "\n")
    return Selected(files=tuple(target / name for name in names), record=record, failed=failures.images)


def _threshold(shared: float | str, value: float | str | None, score: Score, name: str) -> Threshold:
    """Return the threshold of a kind, by default that of both kinds."""
    return parse_threshold(shared, score) if value is None else parse_threshold(value, score, name)


class _Failures:
    """Images that could not be read: reported one by one, counted, and taken from the kept ones at the end."""

    def __init__(self, on_failure: Callable[[UnreadableImage], None] | None) -> None:
        self._on_failure = on_failure
        self.images, self.texts = 0, Counter[str]()
        self.first: UnreadableImage | None = None

    def __call__(self, row: Row, reason: str) -> None:
        self.images += 1
        self.texts.update(row["kinds"])
        error = UnreadableImage(row["key"], reason)
        self.first = self.first or error
        if self._on_failure is not None:
            self._on_failure(error)

    def subtract_from(self, counts: Counts) -> None:
        if self.images:
            counts.kept_images -= self.images
            counts.dropped_images["unreadable"] = self.images
            counts.kept -= self.texts
            counts.dropped["unreadable"] = self.texts


def require_replaceable(output: Path, overwrite: bool) -> list[Path]:
    """Return the files of an earlier selection in a folder; `UsageError` if there are any, unless `overwrite`."""
    names = os.listdir(output) if output.is_dir() else []
    existing = [output / name for name in names if re.fullmatch(_FILES, name)]
    if existing and not overwrite:
        raise UsageError(f"{min(existing)} exists; choose another folder (-o) or give --overwrite")
    return existing


@contextmanager
def _replaced(output: Path, overwrite: bool) -> Iterator[Path]:
    """Yield a temporary folder in a locked output folder; its `files` replace those of an earlier selection."""
    with exclusive(output, folder=True):
        existing = require_replaceable(output, overwrite)
        with temporary_folder(output / NAME) as part:
            yield part
            with writing(output):
                # the record is removed first and appears last: a folder with it holds the complete selection
                for path in sorted(existing, key=lambda path: path.name != SELECTION):
                    path.unlink()
                for path in sorted((part / "files").iterdir(), key=lambda path: path.name == SELECTION):
                    os.replace(path, output / path.name)


def _counts(counts: Counts) -> dict[str, Any]:
    """Return the counts as in `selection.json`."""
    texts = {
        kind: {
            "total": counts.scored[kind],
            "kept": counts.kept[kind],
            "dropped": {rule: dropped[kind] for rule, dropped in counts.dropped.items()},
        }
        for kind in KINDS
    }
    images = {"total": counts.images, "kept": counts.kept_images, "dropped": dict(counts.dropped_images)}
    return {"rows": counts.rows, "images": images | {"failed": dict(counts.failed)}, "texts": texts}


def _command(folders: Sequence[Path], output: Path, options: Mapping[str, Any]) -> str:
    """Return the command line that repeats a selection, with the options that are not the defaults."""
    words = ["blip", "capfilt", "select", *map(str, folders), "-o", str(output)]
    for name, default in (select.__kwdefaults__ or {}).items():
        value = _flag_value(options[name])
        if name != "on_failure" and value != _flag_value(default):
            words += [f"--{name.replace('_', '-')}", *([] if options[name] is True else [value])]
    return shlex.join(words)


def _flag_value(value: object) -> str:
    """Return the value of an option as on the command line."""
    return ",".join(value) if isinstance(value, tuple | list) else str(value)
