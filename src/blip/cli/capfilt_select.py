"""`blip capfilt select`: decide by the scores, and write the pairs that are kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from blip.cli import options as o
from blip.cli.capfilt_options import DatabaseOptions, Folders, Thresholds
from blip.cli.commands import OUTPUT, option
from blip.cli.output import plural, print_table

if TYPE_CHECKING:
    from blip.capfilt.selection import Selected

Keep = Literal["all", "best", "best-per-kind"]
Format = Literal["tar", "json", "jsonl", "parquet"]


def select(
    *,
    scores: Folders,
    thresholds: Thresholds,
    where: Annotated[
        str | None, option(metavar="SQL", help="Condition on the columns, e.g. 'itc > 0.3 and width >= 256'.")
    ] = None,
    keep: Annotated[Keep, option(help="Texts of an image to keep: all, best or best-per-kind.")] = "all",
    drop_duplicates: Annotated[
        str | None,
        option(metavar="LIST", help="Keep one image per url, bytes or near (look), e.g. url,near."),
    ] = None,
    max_repeats: Annotated[int | None, option(min=1, help="Number of images that may have the same text.")] = None,
    limit: Annotated[int | None, option(min=1, help="Number of images: a random sample, human ones first.")] = None,
    seed: Annotated[int, option(help="Random seed of --limit.")] = 0,
    output: Annotated[
        Path | None, option("-o", "--output", metavar="DIR", group=OUTPUT, help="Folder.", default="the first OUT")
    ] = None,
    format: Annotated[
        Format, option(group=OUTPUT, help="tar (images), or json, jsonl or parquet (their paths).")
    ] = "tar",
    shard_size: Annotated[int, option(min=1, group=OUTPUT, help="Images per tar shard.")] = 10_000,
    overwrite: o.Overwrite = False,
    database: DatabaseOptions,
    quiet: o.Quiet = False,
) -> int:
    """Select pairs by their scores, without a model.

    Writes tar shards or a table, and selection.json with all counts.
    Human texts are always kept. Equal texts of one image are kept once. Results are the same on every run.
    Example: blip capfilt select clean/ --threshold-web 0.6 --keep best --format parquet -o strict/
    """
    from blip import capfilt

    selected = capfilt.select(
        scores,
        output,
        **vars(thresholds),
        **vars(database),
        where=where,
        keep=keep,
        drop_duplicates=_names(drop_duplicates),
        max_repeats=max_repeats,
        limit=limit,
        seed=seed,
        format=format,
        shard_size=shard_size,
        overwrite=overwrite,
        on_failure=lambda error: o.note(str(error)),
    )
    return report(selected, quiet)


def report(selected: Selected, quiet: bool) -> int:
    """Print what a selection kept of each kind, note what it dropped, and return the exit code."""
    texts, images = selected.record["texts"], selected.record["images"]
    rows = [(kind, *_share(count["kept"], count["total"])) for kind, count in texts.items() if count["total"]]
    print_table(("kind", "kept", "of", "share"), [("image", *_share(images["kept"], images["total"])), *rows])
    for rule in next(iter(texts.values()))["dropped"]:
        counts = {kind: count["dropped"][rule] for kind, count in texts.items()}
        if any(counts.values()):
            o.note(
                f"dropped by {rule}: {', '.join(f'{number:,} {kind}' for kind, number in counts.items() if number)}",
                quiet,
            )
    for reason, number in images["failed"].items():
        o.note(f"not scored: {plural(number, 'image')}: {reason}", quiet)
    if selected.failed:
        o.note(f"{plural(selected.failed, 'selected image')} could not be read and left out")
    if missing := selected.record["missing_shards"]:
        o.note(f"{plural(missing, 'shard')} not scored yet; the command that started the run continues it")
    return 1 if selected.failed or missing else 0


def _names(names: str | None) -> tuple[Any, ...]:
    return tuple(name.strip() for name in (names or "").split(",") if name.strip())


def _share(kept: int, total: int) -> tuple[str, str, str]:
    return f"{kept:,}", f"{total:,}", f"{kept / max(total, 1):.1%}"
