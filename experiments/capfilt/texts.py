"""Quality of the texts that a run trains on: CIDEr against human captions of the photos that no run has seen."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

import pyarrow.parquet as pq

from blip.capfilt.record import SYNTHETIC, WEB, score_files
from blip.metrics.caption import Cider
from blip.metrics.ptb import tokenize
from blip_lite.tokenizer import clean_caption
from experiments.capfilt.corrupt import TRUE
from experiments.capfilt.data import MAX_WORDS, Files, read_rows
from experiments.capfilt.train import MAX_LENGTH

COLUMNS = ["image", "kind", "noise", "text", "itm"]


class TextQuality:
    """CIDEr of texts about the web photos.

    References are the photo's captions without the one that its pair is from.
    """

    def __init__(self, files: Files) -> None:
        given = {row["key"]: row["caption"] for row in read_rows(files.pairs("clean"))}
        references = {
            row["key"]: [
                tokenize(text) for text in row["captions"] if clean_caption(text, MAX_WORDS) != given[row["key"]]
            ]
            for row in read_rows(files.photos)
            if row["key"] in given
        }
        self.photos = {key: i for i, key in enumerate(key for key, texts in references.items() if texts)}
        self.cider = Cider([references[key] for key in self.photos])
        self.tiny = [(row["key"], row["caption"]) for row in _rows(files.pairs("tiny"))]

    def __call__(self, scores: Path, threshold: float) -> dict[str, float]:
        """Return the mean CIDEr of web and synthetic texts of score files, of all and of those that are kept."""
        rows = [row for path in score_files(scores) for row in pq.read_table(path, columns=COLUMNS).to_pylist()]
        texts = [(row, self.score(Path(row["image"]).stem, row["text"])) for row in rows]
        scored = [(row, score) for row, score in texts if score is not None]
        groups = {
            "true web texts": [score for row, score in scored if row["kind"] == WEB and row["noise"] == TRUE],
            "web texts": [score for row, score in scored if row["kind"] == WEB],
            "web texts, kept": [s for row, s in scored if row["kind"] == WEB and row["itm"] >= threshold],
            "synthetic texts": [score for row, score in scored if row["kind"] == SYNTHETIC],
            "synthetic texts, kept": [s for row, s in scored if row["kind"] == SYNTHETIC and row["itm"] >= threshold],
            "texts of `tiny`": [s for key, text in self.tiny if (s := self.score(key, text)) is not None],
        }
        return {name: mean(values) for name, values in groups.items() if values}

    def score(self, key: str, text: str) -> float | None:
        """Return the CIDEr of a text, cut to the length in training; None for a photo with one caption only."""
        photo = self.photos.get(key)
        return None if photo is None else self.cider.score(photo, tokenize(text)[:MAX_LENGTH])


def _rows(path: Path) -> list[dict[str, str]]:
    return read_rows(path) if path.exists() else []
