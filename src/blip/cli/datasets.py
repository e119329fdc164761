"""`blip datasets`: known data sets, fetching their lists, checking, counting and converting data, fetching images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from blip.cli import options as o
from blip.cli.commands import COLUMNS, INPUT, OUTPUT, argument, group, option
from blip.cli.output import print_lines, print_table, progress_bar
from blip_lite.errors import BadRecord, OfflineError, UsageError

if TYPE_CHECKING:
    from blip.data.known_datasets import DataSet, Fetched
    from blip.io.readers import Columns, ReadResult

Specs = Annotated[
    tuple[str, ...],
    argument("SPEC...", help="Folder, tar shards, table or data set (coco, coco@val).", complete=o.dataset_names),
]
Roots = Annotated[
    tuple[Path, ...],
    option("--root", metavar="DIR", group=INPUT, help="Folder that image paths are relative to (repeatable)."),
]


@group
def datasets(as_json: o.Json = False, debug: o.Debug = False) -> int:
    """List, fetch, check and convert data sets; without a command, list them."""
    return _list(as_json)


@datasets.subcommand("list")
def list_sets(as_json: o.Json = False, debug: o.Debug = False) -> int:
    """List the known data sets, and the folders of those you have."""
    return _list(as_json)


def _list(as_json: bool) -> int:
    from blip.data.known_datasets import ENTRIES

    if as_json:
        _print_records(_record(entry) for entry in ENTRIES)
        return 0
    rows = [(row["name"], ",".join(row["splits"]), row["folder"] or "-", row["doc"]) for row in map(_record, ENTRIES)]
    print_table(("name", "splits", "folder", "what"), rows)
    return 0


@datasets.subcommand("info")
def info(
    name: Annotated[str, argument("NAME", help="Data set.", complete=o.dataset_names)],
    as_json: o.Json = False,
    debug: o.Debug = False,
) -> int:
    """Show the files, licence and folder layout of a data set."""
    from blip.data.known_datasets import find, remembered, tree

    found = find(name)
    record = _record(found)
    if as_json:
        _print_records([record])
        return 0
    for key in ("name", "doc", "home", "licence", "folder"):
        if record[key]:
            print_lines([f"{key}\t{record[key]}"])
    rows = [(f.name, f.split or "-", f"{f.rows:,}" if f.rows else "-", f.schema, f.url) for f in found.files]
    print_table(("file", "split", "rows", "what", "url"), rows)
    print_lines(tree(found, remembered(name) or "DIR"))
    return 0


@datasets.subcommand("get")
def get(
    names: Annotated[tuple[str, ...], argument("NAME...", help="Data sets.", complete=o.dataset_names)],
    only: Annotated[str | None, option(metavar="LIST", help="Only these splits or files, e.g. val,test.")] = None,
    to: Annotated[
        Path | None, option(metavar="DIR", group=OUTPUT, help="Folder.", default="that of an earlier get")
    ] = None,
    offline: o.OfflineOrOnline = None,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> int:
    """Download the annotation files of data sets.

    Later commands find them by the name of the data set. Images are not downloaded; the expected folder layout is
    printed. The SHA-256 of each file is stored next to it and checked when the file is requested again.
    """
    from blip.data import known_datasets

    failed = 0
    for found in [known_datasets.find(name) for name in names]:
        folder = to or known_datasets.remembered(found.name)
        if folder is None:
            raise UsageError(f"no folder for '{found.name}'; give --to DIR")
        files = known_datasets.chosen_files(found, [one.strip() for one in only.split(",")] if only else ())
        known_datasets.remember(found.name, folder)
        for fetched in known_datasets.obtain(files, folder, offline=offline, progress=progress_bar):
            failed += bool(fetched.problem)
            _tell(fetched, quiet)
        _tell_images(found, folder, quiet)
    return 1 if failed else 0


@datasets.subcommand("check")
def check(
    specs: Specs,
    roots: Roots = (),
    image_column: o.ImageColumn = "image",
    text_column: o.TextColumn = None,
    key_column: o.KeyColumn = None,
    decode: Annotated[
        bool, option("--decode/--no-decode", help="Only check that images exist, without decoding them.")
    ] = True,
    need_text: Annotated[bool, option("--need-text/--no-text", help="Allow rows without a text.")] = True,
    workers: o.Workers = None,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> int:
    """Find missing and unreadable images, rows without text and duplicate rows.

    Prints `file: reason` lines and exits with 1 if there are any. Each image is decoded once, however often it occurs.
    Memory use is 8 bytes per row and image, so lists of any length can be checked.
    """
    from blip.data.check import Check

    names, columns, has_texts = _source(specs, roots, image_column, text_column, key_column)
    one = Check(
        names=names,
        columns=columns,
        decode=decode,
        need_text=need_text and has_texts,
        workers=workers or o.default_workers(),
        tick=_ticker(quiet),
    )
    for line in one:
        print(line)
    o.note(f"{one.rows:,} rows, {one.images:,} images, {one.texts:,} texts, {one.problems:,} problems", quiet)
    return 1 if one.problems else 0


@datasets.subcommand("stats")
def stats(
    specs: Specs,
    roots: Roots = (),
    image_column: o.ImageColumn = "image",
    text_column: o.TextColumn = None,
    key_column: o.KeyColumn = None,
    sample: Annotated[int, option(min=0, help="Number of images whose size is read.")] = 500,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> int:
    """Count images, texts, words, image sizes, answers, labels and invalid rows."""
    from blip.data.stats import statistics

    names, columns, _ = _source(specs, roots, image_column, text_column, key_column)
    counts = statistics(_reading(names, columns, quiet), size_sample=sample)
    if as_json:
        _print_records([counts])
        return 0
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
    debug: o.Debug = False,
) -> int:
    """Make an answer list for ranking from VQA training data.

    The published list of 3,128 answers: blip datasets answers vqa@train+val -o answer_list.json
    """
    import json

    from blip.data.stats import answer_list
    from blip.io.atomic import write_text

    if output is not None and output.exists():
        raise UsageError(f"{output} exists; remove it or choose another name")
    names, columns, _ = _source(specs, (), "image", None, None)
    found = answer_list(_reading(names, columns, quiet), min_count)
    if not found:
        raise UsageError(f"{', '.join(specs)}: no answer is the commonest one of {min_count} questions; --min-count 1?")
    text = json.dumps(found, ensure_ascii=False) + "\n"
    if output is None:
        print(text, end="")
    else:
        write_text(output, text)
    o.note(f"{len(found):,} answers", quiet)
    return 0


@datasets.subcommand("convert")
def convert(
    *,
    specs: Specs,
    roots: Roots = (),
    image_column: o.ImageColumn = "image",
    text_column: o.TextColumn = None,
    key_column: o.KeyColumn = None,
    skip_bad: o.SkipBad = False,
    output: Annotated[
        Path,
        option(
            "-o", "--output", metavar="PATH", group=OUTPUT, help="Folder, .tar, .jsonl, .json, .csv, .tsv, .parquet."
        ),
    ],
    shard_size: Annotated[int, option(min=1, group=OUTPUT, help="Samples per tar shard.")] = 1000,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> int:
    """Write data as a folder, tar shards or a table.

    -o a.tar writes a-000000.tar, a-000001.tar, ... Rows keep their order, key, texts and other columns. A folder holds
    only images and texts, and merges rows of the same image. CSV has no types: numbers come back as texts. Existing
    files are never overwritten.
    """
    from blip.data.convert import convert as write

    names, columns, _ = _source(specs, roots, image_column, text_column, key_column)
    done = write(names, columns, output, shard_size=shard_size, on_bad=_note_bad if skip_bad else None)
    print_lines(str(path) for path in done.paths)
    if done.dropped:
        o.note(f"left out, as a folder has no place for them: columns {', '.join(done.dropped)}", quiet)
    o.note(f"{done.rows:,} rows written, {done.skipped:,} bad ones left out", quiet)
    return 1 if done.skipped else 0


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
    runner: Annotated[str, option(metavar="COMMAND", help="Command that runs img2dataset: uvx or 'pipx run'.")] = "uvx",
    output: Annotated[Path, option("-o", "--output", metavar="DIR", group=OUTPUT, help="Folder of the shards.")],
    image_size: Annotated[
        int, option(min=16, group=OUTPUT, help="Pixels of the shorter side; smaller images are kept.")
    ] = 384,
    offline: o.OfflineOrOnline = None,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> int:
    """Download images from a list of URLs into tar shards with img2dataset.

    A second run resumes. img2dataset is not installed here: uvx (or --runner 'pipx run') runs it in an environment of
    its own. Sites that opt out by HTTP header are skipped. Prints the value for --data.
    """
    from blip.data import img2dataset
    from blip.data.known_datasets import url_lists
    from blip.io.fetch import is_offline

    if is_offline(offline):
        raise OfflineError("fetch-images downloads, and --offline is set; run it without")
    img2dataset.find_runner(runner)  # before a long list is written
    listed = img2dataset.write_list([path for one in lists for path in url_lists(one)], output, url_column, text_column)
    call = img2dataset.command(listed, runner=runner, image_size=image_size, processes=processes)
    o.note(f"{listed.rows:,} addresses, {listed.bad:,} rows without; {' '.join(call)}", quiet)
    img2dataset.run(call)
    shards = img2dataset.read_shards(output)
    print(shards.spec)
    for reason, count in sorted(shards.reasons.items(), key=lambda one: -one[1])[:5]:
        o.note(f"{count:,} failed: {reason}", quiet)
    failed = listed.rows - shards.images
    o.note(f"{shards.images:,} images done, {failed:,} failed; use them with --data '{shards.spec}'", quiet)
    return 1 if failed else 0


def _source(
    specs: Sequence[str], roots: Sequence[Path], image: str, text: str | None, key: str | None
) -> tuple[list[str], Columns, bool]:
    """The files that the arguments mean, their columns, and whether their rows should have texts."""
    from blip.data.known_datasets import named, resolve
    from blip.io.paths import expand_name
    from blip.io.readers import Columns

    names: list[str] = []
    found_roots = list(roots)
    known = [named(spec) for spec in specs]
    if clips := next((one for one in known if one is not None and one.has_videos), None):
        raise UsageError(f"data set '{clips.name}' holds videos; 'blip eval video-retrieval' reads them")
    for spec in specs:
        paths, root = resolve(spec)
        names += [name for path in paths for name in expand_name(path)]
        if not roots and any(known):  # a table of the user's own beside a data set: its images are relative to it
            found_roots.append(root or Path(spec).parent)
    columns = Columns(roots=tuple(dict.fromkeys(found_roots)), image=image, text=text, key=key)
    return names, columns, all(one is None or one.has_texts for one in known)


def _reading(names: list[str], columns: Columns, quiet: bool) -> Iterator[ReadResult]:
    from blip.io import readers

    tick = _ticker(quiet)
    for rows, one in enumerate(one for name in names for one in readers.read(name, columns)):
        tick(rows)
        yield one


def _record(entry: DataSet) -> dict[str, Any]:
    from blip.data.known_datasets import remembered

    folder = remembered(entry.name)
    return {
        "name": entry.name,
        "doc": entry.doc,
        "splits": list(entry.splits),
        "home": entry.home,
        "licence": entry.licence,
        "folder": str(folder) if folder else None,
        "image_root": entry.image_root,
        "files": [
            {"name": f.name, "split": f.split or None, "rows": f.rows, "schema": f.schema, "url": f.url}
            for f in entry.files
        ],
        "images": [{"folder": p.folder, "what": p.what, "where": p.where} for p in entry.photos],
    }


def _tell(fetched: Fetched, quiet: bool) -> None:
    """The path of a file that is here, or what to do about one that is not."""
    if not fetched.problem:
        print(fetched.path)
        if fetched.note:
            o.note(f"{fetched.file.name}: {fetched.note}", quiet)
        return
    own = "" if fetched.file.url in fetched.problem else f" ({fetched.file.url})"
    o.note(f"{fetched.file.name}: {fetched.problem}{own}; or put a copy of your own at {fetched.path}")


def _tell_images(found: DataSet, folder: Path, quiet: bool) -> None:
    from blip.data.known_datasets import URLS, tree

    if URLS in found.splits:
        o.note(f"images: blip datasets fetch-images {found.name} -o DIR", quiet)
    elif missing := [photos.folder for photos in found.photos if not (folder / photos.folder).is_dir()]:
        o.note(f"images you must fetch yourself: {', '.join(missing)}; the folder must look like this", quiet)
        for line in tree(found, folder):
            o.note(line, quiet)


def _note_bad(error: BadRecord) -> None:
    o.note(str(error))


def _print_records(records: Iterable[dict[str, Any]]) -> None:
    from blip.io.records import to_json

    print_lines(to_json(record) for record in records)


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_cell(one)}" for name, one in value.items())
    return f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).split())


def _ticker(quiet: bool) -> Callable[[int], None]:
    """Says on standard error now and then how many rows were read."""
    from blip.cli.batch_run import PLAIN_SECONDS

    last = time.monotonic()

    def tick(rows: int) -> None:
        nonlocal last
        if not quiet and time.monotonic() - last > PLAIN_SECONDS:
            last = time.monotonic()
            o.note(f"{rows:,} rows")

    return tick
