"""Video-text retrieval without training on videos (original: eval_retrieval_video.py; MSRVTT zero-shot)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from blip import inference
from blip.data.sources import Reading, SampleList, Source, Spec, warn_bad_rows
from blip.data.task_rows import merged_by_image
from blip.eval.base import Predictions, Report, Row, Tick, measure
from blip.eval.photos import Photos
from blip.eval.predictions import RANKING, Form
from blip.eval.retrieval import Encoded, RankingOptions, rank_queries, recall_names, retrieval_report
from blip.io import table_reader
from blip.io.columns import Columns, find_column
from blip.io.image import prepare
from blip.io.row import Row as TableRow
from blip.io.samples import ImageRef, Sample
from blip.io.video import FrameSampling, read_frames
from blip.model.blip import BlipModel
from blip.tokenizer import Tokenizer
from blip_lite.errors import BadRecord, UnreadableImage, UsageError

TO_TEXT, TO_VIDEO = "video_to_text", "text_to_video"
VIDEO_COLUMNS = ("video", "clip_name", "image")


def open_clips(spec: Spec | Sequence[Spec], reading: Reading) -> SampleList:
    """Return the clips of tables with their texts, each table read once.

    A row has a path in column `video` or `image` (or `Reading.image`), relative to `Reading.root` or to the table, or
    MSRVTT's `clip_name`, a file name without .mp4. Raises BadRecord, or lists the row in `skipped` with skip_bad, and
    UsageError for files that are not tables and for tables without a usable row.
    """
    names = [Path(name) for name in ([spec] if isinstance(spec, str | PathLike) else spec)]
    roots = [Path(r) for r in ([reading.root] if isinstance(reading.root, str) else reading.root or ())]
    columns = Columns(text=reading.text, key=reading.key, need_text=True)
    samples: list[Sample] = []
    bad: list[BadRecord] = []
    for name in names:
        if name.suffix.lower() not in table_reader.EXTENSIONS:
            raise UsageError(f"{name}: clips are listed in a table ({' '.join(table_reader.EXTENSIONS)})")
        for row in table_reader.rows(name, None):
            try:
                samples.append(_clip(row, columns, reading.image, roots or [name.parent]))
            except BadRecord as error:
                if not reading.skip_bad:
                    raise
                bad.append(error)
    if not samples:
        first = f"; first of {len(bad)} bad rows: {bad[0]}" if bad else ""
        raise UsageError(f"{', '.join(map(str, names))}: holds no clips{first}")
    warn_bad_rows(bad)
    return SampleList(samples, bad)


def _clip(row: TableRow, columns: Columns, image: str | None, roots: Sequence[Path]) -> Sample:
    if row.problem is not None:
        raise BadRecord(row.where, row.problem)
    column = find_column([name for name, value in row.values.items() if isinstance(value, str)], image, VIDEO_COLUMNS)
    if column is None:
        allowed, present = image or ", ".join(VIDEO_COLUMNS), ", ".join(row.values) or "none"
        raise BadRecord(row.where, f"no clip in a column of {allowed}; columns are {present}")
    key = str(row.values[column])
    name = f"{key}.mp4" if column == "clip_name" and not Path(key).suffix else key
    path = next((root / name for root in roots if (root / name).exists()), roots[0] / name)
    return columns.sample(row.values, (ImageRef(path),), key, row.where, column=column)


@dataclass(frozen=True, kw_only=True)
class VideoEval:
    """Recalls in percent and the median rank from text to video; `video_to_text` is the other direction.

    frames: frames per clip. frame_sampling: "uniform" as the original, which leaves out the end of a clip (blip-spec
    7.17 k); "linspace" covers the whole clip. A clip that cannot be decoded is reported in `Report.failed`.
    """

    frames: int = 8
    frame_sampling: FrameSampling = "uniform"
    k: int = 128
    max_length: int = 35
    max_words: int = 40

    name: ClassVar[str] = "video-retrieval"
    capability: ClassVar[str] = "match"
    form: ClassVar[Form] = RANKING
    metric_names: ClassVar[tuple[str, ...]] = (*recall_names(TO_TEXT, TO_VIDEO), f"{TO_VIDEO}_median_rank")

    def open(self, spec: Spec | Sequence[Spec], reading: Reading) -> Source:
        return open_clips(spec, reading)

    @torch.inference_mode()
    def predict(
        self, model: BlipModel, tokenizer: Tokenizer, source: Source, photos: Photos, tick: Tick | None = None
    ) -> list[Row]:
        """Return rows like `RetrievalEval.predict`; a clip is named by its key."""
        merged = merged_by_image(source)

        def encode() -> Iterator[Encoded]:
            for i in range(len(merged)):
                try:
                    pixels = self._pixels(merged[i], model)
                except UnreadableImage as error:
                    photos.bad.append(BadRecord(merged[i].where or merged[i].key, str(error)))
                    continue
                yield Encoded([i], *inference.embed_video(model, pixels))

        def encode_again(samples: Sequence[Sample]) -> Tensor:
            return torch.cat([inference.embed_video(model, self._pixels(sample, model))[0] for sample in samples])

        options = RankingOptions(k=self.k, max_length=self.max_length, max_words=self.max_words)
        return rank_queries(model, tokenizer, merged, encode(), encode_again, options, (TO_TEXT, TO_VIDEO), tick)

    def _pixels(self, sample: Sample, model: BlipModel) -> Tensor:
        """Return the frames of a clip [1, K, 3, S, S], resized to a square like images, as in the original."""
        path = sample.image.path
        if path is None:
            raise UnreadableImage(sample.key, "a clip must be a file")
        config, weight = model.config, model.vision.cls_token
        images = read_frames(path, self.frames, frame_sampling=self.frame_sampling)
        pixels = prepare(images, size=config.vision.image_size, mean=config.image_mean, std=config.image_std)
        return pixels[None].to(weight.device, weight.dtype)

    def score(self, source: Source, predictions: Predictions, *, allow_missing: bool = False) -> Report:
        rows = self.form.parse(predictions)
        report = retrieval_report(source, rows, (TO_TEXT, TO_VIDEO), (TO_TEXT, TO_VIDEO), allow_missing=allow_missing)
        directions = [row["direction"] for row in report.rows]
        ranks = [row["rank"] for row in report.rows if row["direction"] == TO_VIDEO]
        chance = (directions.count(TO_TEXT) + 1) / 2
        median = measure(ranks, lambda rows: float(np.median(rows[:, 0])), unit="rank", chance=chance)
        return replace(report, measures={**report.measures, f"{TO_VIDEO}_median_rank": median})
