"""`blip datasets`: known data sets, fetching their lists, checking, counting and converting data, fetching images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blip.cli import options as o
from blip.cli.output import lines, progress_bar, table

if TYPE_CHECKING:
    from blip.data.known_datasets import DataSet, Fetched
    from blip.io.readers import Columns, ReadResult
    from blip_lite.errors import BadRecord

app = typer.Typer(help="Known data sets: list, fetch, check, convert.", no_args_is_help=False)

Json = Annotated[bool, typer.Option("--json", help="One JSON record per line.")]
Offline = Annotated[bool | None, typer.Option("--offline/--online", help="Never open a socket.", show_default=False)]
Specs = Annotated[
    list[str],
    typer.Argument(
        metavar="SPEC...",
        help="A folder, tar shards (a-{00..05}.tar), .json .jsonl .csv .tsv .parquet, or a data set: coco, coco@val.",
    ),
]
Roots = Annotated[list[Path] | None, typer.Option("--root", help="Folder that a table's image paths are relative to.")]
Output = Annotated[Path, typer.Option("-o", "--output", help="What to write.")]


@app.callback(invoke_without_command=True)
def datasets(context: typer.Context, as_json: Json = False) -> None:
    """Known data sets: list, fetch, check, convert."""
    if context.invoked_subcommand is None:
        list_sets(as_json)


@app.command("list")
def list_sets(as_json: Json = False) -> None:
    """List the known data sets, and where yours lie."""
    from blip.data.known_datasets import ENTRIES

    if as_json:
        _print_records(_record(entry) for entry in ENTRIES)
        return
    rows = [(row["name"], ",".join(row["splits"]), row["folder"] or "-", row["doc"]) for row in map(_record, ENTRIES)]
    table(("name", "splits", "folder", "what"), rows)


@app.command("info")
def info(name: Annotated[str, typer.Argument(metavar="NAME", help="A data set.")], as_json: Json = False) -> None:
    """Show the files of a data set, what their rows are, its licence, and how its folder must look."""
    from blip.data.known_datasets import find, remembered, tree

    found = find(name)
    record = _record(found)
    if as_json:
        _print_records([record])
        return
    for key in ("name", "doc", "home", "licence", "folder"):
        if record[key]:
            lines([f"{key}\t{record[key]}"])
    rows = [(f.name, f.split or "-", f"{f.rows:,}" if f.rows else "-", f.schema, f.url) for f in found.files]
    table(("file", "split", "rows", "what", "url"), rows)
    lines(tree(found, remembered(name) or "DIR"))


@app.command("get")
def get(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Data sets.")],
    to: Annotated[Path | None, typer.Option("--to", help="Folder; default where the data set lies already.")] = None,
    only: Annotated[str | None, typer.Option(help="Splits or files: val,test.")] = None,
    offline: Offline = None,
    quiet: o.Quiet = False,
) -> None:
    """Download the lists of data sets; from then on their names stand for them.

    Images are not fetched: what belongs where is printed. The SHA-256 of each file is recorded beside it and checked
    when it is asked for again.
    """
    from blip.data import known_datasets
    from blip_lite.errors import UsageError

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
    if failed:
        raise typer.Exit(1)


@app.command("check")
def check(
    specs: Specs,
    roots: Roots = None,
    image_column: o.ImageColumn = "image",
    text_column: o.TextColumn = None,
    key_column: o.KeyColumn = None,
    decode: Annotated[bool, typer.Option(help="Decode every image, or only see whether files exist.")] = True,
    need_text: Annotated[bool, typer.Option("--need-text/--no-text", help="Whether rows must have a text.")] = True,
    workers: o.Workers = None,
    quiet: o.Quiet = False,
) -> None:
    """Look for missing and unreadable images, rows without text, and rows given twice. Exit 1 if there are any.

    Prints `file: reason` lines. Each image is decoded once however often it comes. Of each row and image 8 bytes are
    kept, so lists of any length can be checked.
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
        typer.echo(line)
    o.note(f"{one.rows:,} rows, {one.images:,} images, {one.texts:,} texts, {one.problems:,} problems", quiet)
    if one.problems:
        raise typer.Exit(1)


