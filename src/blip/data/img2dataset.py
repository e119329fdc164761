"""Downloads of images by img2dataset, which runs in an environment of its own: its URL list and its shards.

img2dataset honours the opt-out headers of sites; nothing here disables that. It is not a dependency.
"""

from __future__ import annotations

import csv
import json
import os
import shlex
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blip.io import table_reader
from blip.io.atomic import atomic_path
from blip.io.columns import TEXT_COLUMNS
from blip.io.paths import is_url
from blip.io.row import Row
from blip.io.tar_files import tar_members
from blip_lite.errors import BadRecord, EnvironmentProblem, UsageError
from blip_lite.image import EXTENSIONS
from blip_lite.text_files import load_json, open_text

RUNNER, PROGRAM = "uvx", "img2dataset"
LIST_NAME = "urls.csv"
IMAGE_SIZE = 384  # pixels of the shorter side: the input size of captioning and retrieval


@dataclass(frozen=True, kw_only=True, slots=True)
class UrlList:
    """A written list: its rows, whether any has a text, and the number of rows without a URL."""

    path: Path
    rows: int
    has_texts: bool
    bad: int
    kept: tuple[str, ...] = ()  # further columns


@dataclass(frozen=True, kw_only=True, slots=True)
class Shards:
    """Content of a folder of shards. `spec` names all shards; `reasons` counts failed downloads by reason."""

    spec: str
    images: int
    reasons: dict[str, int]


def write_list(
    names: Sequence[str],
    folder: Path,
    url_column: str = "url",
    text_column: str | None = None,
    keep: Sequence[str] = (),
) -> UrlList:
    """Write `folder/urls.csv` with the columns url, caption and those to keep, from tables or .txt files.

    A .txt file has one URL per line. Rows are read and written one by one. Raises `UsageError` if there is no URL.
    """
    path = folder / LIST_NAME
    rows = bad = 0
    has_texts = False
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", errors="replace", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("url", "caption", *keep))
        for result in _urls(names, url_column, text_column, keep):
            if isinstance(result, BadRecord):
                bad += 1
                continue
            rows, has_texts = rows + 1, has_texts or bool(result[1])
            writer.writerow(result)
        if not rows:
            raise UsageError(f"{', '.join(names[:3])}: no URLs in column '{url_column}'")
    return UrlList(path=path, rows=rows, has_texts=has_texts, bad=bad, kept=tuple(keep))


def find_runner(runner: str = RUNNER) -> list[str]:
    """Return the words of the command that starts img2dataset. Raises `EnvironmentProblem` if it is not installed.

    runner: a command that runs Python tools in separate environments, or img2dataset itself, by name or path.
    """
    words = shlex.split(runner)
    if not words or shutil.which(words[0]) is None:
        raise EnvironmentProblem(
            f"{runner}: not installed; install uv (https://docs.astral.sh/uv/), or use --runner 'pipx run'"
        )
    return words if Path(words[-1]).stem == PROGRAM else [*words, PROGRAM]


def command(
    url_list: UrlList, *, runner: str = RUNNER, image_size: int = IMAGE_SIZE, processes: int | None = None
) -> list[str]:
    """Return the command line of img2dataset: shards beside the list, shorter sides of at most `image_size` pixels."""
    options = {
        "url_list": url_list.path,
        "input_format": "csv",
        "url_col": "url",
        **({"caption_col": "caption"} if url_list.has_texts else {}),
        **({"save_additional_columns": json.dumps(url_list.kept)} if url_list.kept else {}),
        "output_format": "webdataset",
        "output_folder": url_list.path.parent,
        "image_size": image_size,
        "resize_mode": "keep_ratio",
        "resize_only_if_bigger": True,
        "processes_count": processes or os.cpu_count() or 1,
    }
    return [*find_runner(runner), *(f"--{name}={value}" for name, value in options.items())]


def run(call: Sequence[str]) -> None:
    """Run img2dataset; its output goes to standard error. Raises `EnvironmentProblem` if it fails."""
    quiet = {"NO_ALBUMENTATIONS_UPDATE": "1", "WANDB_MODE": "disabled"}  # its libraries that contact servers
    done = subprocess.run(call, stdin=subprocess.DEVNULL, stdout=2, env=os.environ | quiet, check=False)
    if done.returncode:
        raise EnvironmentProblem(f"{call[0]}: img2dataset ended with {done.returncode}; its messages are above")


def read_shards(folder: Path) -> Shards:
    """Count the content of the shards in a folder. Raises `EnvironmentProblem` if there are none."""
    paths = sorted(folder.glob("[0-9]*.tar"))
    if not paths:
        raise EnvironmentProblem(f"{folder}: img2dataset wrote no shards; its messages are above")
    images = sum(m.name.lower().endswith(EXTENSIONS) for path in paths for m in tar_members(path))
    reasons: Counter[str] = Counter()
    for path in folder.glob("*_stats.json"):
        reasons.update(_failures(path))
    return Shards(spec=_brace(folder, [path.stem for path in paths]), images=images, reasons=dict(reasons))


def _urls(
    names: Sequence[str], url_column: str, text_column: str | None, keep: Sequence[str]
) -> Iterator[tuple[str, ...] | BadRecord]:
    for name in names:
        for row in _rows(name):
            url = row.values.get(url_column)
            if isinstance(url, str) and is_url(url):
                yield url, _text(row.values, text_column), *(_one_line(row.values.get(name)) for name in keep)
            else:
                yield BadRecord(row.where, row.problem or f"no URL in column '{url_column}'")


def _rows(name: str) -> Iterable[Row]:
    if name.lower().endswith(".txt"):
        return _lines(Path(name))
    if name.lower().endswith(table_reader.EXTENSIONS):
        return table_reader.rows(Path(name), None)
    raise UsageError(f"{name}: must be .txt or one of {' '.join(table_reader.EXTENSIONS)}")


def _lines(path: Path) -> Iterator[Row]:
    try:
        with open_text(path, errors="replace") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield Row(f"{path}:{number}", {"url": line.strip()})
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from error


def _text(values: dict[str, Any], column: str | None) -> str:
    """Return the first text on one line: img2dataset cannot read texts with line ends."""
    value = next((values[c] for c in ((column,) if column else TEXT_COLUMNS) if values.get(c)), "")
    first = value[0] if isinstance(value, list) else value
    return _one_line(first) if isinstance(first, str) else ""


def _one_line(value: Any) -> str:
    return "" if value is None else " ".join(str(value).split())


def _failures(path: Path) -> dict[str, int]:
    """Return reasons and counts of img2dataset's report of a shard; none if it cannot be read."""
    try:
        status = load_json(path)["status_dict"]
        return {str(reason): int(count) for reason, count in status.items() if reason != "success"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _brace(folder: Path, stems: Sequence[str]) -> str:
    """Return `folder/{00000..00012}.tar`, or all names if some are missing."""
    if len(stems) == 1:
        return f"{folder}/{stems[0]}.tar"
    whole = int(stems[-1]) - int(stems[0]) + 1 == len(stems)
    return f"{folder}/{{{f'{stems[0]}..{stems[-1]}' if whole else ','.join(stems)}}}.tar"
