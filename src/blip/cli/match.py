"""`blip match`: how well texts fit images."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blip.cli import options as o

if TYPE_CHECKING:
    from blip.api import Model
    from blip.io.inputs import Input


def match(
    inputs: o.Inputs = None,
    text: Annotated[list[str] | None, typer.Option("-t", "--text", help="A text; may be given again.")] = None,
    texts: Annotated[Path | None, typer.Option(help="A file of texts, one a line.")] = None,
    model: o.ModelName = None,
    head: Annotated[str, typer.Option(help="itm (chance of a match), itc (cosine) or both.")] = "both",
    sort: Annotated[bool, typer.Option("--sort", help="Best text first.")] = False,
    top: Annotated[int | None, typer.Option(min=1, help="Only the best so many texts of each image.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Only pairs with itm at least this.")] = None,
    max_text_length: Annotated[int, typer.Option(min=3, help="Ids of a text.")] = 35,
    output: o.Output = None,
    format: o.Format = None,
    json: o.AsJson = False,
    existing: o.Existing = None,
    device: o.Device = "auto",
    dtype: o.DType = "auto",
    threads: o.Threads = None,
    offline: o.Offline = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> int:
    """Score texts: itm is a probability, itc a cosine in [-1, 1]. Example: blip match cat.jpg -t 'a cat'"""
    from blip.errors import UnreadableImage, UsageError
    from blip.io.records import error_record, must_write, open_records

    lines = [*(text or []), *(_lines(texts) if texts else [])]
    if head not in ("itm", "itc", "both"):
        raise UsageError(f"--head {head}; must be itm, itc or both")
    if not lines:
        raise UsageError("no texts; give -t TEXT or --texts FILE")
    found = o.list_inputs(inputs, offline=offline)
    if not must_write(output, existing=existing or "error"):  # type: ignore[arg-type]
        return 0
    loaded = o.load_model(model, device=device, dtype=dtype, threads=threads, offline=offline, quiet=quiet)
    loaded.require("match")
    failed = 0
    with open_records(
        output,
        schema="match/1",
        stream=sys.stdout,
        format="jsonl" if json else format,
        existing=existing or "error",  # type: ignore[arg-type]
    ) as records:
        for one in found:
            try:
                rows = _rows(loaded, one, lines, head, max_text_length)
            except UnreadableImage as error:
                failed += 1
                o.note(str(error))
                records.write([error_record("match/1", one.key, error)])
                continue
            if threshold is not None:
                rows = [row for row in rows if (row["itm"] or 0.0) >= threshold]
            if sort or top:
                rows.sort(key=lambda row: -(row["itm"] if row["itm"] is not None else row["itc"]))
            records.write(rows[:top])
    return 1 if failed else 0


def _lines(path: Path) -> list[str]:
    from blip.errors import UsageError

    if not path.is_file():
        raise UsageError(f"--texts {path}; no such file")
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _rows(model: Model, one: Input, texts: list[str], head: str, max_length: int) -> list[dict[str, Any]]:
    scores = model.match(one.read(), texts, head=head, max_text_length=max_length)  # type: ignore[arg-type]
    return [
        {
            "schema": "match/1", "key": one.key, "text": text, "text_index": i,
            "itm": None if scores.itm is None else float(scores.itm[0, i]),
            "itc": None if scores.itc is None else float(scores.itc[0, i]), "model": model.name,
        }
        for i, text in enumerate(texts)
    ]  # fmt: skip