@app.command("stats")
def stats(
    specs: Specs,
    roots: Roots = None,
    image_column: o.ImageColumn = "image",
    text_column: o.TextColumn = None,
    key_column: o.KeyColumn = None,
    sample: Annotated[int, typer.Option(min=0, help="Images whose headers are read for their sizes.")] = 500,
    as_json: Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Count images, texts, words, image sizes; for VQA answers, for NLVR2 labels. Bad rows are counted, not told."""
    from blip.data.stats import statistics

    names, columns, _ = _source(specs, roots, image_column, text_column, key_column)
    counts = statistics(_reading(names, columns, quiet), size_sample=sample)
    if as_json:
        _print_records([counts])
        return
    table(("what", "value"), [(name, _cell(value)) for name, value in counts.items()])


@app.command("answers")
def answers(
    specs: Specs,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="A .json file; default standard output.")
    ] = None,
    min_count: Annotated[
        int, typer.Option(min=1, help="Questions that an answer must be the commonest one of; 9 as published.")
    ] = 9,
    quiet: o.Quiet = False,
) -> None:
    """Make the list of answers to rank from VQA training data.

    The published list of 3,128 was made so from train and val: blip datasets answers vqa@train+val -o answer_list.json
    """
    import json

    from blip.data.stats import answer_list
    from blip.io.atomic import write_text
    from blip_lite.errors import UsageError

    if output is not None and output.exists():
        raise UsageError(f"{output} exists; remove it or choose another name")
    names, columns, _ = _source(specs, None, "image", None, None)
    found = answer_list(_reading(names, columns, quiet), min_count)
    if not found:
        raise UsageError(f"{', '.join(specs)}: no answer is the commonest one of {min_count} questions; --min-count 1?")
    text = json.dumps(found, ensure_ascii=False) + "\n"
    if output is None:
        typer.echo(text, nl=False)
    else:
        write_text(output, text)
    o.note(f"{len(found):,} answers", quiet)


@app.command("convert")
def convert(
    specs: Specs,
    output: Output,
    roots: Roots = None,
    image_column: o.ImageColumn = "image",
    text_column: o.TextColumn = None,
    key_column: o.KeyColumn = None,
    shard_size: Annotated[int, typer.Option(min=1, help="Samples of a tar shard.")] = 1000,
    skip_bad: o.SkipBad = False,
    quiet: o.Quiet = False,
) -> None:
    """Write data in another form: a folder, tar shards (-o a.tar: a-000000.tar, ...), .jsonl .json .csv .tsv .parquet.

    Rows keep their order, key, texts and other columns. A folder holds images and texts alone; rows of one image
    become one there. Csv knows no types: numbers come back as texts. Nothing is overwritten.
    """
    from blip.data.convert import convert as write

    names, columns, _ = _source(specs, roots, image_column, text_column, key_column)
    done = write(names, columns, output, shard_size=shard_size, on_bad=_note_bad if skip_bad else None)
    lines(str(path) for path in done.paths)
    if done.dropped:
        o.note(f"left out, as a folder has no place for them: columns {', '.join(done.dropped)}", quiet)
    o.note(f"{done.rows:,} rows written, {done.skipped:,} bad ones left out", quiet)
    if done.skipped:
        raise typer.Exit(1)


@app.command("fetch-images")
def fetch_images(
    lists: Annotated[
        list[str],
        typer.Argument(metavar="URLLIST...", help=".json .jsonl .csv .tsv .parquet .txt, or a data set: ccs-filtered."),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the shards.")],
    url_column: Annotated[str, typer.Option(help="Column of the address.")] = "url",
    text_column: o.TextColumn = None,
    image_size: Annotated[int, typer.Option(min=16, help="Pixels of the shorter side; none is enlarged.")] = 384,
    processes: Annotated[int | None, typer.Option(min=1, help="Default: the cores.")] = None,
    runner: Annotated[str, typer.Option(help="What runs img2dataset in an environment of its own.")] = "uvx",
    offline: Offline = None,
    quiet: o.Quiet = False,
) -> None:
    """Download the images of a list of addresses into tar shards, by img2dataset. A second run goes on.

    img2dataset is not installed here: uvx (or --runner 'pipx run') runs it in an environment of its own. Sites that
    opt out by their headers are left alone. Prints what to give as --data.
    """
    from blip.data import img2dataset
    from blip.data.known_datasets import url_lists
    from blip.io.fetch import is_offline
    from blip_lite.errors import OfflineError

    if is_offline(offline):
        raise OfflineError("fetch-images downloads, and --offline is set; run it without")
    img2dataset.find_runner(runner)  # before a long list is written
    listed = img2dataset.write_list([path for one in lists for path in url_lists(one)], output, url_column, text_column)
    call = img2dataset.command(listed, runner=runner, image_size=image_size, processes=processes)
    o.note(f"{listed.rows:,} addresses, {listed.bad:,} rows without; {' '.join(call)}", quiet)
    img2dataset.run(call)
    shards = img2dataset.read_shards(output)
    typer.echo(shards.spec)
    for reason, count in sorted(shards.reasons.items(), key=lambda one: -one[1])[:5]:
        o.note(f"{count:,} failed: {reason}", quiet)
    failed = listed.rows - shards.images
    o.note(f"{shards.images:,} images done, {failed:,} failed; use them with --data '{shards.spec}'", quiet)
    if failed:
        raise typer.Exit(1)


def _source(
    specs: list[str], roots: list[Path] | None, image: str, text: str | None, key: str | None
) -> tuple[list[str], Columns, bool]:
    """The files that the arguments mean, their columns, and whether their rows should have texts."""
    from blip.data.known_datasets import named, resolve
    from blip.io.paths import expand_name
    from blip.io.readers import Columns
    from blip_lite.errors import UsageError

    names: list[str] = []
    found_roots = list(roots or [])
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
        typer.echo(str(fetched.path))
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

    lines(to_json(record) for record in records)


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
