"""`blip datasets`: list, fetch, check, count and convert data sets."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from blip.cli import options as o
from blip.cli.commands import COLUMNS, INPUT, OUTPUT, argument, command, group, option
from blip.cli.output import PLAIN_SECONDS, plural, print_lines, print_table, progress_bar
from blip_lite.errors import OfflineError, UsageError

if TYPE_CHECKING:
    from blip.data.known_datasets import DataSet, Fetched
    from blip.io.columns import Columns, ReadResult

Name = Annotated[str, argument("NAME", help="Data set.", complete=o.dataset_names)]
Names = Annotated[tuple[str, ...], argument("NAME...", help="Data sets.", complete=o.dataset_names)]
Specs = Annotated[
    tuple[str, ...],
    argument("SPEC...", help="Folder, tar shards, table or data set (coco, coco@val).", complete=o.dataset_names),
]


@dataclass(kw_only=True)
class SourceFlags:
    """Flags of reading rows."""

    group = COLUMNS
    roots: Annotated[
        tuple[Path, ...],
        option("--root", metavar="DIR", group=INPUT, help="Folder that image paths are relative to (repeatable)."),
    ] = ()
    image_column: o.ImageColumn = None
    text_column: o.TextColumn = None
    key_column: o.KeyColumn = None

    def resolve(self, specs: Sequence[str]) -> tuple[list[str], Columns, bool]:
        """Return the files that the arguments name, their columns, and whether their rows should have texts."""
        from blip.data.known_datasets import resolve_all
        from blip.io.columns import Columns

        names, roots, has_texts = resolve_all(specs, self.roots)
        return (
            names,
            Columns(roots=roots, image=self.image_column, text=self.text_column, key=self.key_column),
            has_texts,
        )


def list_sets(as_json: o.Json = False) -> int:
    """List the known data sets, and the folders of those you have."""
    from blip.data.known_datasets import ENTRIES

    records = [entry.to_dict() for entry in ENTRIES]
    if as_json:
        return _print_records(records)
    rows = [(record["name"], ",".join(record["splits"]), record["folder"] or "-", record["doc"]) for record in records]
    print_table(("name", "splits", "folder", "what"), rows)
    return 0


datasets = group(
    "datasets",
    "List, fetch, check and convert data sets; without a command, list them.",
    default=command(list_sets, "list"),
)


@datasets.subcommand("info")
def info(name: Name, as_json: o.Json = False) -> int:
    """Show the files, licence and folder layout of a data set."""
    from blip.data.known_datasets import find, remembered, tree

    dataset = find(name)
    record = dataset.to_dict()
    if as_json:
        return _print_records([record])
    print_lines(f"{key}\t{record[key]}" for key in ("name", "doc", "home", "licence", "folder") if record[key])
    rows = [(f.name, f.split or "-", f"{f.rows:,}" if f.rows else "-", f.schema, f.url) for f in dataset.files]
    print_table(("file", "split", "rows", "what", "url"), rows)
    print_lines(tree(dataset, remembered(name) or "DIR"))
    return 0


@datasets.subcommand("get")
def get(
    names: Names,
    only: Annotated[str | None, option(metavar="LIST", help="Only these splits or files, e.g. val,test.")] = None,
    to: Annotated[
        Path | None, option(metavar="DIR", group=OUTPUT, help="Folder.", default="that of an earlier get")
    ] = None,
    offline: o.OfflineOrOnline = None,
    quiet: o.Quiet = False,
) -> int:
    """Download the annotation files of data sets.

    Later commands find them by the name of the data set. Images are not downloaded; the expected folder layout is
    printed. The SHA-256 of each file is stored next to it and checked when the file is requested again.
    """
    from blip.data import known_datasets

    failed = False
    for dataset in [known_datasets.find(name) for name in names]:
        folder = to or known_datasets.remembered(dataset.name)
        if folder is None:
            raise UsageError(f"no folder for '{dataset.name}'; give --to DIR")
        files = known_datasets.chosen_files(dataset, [name.strip() for name in only.split(",")] if only else ())
        known_datasets.remember(dataset.name, folder)
        for fetched in known_datasets.obtain(files, folder, offline=offline, progress=progress_bar):
            failed = failed or bool(fetched.problem)
            _report_file(fetched, quiet)
        _report_images(dataset, folder, quiet)
    return 1 if failed else 0


@datasets.subcommand("check")
def check(
    specs: Specs,
    source: SourceFlags,
    decode: Annotated[
        bool, option("--decode/--no-decode", help="Only check that images exist, without decoding them.")
    ] = True,
    need_text: Annotated[bool, option("--need-text/--no-text", help="Allow rows without a text.")] = True,
    workers: o.Workers = None,
    quiet: o.Quiet = False,
) -> int:
    """Find missing and unreadable images, rows without text and duplicate rows.

    Prints `file: reason` lines and exits with 1 if there are any. Each image is decoded once, however often it occurs.
    Memory use is 8 bytes per row and image, so lists of any length can be checked.
    """
    from blip.data.check import Check

    names, columns, has_texts = source.resolve(specs)
    problems = Check(
        names=names,
        columns=columns,
        decode=decode,
        need_text=need_text and has_texts,
        workers=workers or o.default_workers(),
        tick=_ticker(quiet),
    )
    print_lines(problems)
    counts = (
        (problems.rows, "row"),
        (problems.images, "image"),
        (problems.texts, "text"),
        (problems.problems, "problem"),
    )
    o.note(", ".join(plural(number, noun) for number, noun in counts), quiet)
    return 1 if problems.problems else 0


@datasets.subcommand("stats")
def stats(
    specs: Specs,
    source: SourceFlags,
    sample: Annotated[int, option(min=0, help="Number of images whose size is read.")] = 500,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> int:
    """Count images, texts, words, image sizes, answers, labels and invalid rows."""
    from blip.data.stats import statistics

    counts = statistics(_read(specs, source, quiet), size_sample=sample)
    if as_json:
        return _print_records([counts])
    print_table(("what", "value"), [(name, _cell(value)) for name, value in counts.items()])
    return 0


@datasets.subcommand("answers")
def answers(
    specs: Specs,
    min_count: Annotated[int, option(min=1, help="Questions for which an answer must be the most common one.")] = 9,
    output: Annotated[
        Path | None,
        option("-o", "--output", metavar="FILE", group=OUTPUT, help="A .json file.", default="standard output"),
    ] = None,
    quiet: o.Quiet = False,
) -> int:
    """Make an answer list for ranking from VQA training data.

    The published list of 3,128 answers: blip datasets answers vqa@train+val -o answer_list.json
    """
    import json

    from blip.data.stats import answer_list
    from blip.io.atomic import write_text
    from blip.io.formats import require_ending

    output = o.file_or_stdout(output)
    if output is not None:
        require_ending(output, [".json"])
    if output is not None and output.exists():
        raise UsageError(f"{output} exists; remove it or choose another name")
    common = answer_list(_read(specs, SourceFlags(), quiet), min_count)
    if not common:
        raise UsageError(f"{', '.join(specs)}: no answer is most common for {min_count} questions; --min-count 1?")
    text = json.dumps(common, ensure_ascii=False) + "\n"
    if output is None:
        print(text, end="")
    else:
        write_text(output, text)
    o.note(plural(len(common), "answer"), quiet)
    return 0


@datasets.subcommand("convert")
def convert(
    *,
    specs: Specs,
    source: SourceFlags,
    skip_bad: o.SkipBad = False,
    output: Annotated[
        Path, option("-o", "--output", group=OUTPUT, help="Folder, .tar, .jsonl, .json, .csv, .tsv, .parquet.")
    ],
    shard_size: Annotated[int, option(min=1, group=OUTPUT, help="Samples per tar shard.")] = 1000,
    quiet: o.Quiet = False,
) -> int:
    """Write data as a folder, tar shards or a table.

    -o a.tar writes a-000000.tar, a-000001.tar, ... Rows keep their order, key, texts and other columns. A folder holds
    only images and texts, and merges rows of the same image. CSV has no types: numbers come back as texts. Existing
    files are never overwritten.
    """
    from blip.data.convert import convert as write

    names, columns, _ = source.resolve(specs)
    on_bad = (lambda error: o.note(str(error))) if skip_bad else None
    converted = write(names, columns, output, shard_size=shard_size, on_bad=on_bad)
    print_lines(str(path) for path in converted.paths)
    if converted.dropped:
        o.note(f"columns left out, which a folder cannot store: {', '.join(converted.dropped)}", quiet)
    o.note(f"{plural(converted.rows, 'row')} written, {plural(converted.skipped, 'invalid row')} left out", quiet)
    return 1 if converted.skipped else 0


@datasets.subcommand("fetch-images")
def fetch_images(
    *,
    lists: Annotated[
        tuple[str, ...],
        argument("URLLIST...", help="Table or .txt of URLs, or a data set (ccs-filtered).", complete=o.dataset_names),
    ],
    url_column: Annotated[str, option(group=COLUMNS, help="Column of the URL.")] = "url",
    text_column: o.TextColumn = None,
    processes: Annotated[int | None, option(min=1, help="Number of processes.", default="the cores")] = None,
    runner: Annotated[str, option(metavar="COMMAND", help="Runs img2dataset: uvx, 'pipx run', or its path.")] = "uvx",
    output: Annotated[Path, option("-o", "--output", metavar="DIR", group=OUTPUT, help="Folder of the shards.")],
    image_size: Annotated[
        int, option(min=16, group=OUTPUT, help="Pixels of the shorter side; smaller images are kept.")
    ] = 384,
    offline: o.OfflineOrOnline = None,
    quiet: o.Quiet = False,
) -> int:
    """Download images from a list of URLs into tar shards with img2dataset.

    A second run resumes. img2dataset is not installed here: uvx (or --runner 'pipx run') runs it in an environment of
    its own. Sites that opt out by HTTP header are skipped. Prints the value for --data.
    """
    from blip.data import img2dataset
    from blip.data.known_datasets import url_lists
    from blip.io.fetch import is_offline, offline_reason
    from blip.io.formats import require_folder

    require_folder(output)
    if is_offline(offline):
        raise OfflineError(f"fetch-images downloads, and {offline_reason()}; run it without")
    img2dataset.find_runner(runner)  # before a long list is written
    paths = [path for name in lists for path in url_lists(name)]
    urls = img2dataset.write_list(paths, output, url_column, text_column)
    call = img2dataset.command(urls, runner=runner, image_size=image_size, processes=processes)
    o.note(f"{plural(urls.rows, 'URL')}, {plural(urls.bad, 'row')} without; {' '.join(call)}", quiet)
    img2dataset.run(call)
    shards = img2dataset.read_shards(output)
    print(shards.spec)
    for reason, count in sorted(shards.reasons.items(), key=lambda item: -item[1])[:5]:
        o.note(f"{count:,} failed: {reason}", quiet)
    failed = urls.rows - shards.images
    o.note(f"{plural(shards.images, 'image')} done, {failed:,} failed; use them with --data '{shards.spec}'", quiet)
    return 1 if failed else 0


def _read(specs: Sequence[str], source: SourceFlags, quiet: bool) -> Iterator[ReadResult]:
    """Read all rows; the count is reported now and then."""
    from blip.io import readers

    names, columns, _ = source.resolve(specs)
    tick = _ticker(quiet)
    for number, result in enumerate(result for name in names for result in readers.read(name, columns)):
        tick(number)
        yield result


def _report_file(fetched: Fetched, quiet: bool) -> None:
    """Print the path of a downloaded file, or note what to do about a missing one."""
    if not fetched.problem:
        print(fetched.path)
        if fetched.note:
            o.note(f"{fetched.file.name}: {fetched.note}", quiet)
        return
    url = "" if fetched.file.url in fetched.problem else f" ({fetched.file.url})"
    o.note(f"{fetched.file.name}: {fetched.problem}{url}; or put a copy of your own at {fetched.path}")


def _report_images(dataset: DataSet, folder: Path, quiet: bool) -> None:
    """Note missing images and the expected folders."""
    from blip.data.known_datasets import URLS, tree

    if URLS in dataset.splits:
        o.note(f"images: blip datasets fetch-images {dataset.name} -o DIR", quiet)
    elif missing := [photos.folder for photos in dataset.photos if not (folder / photos.folder).is_dir()]:
        o.note(f"images you must fetch yourself: {', '.join(missing)}; the folder must look like this", quiet)
        for line in tree(dataset, folder):
            o.note(line, quiet)


def _print_records(records: Iterable[dict[str, Any]]) -> int:
    from blip.io.records import to_json

    print_lines(to_json(record) for record in records)
    return 0


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_cell(item)}" for name, item in value.items())
    return f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).split())


def _ticker(quiet: bool) -> Callable[[int], None]:
    """Return a function that notes the number of rows read, at most every PLAIN_SECONDS."""
    last = time.monotonic()

    def tick(rows: int) -> None:
        nonlocal last
        if not quiet and time.monotonic() - last > PLAIN_SECONDS:
            last = time.monotonic()
            o.note(f"{rows:,} rows")

    return tick
