"""Video-text retrieval without training on videos (original: eval_retrieval_video.py; MSRVTT zero-shot)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from blip import inference
from blip.data.sources import Reading, SampleList, Source, Spec, open_source, warn_bad_rows
from blip.data.task_rows import merged_by_image
from blip.eval.base import Predictions, Report, Row, Tick, measure
from blip.eval.pairs import TokenStore
from blip.eval.photos import Photos
from blip.eval.retrieval import rank_queries, retrieval_report
from blip.io import table_reader
from blip.io.image import prepare
from blip.io.samples import ImageRef, Sample
from blip.io.video import Strategy, read_frames
from blip.model.blip import BlipModel
from blip.tokenizer import Tokenizer
from blip_lite.errors import BadRecord, UnreadableImage

TO_TEXT, TO_VIDEO = "video_to_text", "text_to_video"
VIDEO_COLUMNS = ("video", "clip_name", "image")


def open_clips(spec: Spec | Sequence[Spec], reading: Reading) -> SampleList:
    """Clips with their texts: a column `video` with a path, or MSRVTT's `clip_name`, whose file ends in .mp4."""
    names = [str(spec)] if isinstance(spec, str | PathLike) else [str(name) for name in spec]
    first = next(table_reader.rows(Path(names[0]), None), None)
    column = next((c for c in VIDEO_COLUMNS if first is not None and c in first.values), VIDEO_COLUMNS[0])
    found = open_source(names, root=reading.root, image_column=column, require_text=True, skip_bad=reading.skip_bad)
    warn_bad_rows(found.skipped)
    return SampleList([_as_clip(found[i], column) for i in range(len(found))], found.skipped)


def _as_clip(record: Sample, column: str) -> Sample:
    path = record.image.path
    if column != "clip_name" or path is None or path.suffix:
        return record
    return replace(record, images=(ImageRef(path.with_name(path.name + ".mp4")),))


@dataclass(frozen=True, kw_only=True)
class VideoEval:
    """Recalls in percent and the median rank from text to video; `video_to_text` is the other direction.

    frames: frames per clip. frame_sampling: "uniform" are those of the original, which leave out the end of a clip
    (blip-spec 7.17 k), "linspace" spreads them over all of it. A clip that cannot be decoded is a row with a reason.
    """

    frames: int = 8
    frame_sampling: Strategy = "uniform"
    k: int = 128
    max_length: int = 35
    max_words: int = 40

    name: ClassVar[str] = "video-retrieval"
    capability: ClassVar[str] = "match"

    def open(self, spec: Spec | Sequence[Spec], reading: Reading) -> Source:
        return open_clips(spec, reading)

    @torch.inference_mode()
    def predict(
        self, model: BlipModel, tokenizer: Tokenizer, source: Source, photos: Photos, tick: Tick | None = None
    ) -> list[Row]:
        """As `RetrievalEval.predict`; a clip is named by its key."""
        model.require("vision_proj")
        merged = merged_by_image(source)
        seen: list[Sample] = []
        features: list[Tensor] = []

        def encode(places: Sequence[int]) -> Tensor:
            return torch.cat([inference.embed_video(model, self._pixels(seen[i], model))[0] for i in places])

        store = TokenStore(encode)
        for i in range(len(merged)):
            try:
                pixels = self._pixels(merged[i], model)
            except UnreadableImage as error:
                photos.bad.append(BadRecord(merged[i].where or merged[i].key, str(error)))
                continue
            embeds, vector = inference.embed_video(model, pixels)
            store.add([len(seen)], embeds)
            features.append(vector)
            seen.append(merged[i])
        return rank_queries(
            model,
            tokenizer,
            seen,
            features,
            store,
            k=self.k,
            max_length=self.max_length,
            max_words=self.max_words,
            ways=(TO_TEXT, TO_VIDEO),
            tick=tick,
        )

    def _pixels(self, record: Sample, model: BlipModel) -> Tensor:
        """Frames of a clip [1, K, 3, S, S]; resized to a square like photos, as in the original."""
        path = record.image.path
        if path is None:
            raise UnreadableImage(record.key, "a clip must be a file")
        config, weight = model.config, model.vision.cls_token
        images = read_frames(path, self.frames, strategy=self.frame_sampling)
        pixels = prepare(images, size=config.vision.image_size, mean=config.image_mean, std=config.image_std)
        return pixels[None].to(weight.device, weight.dtype)

    def score(self, source: Source, predictions: Predictions) -> Report:
        merged = merged_by_image(source)
        said = {row["query"] for row in predictions if row["direction"] == TO_TEXT}
        records = [merged[i] for i in range(len(merged)) if merged[i].key in said]
        report = retrieval_report(records, predictions, (TO_TEXT, TO_VIDEO), (TO_TEXT, TO_VIDEO))
        ranks = [row["rank"] for row in report.rows if row["direction"] == TO_VIDEO]
        median = measure(ranks, lambda rows: float(np.median(rows[:, 0])), unit="rank", chance=(len(records) + 1) / 2)
        return replace(report, measures={**report.measures, f"{TO_VIDEO}_median_rank": median})
