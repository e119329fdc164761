"""The tool under test: captions and scores of the web photos, selection, and the quality of the filter's verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from blip import inference
from blip.checkpoint.load import load
from blip.data.sources import open_source
from blip.io.atomic import atomic_path
from blip.runtime import mixed_bits
from blip_lite.decoding import Beam, Decoding, Nucleus
from blip_lite.tokenizer import clean_caption
from experiments.capfilt.data import CachedPhotos, Files, write_rows

DONE, SELECTED = Path("scores/web.parquet"), "selected.jsonl"
NUCLEUS, BEAM = Nucleus(), Beam(num_beams=3)


@torch.inference_mode()
def score(files: Files, captioner: Path, filter_: Path, decoding: Decoding, output: Path) -> None:
    writer, judge = load(captioner), load(filter_)
    source = open_source(files.pairs("web"))
    rows: list[dict[str, Any]] = []
    for numbers, grids in CachedPhotos(files).batches(source, judge.model):
        samples = [source[i] for i in numbers]
        seeds = [mixed_bits(0, i, 0) for i in numbers]
        written = inference.caption(
            writer.model, writer.tokenizer, writer.model.encode_image(grids), decoding, seeds=seeds
        )
        embeds = judge.model.encode_image(grids)
        texts = {"web": [s.texts[0] for s in samples], "synthetic": [best[0].text for best in written]}
        for kind, chosen in texts.items():
            cleaned = [clean_caption(text, 30) for text in chosen]
            matches = inference.match(judge.model, judge.tokenizer, embeds, cleaned, pairs=True)
            for s, text, itm, itc in zip(samples, chosen, matches.itm.tolist(), matches.itc.tolist(), strict=True):
                rows.append(
                    {"image": s.image.name, "kind": kind, "text": text, "itm": itm, "itc": itc}
                    | {name: s.fields[name] for name in ("noise", "true")}
                )
    with atomic_path(output / DONE) as part:
        pq.write_table(pa.Table.from_pylist(rows), part)


def select(scores: Path, output: Path, threshold: float, where: str | None) -> None:
    table = pq.read_table(scores / DONE).to_pylist()
    write_rows(
        output / SELECTED,
        [
            {"image": row["image"], "caption": row["text"]}
            for row in table
            if row["itm"] >= threshold and (where is None or row["kind"] == "web")
        ],
    )
